//! A JSON pointer finds, and a value compares, without allocation: counted by a global allocator, per thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use eventstream::process::JsonPointer;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands everything to the system's allocator; the count is a plain thread-local cell without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `place` and `layout` is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn finding_and_comparing_allocate_nothing() {
    let deep = format!("{}{}", "{\"a\":[".repeat(50), "]}".repeat(50));
    let body = format!(r#"{{"deep":{deep},"k\u0065y":["x",{{"name":"a\u0062\n","val":-23.5e1}}],"rest":[1,2"#);
    let pointers = ["/key/1/name", "/key/1/val", "/deep", "/key/7", "/rest"].map(|text| JsonPointer::parse(text).unwrap());
    let before = ALLOCATIONS.get();
    let found = pointers.each_ref().map(|pointer| pointer.find(body.as_bytes()));
    let name = found[0].map(|value| (value.as_str(), value.cmp_text("ab\n")));
    let number = found[1].and_then(|value| value.as_f64());
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(name, Some((None, Some(std::cmp::Ordering::Equal))));
    assert_eq!(number, Some(-235.0));
    assert_eq!(found[2].map(|value| value.raw()), Some(deep.as_bytes()));
    assert_eq!((found[3], found[4]), (None, None), "an index beyond the end, and a body cut short");
}

//! The fuzz corpus, replayed: what a fuzzer once found stays found.

#[path = "fuzz/checks/frame.rs"]
mod frame;

#[test]
fn the_frame_corpus_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/frame");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus is committed") {
        let path = entry.expect("readable").path();
        let data = std::fs::read(&path).expect("readable");
        println!("{}", path.display()); // shown if the check panics
        frame::check(&data);
        replayed += 1;
    }
    assert!(replayed >= 20, "only {replayed} inputs in {folder}");
}

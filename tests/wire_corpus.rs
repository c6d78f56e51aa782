//! The fuzz corpora, replayed: what a fuzzer once found stays found.

#[path = "fuzz/checks/frame.rs"]
mod frame;
#[path = "fuzz/checks/session.rs"]
mod session;

/// Runs the check over every input of a corpus, of which there are at least `inputs_min`.
fn replay(name: &str, inputs_min: usize, check: impl Fn(&[u8])) {
    let folder = format!("{}/tests/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("readable").path();
        let data = std::fs::read(&path).expect("readable");
        println!("{}", path.display()); // shown if the check panics
        check(&data);
        replayed += 1;
    }
    assert!(replayed >= inputs_min, "only {replayed} inputs in {folder}");
}

#[test]
fn the_frame_corpus_holds() {
    replay("frame", 20, frame::check);
}

#[test]
fn the_session_corpus_holds() {
    replay("session", 20, session::check);
}

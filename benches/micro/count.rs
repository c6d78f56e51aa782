//! Instructions of a pass, counted by callgrind, which runs this program once more.
//!
//! ```text
//! this process: valgrind this-program --count ──► for each row:  a pass to warm up │ begin_row: zero │ a pass │ end_row: dump
//!                                                 only what is inside of `rig::measured` is counted ──► a file a row, in their order
//! ```

use std::fmt;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::rig::{self, Host, Row};

/// Tells this program that callgrind runs it.
pub const FLAG: &str = "--count";

/// Why there are no counts.
#[derive(Debug)]
pub enum CountRefusal {
    /// It could not be started.
    NoValgrind(io::Error),
    /// It ended with this on its standard error.
    Failed(String),
    /// It left other files than asked for.
    NoTotals(usize),
}

impl fmt::Display for CountRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "warning: instructions are not counted")?;
        match self {
            CountRefusal::NoValgrind(error) => writeln!(f, "cause: valgrind could not be started: {error}")?,
            CountRefusal::Failed(said) => writeln!(f, "cause: valgrind failed: {said}")?,
            CountRefusal::NoTotals(file) => writeln!(f, "cause: valgrind left no totals in its file {file}")?,
        }
        write!(f, "fix:   apt-get install valgrind (3.19 is known to do)")
    }
}

/// Callgrind's mark: counts begin at zero.
#[inline(never)]
fn begin_row() {
    black_box(0);
}

/// Callgrind's mark: counts go to a file.
#[inline(never)]
fn end_row() {
    black_box(1);
}

/// Under callgrind: a row's pass, once warm.
pub fn count(row: &Row, host: &Host) {
    let mut pass = (row.begin)(host);
    pass();
    begin_row();
    pass();
    end_row();
    rig::leave(pass);
}

/// Instructions an item of each row, `None` for those between cores; where they can't be counted that is said, loudly.
pub fn in_another_process(rows: &[Row], words: &[String]) -> Vec<Option<f64>> {
    let counts = count_all(rows, words).unwrap_or_else(|refusal| {
        eprintln!("{refusal}");
        vec![None; rows.len()]
    });
    assert_eq!(counts.len(), rows.len());
    counts
}

fn count_all(rows: &[Row], words: &[String]) -> Result<Vec<Option<f64>>, CountRefusal> {
    let folder = tempfile::tempdir().map_err(CountRefusal::NoValgrind)?;
    let files = folder.path().join("counts");
    let program = std::env::current_exe().map_err(CountRefusal::NoValgrind)?;
    let function = |flag: &str, name: &str| format!("--{flag}=*{name}*");
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--combine-dumps=no"])
        .arg(format!("--callgrind-out-file={}", files.display()))
        .arg(function("toggle-collect", "rig::measured"))
        .arg(function("zero-before", "count::begin_row"))
        .arg(function("dump-before", "count::end_row"))
        .arg(program)
        .arg(FLAG)
        .args(words)
        .stdout(Stdio::null())
        .output()
        .map_err(CountRefusal::NoValgrind)?;
    if !ran.status.success() {
        return Err(CountRefusal::Failed(String::from_utf8_lossy(&ran.stderr).trim().to_owned()));
    }
    let mut dumps = 1..;
    let mut instructions = |row: &Row| {
        let dump = dumps.next().expect("without end");
        let total = total_of(&files.with_extension(dump.to_string())).ok_or(CountRefusal::NoTotals(dump))?;
        Ok(total as f64 / row.items as f64)
    };
    rows.iter().map(|row| if row.cores == 1 { instructions(row).map(Some) } else { Ok(None) }).collect()
}

/// The sum in a file of callgrind's.
fn total_of(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

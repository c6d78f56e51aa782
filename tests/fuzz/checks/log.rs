//! What must hold for a log of any bytes at all, shared by the fuzz target and the replay of its corpus.
//!
//! An input is a small log: the segment header's 96 bytes, then what follows its block. It is read as it is, and once more with its checksums
//! made to fit: a fuzzer does not guess those, and what lies behind them is to be reached too.

use std::io;
use std::sync::Mutex;

use eventstream::storage::format::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, EPOCH_MAX, FIRST_BATCH_OFFSET, FOOTER_BYTES, FORMAT_VERSION, Footer, SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC,
};
use eventstream::storage::node_reader::verify;
use eventstream::storage::reader::{LogReader, ReadError};
use eventstream::storage::segments::{LogFault, SegmentFault};
use eventstream::storage::{LogFile, LogFolder, LogIdentity, OpenLog, SegmentOptions};
use eventstream::sys::clock::WallNanos;
use eventstream::sys::io::Fd;

/// Reads the log in every way there is, opens it, and opens it again.
///
/// # Panics
/// If the storage breaks a promise.
pub fn check(data: &[u8]) {
    let (header, rest) = data.split_at(data.len().min(SEGMENT_HEADER_BYTES));
    let mut log = header.to_vec();
    if !rest.is_empty() {
        log.resize(FIRST_BATCH_OFFSET as usize, 0);
        log.extend_from_slice(rest);
    }
    check_log(&log);
    make_fit(&mut log);
    check_log(&log);
}

fn check_log(log: &[u8]) {
    let folder = &Memory::with("events.bin", log);
    for sealed in [false, true] {
        read_to_the_end(folder.open("events.bin").expect("it is there"), sealed);
    }
    let report = verify(folder, 0);
    assert!(folder.has("events.bin", log), "reading changes nothing");

    let identity = LogIdentity { node: 0, log_id: 0x5eed, wall: WallNanos(7) };
    let opened = match OpenLog::open(folder, identity, options()) {
        Ok(opened) => opened,
        // Opened as often as the format allows: a torn tail was cut all the same.
        Err(SegmentFault { fault: LogFault::Io { .. }, .. }) => return,
        Err(_) => {
            let names = folder.list().expect("memory");
            assert!(names.iter().any(|name| folder.keeps(name, log)), "what is refused is left as it was");
            return;
        }
    };
    if let Ok(report) = report {
        assert!(report.is_whole(), "a log that opens has no damage: {:?}", report.damages);
        assert_eq!(report.end_sequence, opened.report().next_sequence, "a reader and the engine see the same records");
    }
    let (next, epoch, producers) = (opened.report().next_sequence, opened.epoch(), opened.producers().len());
    drop(opened);
    if epoch == EPOCH_MAX {
        return; // As often as the format allows.
    }
    let again = OpenLog::open(folder, identity, options()).expect("what was opened can be opened");
    assert_eq!(again.report().next_sequence, next, "recovery is done once");
    // Behind the end of a recycled file these bytes may stand for anything, also for a write that was torn.
    let is_recycled = log.get(60).is_some_and(|flags| flags & 1 == 1);
    assert!(is_recycled || again.report().cut_bytes == 0, "recovery is done once");
    assert_eq!((again.epoch(), again.producers().len()), (epoch + 1, producers));
}

fn options() -> SegmentOptions {
    SegmentOptions { direct: false, producers_max: 4, ..SegmentOptions::default() }
}

fn read_to_the_end(file: MemoryFile, sealed: bool) {
    let len = file.len().expect("memory");
    let Ok(mut reader) = (if sealed { LogReader::open_sealed(file) } else { LogReader::open(file) }) else { return };
    let mut least = reader.segment().first_sequence;
    for step in 0.. {
        assert!(step <= len, "it goes on at every step");
        match reader.next() {
            Ok(Some(record)) => {
                assert!(record.sequence >= least, "sequences rise");
                least = record.sequence + 1;
            }
            Ok(None) => break,
            Err(ReadError::Damaged(damage)) => {
                if let Some((offset, sequence)) = damage.resume {
                    assert!(offset >= damage.offset && sequence >= damage.first_lost);
                }
                if !reader.skip(&damage) {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(reader.valid_bytes() <= len.max(FIRST_BATCH_OFFSET));
}

/// Makes magic numbers, checksums, chain and sequences fit as far as lengths lead from batch to batch.
fn make_fit(log: &mut [u8]) {
    if log.len() < FIRST_BATCH_OFFSET as usize {
        return;
    }
    log[..8].copy_from_slice(&SEGMENT_MAGIC);
    log[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    log[10..12].copy_from_slice(&(SEGMENT_HEADER_BYTES as u16).to_le_bytes());
    log[12..16].fill(0);
    log[44..48].copy_from_slice(&(FIRST_BATCH_OFFSET as u32).to_le_bytes());
    log[72..92].fill(0);
    let crc = crc32c::crc32c(&log[..92]);
    log[92..96].copy_from_slice(&crc.to_le_bytes());
    let word = |log: &[u8], at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("eight bytes"));
    let (log_id, mut sequence) = (word(log, 16), word(log, 32));
    let key = (log_id ^ (log_id >> 32)) as u32;
    let mut chain = u32::from_le_bytes(log[56..60].try_into().expect("four bytes"));
    let mut at = FIRST_BATCH_OFFSET as usize;
    while at + BATCH_HEADER_BYTES <= log.len() {
        let lengths = word(log, at + 8);
        let (payload, records) = ((lengths & ((1 << 26) - 1)) as usize, lengths >> 26 & ((1 << 22) - 1));
        let end = at + BATCH_HEADER_BYTES + payload;
        if end > log.len() {
            return;
        }
        log[at..at + 4].copy_from_slice(&BATCH_MAGIC);
        log[at + 16..at + 24].copy_from_slice(&sequence.to_le_bytes());
        log[at + 36..at + 40].copy_from_slice(&chain.to_le_bytes());
        let crc = crc32c::crc32c(&log[at + BATCH_HEADER_BYTES..end]);
        log[at + 40..at + 44].copy_from_slice(&(crc ^ key).to_le_bytes());
        chain = crc32c::crc32c(&log[at..at + 44]);
        log[at + 44..at + 48].copy_from_slice(&(chain ^ key).to_le_bytes());
        (sequence, at) = (sequence.wrapping_add(records), end);
    }
}

/// A folder in memory.
#[derive(Debug, Default)]
struct Memory(Mutex<Vec<(String, MemoryFile)>>);

type Bytes = std::sync::Arc<Mutex<Vec<u8>>>;

#[derive(Clone, Debug, Default)]
struct MemoryFile(Bytes);

impl Memory {
    fn with(name: &str, bytes: &[u8]) -> Self {
        let file = MemoryFile(Bytes::new(Mutex::new(bytes.to_vec())));
        Self(Mutex::new(vec![(name.to_owned(), file)]))
    }

    /// Whether the file is the log, or, under a sealed name, the log up to its footer.
    fn keeps(&self, name: &str, log: &[u8]) -> bool {
        let Ok(file) = self.open(name) else { return false };
        let bytes = file.0.lock().expect("one thread");
        let ends_well = bytes.len().checked_sub(FOOTER_BYTES).is_some_and(|at| Footer::decode(&bytes[at..]).is_ok());
        *bytes == log || (name != "events.bin" && ends_well && log.starts_with(&bytes))
    }

    fn has(&self, name: &str, bytes: &[u8]) -> bool {
        self.open(name).is_ok_and(|file| *file.0.lock().expect("one thread") == bytes)
    }
}

impl LogFolder for &Memory {
    type File = MemoryFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().expect("one thread").iter().map(|(name, _)| name.clone()).collect())
    }
    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let files = self.0.lock().expect("one thread");
        let file = files.iter().find(|(other, _)| other == name).map(|(_, file)| file.clone());
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        if let Ok(file) = self.open(name) {
            return Ok(file);
        }
        let file = MemoryFile::default();
        self.0.lock().expect("one thread").push((name.to_owned(), file.clone()));
        Ok(file)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.open(from)?;
        let mut files = self.0.lock().expect("one thread");
        files.retain(|(name, _)| name != from && name != to);
        files.push((to.to_owned(), file));
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().expect("one thread").retain(|(other, _)| other != name);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(1 << 30)
    }
}

impl LogFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("one thread").len() as u64)
    }
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock().expect("one thread");
        let from = bytes.get(offset as usize..).unwrap_or(&[]);
        let read = from.len().min(out.len());
        out[..read].copy_from_slice(&from[..read]);
        Ok(read)
    }
    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.lock().expect("one thread");
        let end = offset as usize + new.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(new);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().expect("one thread").resize(len as usize, 0);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn enable_ring(&mut self, _: bool) -> bool {
        false
    }
    fn fd(&self) -> Fd {
        Fd(-1)
    }
}

//! Walking a log: batch after batch, and, behind the first bad one, the search that tells damage from a torn tail.
//!
//! ```text
//! segment header ─► batch ─► batch ─► bad ─ ─ ─ scan ─ ─ ─► a header of ours that says "durable up to beyond the bad one"?
//!                                                               yes: damage, never cut        no: torn tail
//! ```
//!
//! - **K1** A batch is believed when its header fits (F2, F3) and belongs to this log (F4), continues chain, sequence and epoch, its payload
//!   fits, and is what the header says: so many records, or entries of a snapshot. A footer is believed when it says what was walked over.
//! - **K2** Behind a bad batch, in this segment or the next, a valid *header* is evidence enough: it was sealed after what it calls durable
//!   had been synced. What an earlier use of the file left is none (F5). In a sealed segment everything is durable: no evidence is needed.
//! - **K3** Memory is bounded: one window, and the payload of one batch.
//!
//! Stated limit: damage to what no later header calls durable (the last 2 ms before a power cut; everything since the open with
//! `--durability none`) looks like a torn tail.

use std::io;

use super::format::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BLOCK_BYTES, BatchHeader, BatchMark, Contents, FIRST_BATCH_OFFSET, FOOTER_BYTES,
    FOOTER_MAGIC, Footer, FormatError, LogKey, SEGMENT_HEADER_BYTES, SegmentHeader, crc32c_append,
};
use super::log_file::{LogFile, read_full};
use super::producers::is_snapshot;
use crate::planted::{Bug, is_planted};

/// Bytes read at a time: enough for the device's full speed, small enough for the L2 cache.
const WINDOW_BYTES: usize = 1 << 20;

/// Bytes of the first read; each further one takes twice as many. Of most files that are opened only a little is read.
const WINDOW_BYTES_FIRST: usize = 64 << 10;

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Why the walk could not go on at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file ends there.
    EndOfFile,
    /// Zeros: preallocated, not yet written.
    Unwritten,
    /// The file ends inside of the batch.
    CutShort,
    /// Not a batch header.
    Header(FormatError),
    /// The segment header itself.
    SegmentHeader(FormatError),
    /// The payload's checksum does not fit.
    Payload,
    /// The payload's checksum fits, but it does not hold what the header says: written by something else.
    Contents(FormatError),
    /// Not the successor of the batch before it.
    Chain,
    /// Sequences leave a gap or repeat.
    Sequence {
        /// The sequence that had to come.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// An epoch that cannot follow.
    Epoch,
    /// A footer that is none, or that says something else than what was walked over.
    Footer(FormatError),
    /// The segment that has to be there is not.
    Missing,
    /// A segment that does not go on where the one before it ends.
    Discontinuous,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::EndOfFile => write!(f, "the file ends"),
            Fault::Unwritten => write!(f, "not written yet"),
            Fault::CutShort => write!(f, "the file ends inside of a batch"),
            Fault::Header(error) => write!(f, "batch header: {error}"),
            Fault::SegmentHeader(error) => write!(f, "file header: {error}"),
            Fault::Payload => write!(f, "batch payload: its checksum does not fit"),
            Fault::Contents(error) => write!(f, "batch payload: {error}"),
            Fault::Chain => write!(f, "a batch that does not follow its predecessor"),
            Fault::Sequence { expected, found } => write!(f, "sequence {found} where {expected} had to come"),
            Fault::Epoch => write!(f, "a batch of an epoch that cannot follow"),
            Fault::Footer(error) => write!(f, "footer: {error}"),
            Fault::Missing => write!(f, "a segment is missing"),
            Fault::Discontinuous => write!(f, "the segment does not go on where the one before it ends"),
        }
    }
}

/// Something that was durable and is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the first bad byte range begins in the file.
    pub offset: u64,
    /// What is wrong there.
    pub fault: Fault,
    /// The first sequence that can't be read.
    pub first_lost: u64,
    /// Where readable batches begin again: offset, and the sequence there. `None`: nowhere.
    pub resume: Option<(u64, u64)>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "damage at byte {} ({}): ", self.offset, self.fault)?;
        match self.resume {
            Some((_, sequence)) if sequence == self.first_lost => write!(f, "no record lost"),
            Some((_, sequence)) => write!(f, "records {} to {} lost", self.first_lost, sequence - 1),
            None => write!(f, "records from {} on lost", self.first_lost),
        }
    }
}

/// What lies behind the last good batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing, or zeros only.
    Clean,
    /// Bytes that were never durable as a whole: `bytes` up to the last one that is not zero.
    Torn {
        /// What is wrong with the first of them.
        fault: Fault,
        /// How many.
        bytes: u64,
    },
    /// Lost data that had been durable.
    Damaged(Damage),
}

/// One step of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A good batch, at this offset.
    Batch(BatchHeader, u64),
    /// The footer: the segment ends here, all of it was good.
    Sealed(Footer),
    /// No good batch here; see [`Walk::tail`].
    Stop(Fault),
}

/// A window over the file.
struct Window<F: LogFile> {
    file: F,
    bytes: Vec<u8>,
    start: u64,
    filled: usize,
}

impl<F: LogFile> Window<F> {
    fn new(file: F) -> Self {
        Self { file, bytes: Vec::new(), start: 0, filled: 0 }
    }

    /// `want` bytes (at most a window) at `offset`, fewer only where the file ends.
    fn at(&mut self, offset: u64, want: usize) -> io::Result<&[u8]> {
        debug_assert!(want <= WINDOW_BYTES);
        let inside = offset >= self.start && offset + want as u64 <= self.start + self.filled as u64;
        if !inside {
            self.start = offset;
            self.filled = 0; // Nothing is valid if the read fails.
            let room = (2 * self.bytes.len()).clamp(WINDOW_BYTES_FIRST, WINDOW_BYTES).max(want);
            self.bytes.resize(room, 0);
            self.filled = read_full(&self.file, &mut self.bytes, offset)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..self.filled.min(from + want)])
    }

    fn forget(&mut self) {
        self.filled = 0;
    }
}

/// A walk over the batches of a file (or of a reference to one).
pub struct Walk<F: LogFile> {
    window: Window<F>,
    segment: SegmentHeader,
    key: LogKey,
    is_sealed: bool,
    so_far: Footer,
    offset: u64,
    sequence: u64,
    chain: Option<u32>,
    epoch: u32,
    /// Of the last batch.
    payload: Vec<u8>,
    contents: Contents,
}

impl<F: LogFile> Walk<F> {
    /// Reads the segment header. `Ok(Err(_))`: it is not one.
    ///
    /// # Errors
    /// Whatever reading says.
    pub fn open(file: F) -> io::Result<Result<Self, FormatError>> {
        let mut window = Window::new(file);
        let segment = SegmentHeader::decode(window.at(0, SEGMENT_HEADER_BYTES)?);
        Ok(segment.map(|segment| Self { chain: Some(segment.chain), ..Self::begin(window, segment, FIRST_BATCH_OFFSET) }))
    }

    fn begin(window: Window<F>, segment: SegmentHeader, offset: u64) -> Self {
        Self {
            window,
            key: LogKey::of(segment.log_id),
            is_sealed: false,
            so_far: Footer::of_empty(&segment),
            offset,
            sequence: segment.first_sequence,
            chain: None,
            epoch: segment.epoch,
            payload: Vec::new(),
            contents: Contents::default(),
            segment,
        }
    }

    /// A walk that begins at a batch, with what this header says of it.
    pub fn resumed(file: F, segment: SegmentHeader, offset: u64) -> Self {
        Self::begin(Window::new(file), segment, offset)
    }

    /// The file bears a sealed segment's name: it has to be good up to its footer (K2).
    pub fn expect_footer(&mut self) {
        self.is_sealed = true;
    }

    /// Behind an unreadable segment header: whether batches follow, of whatever log, and of which. The key that a header would fit to is
    /// believed when the payload fits to it too.
    ///
    /// # Errors
    /// Whatever reading says.
    pub fn first_batch_anywhere(file: F) -> io::Result<Option<(u64, BatchHeader, LogKey)>> {
        let (mut window, mut from, mut ignored) = (Window::new(file), 0, Vec::new());
        while let Some((at, header, key)) = scan(&mut window, from, LogKey::assumed, |_, _| true)?.hit {
            if read_payload(&mut window, at, &header, &mut ignored)?.is_none() {
                return Ok(Some((at, header, key)));
            }
            from = at + 1;
        }
        Ok(None)
    }

    /// Whether a file that may be the next segment has a batch that calls something durable which is missing at `end` (K2). Its own
    /// header need not be readable.
    ///
    /// # Errors
    /// Whatever reading says.
    pub fn evidence_in(file: F, end: &Footer) -> io::Result<Option<(u64, BatchHeader)>> {
        let key = LogKey::of(end.log_id);
        let scan = scan(
            &mut Window::new(file),
            0,
            |_| Some(key),
            |_, header| {
                let is_of_now = header.epoch >= end.epoch && header.first_sequence >= end.end_sequence;
                is_of_now && header.durable_sequence > end.end_sequence
            },
        )?;
        Ok(scan.hit.map(|(at, header, _)| (at, header)))
    }

    /// The file.
    pub fn file(&self) -> &F {
        &self.window.file
    }

    /// What the footer would say here; behind a damage, that of a segment that begins where the walk was resumed.
    pub fn so_far(&self) -> &Footer {
        &self.so_far
    }

    /// The identity of the log.
    pub fn segment(&self) -> &SegmentHeader {
        &self.segment
    }

    /// Where the next batch begins, or would.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The sequence that comes next.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The epoch of the last batch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What the next batch has to carry as its chain; `None` right after damage.
    pub fn chain(&self) -> Option<u32> {
        self.chain
    }

    /// The payload of the batch that the last step came to.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What its records say together.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Goes to the next batch and checks all of it (K1).
    ///
    /// # Errors
    /// Whatever reading says.
    pub fn step(&mut self) -> io::Result<Step> {
        let head = self.window.at(self.offset, BATCH_HEADER_BYTES)?;
        if head.is_empty() {
            return Ok(Step::Stop(Fault::EndOfFile));
        }
        if head == &ZEROS[..head.len()] {
            return Ok(Step::Stop(Fault::Unwritten));
        }
        if head.starts_with(&FOOTER_MAGIC) {
            return self.footer();
        }
        let (header, crc) = match BatchHeader::decode(head, self.key) {
            Ok(decoded) => decoded,
            Err(FormatError::Short) => return Ok(Step::Stop(Fault::CutShort)),
            Err(error) => return Ok(Step::Stop(Fault::Header(error))),
        };
        if let Some(fault) = self.misfit(&header) {
            return Ok(Step::Stop(fault));
        }
        if let Some(fault) = read_payload(&mut self.window, self.offset, &header, &mut self.payload)? {
            return Ok(Step::Stop(fault));
        }
        self.contents = match contents_of(&header, &self.payload) {
            Ok(contents) => contents,
            Err(error) => return Ok(Step::Stop(Fault::Contents(error))),
        };
        let at = self.offset;
        self.offset += header.batch_bytes();
        self.sequence = header.end_sequence();
        self.chain = Some(crc);
        self.epoch = header.epoch;
        self.so_far.add(&header, &self.contents, crc);
        Ok(Step::Batch(header, at))
    }

    /// The footer that begins here, if it says what was walked over.
    fn footer(&mut self) -> io::Result<Step> {
        let footer = match Footer::decode(self.window.at(self.offset, FOOTER_BYTES)?) {
            Ok(footer) => footer,
            Err(error) => return Ok(Step::Stop(Fault::Footer(error))),
        };
        let is_ours = footer.log_id == self.segment.log_id && footer.first_sequence == self.segment.first_sequence;
        let fits = footer.offset == self.offset && footer.end_sequence == self.sequence;
        let follows = self.chain.is_none_or(|chain| chain == footer.chain);
        Ok(if is_ours && fits && follows { Step::Sealed(footer) } else { Step::Stop(Fault::Footer(FormatError::Field)) })
    }

    /// What keeps this header from being the successor.
    fn misfit(&self, header: &BatchHeader) -> Option<Fault> {
        let epoch_fits = match header.mark {
            BatchMark::Opened => header.epoch >= self.epoch,
            // Right after damage the mark of the epoch may have been lost.
            _ if self.chain.is_none() => header.epoch >= self.epoch,
            _ => header.epoch == self.epoch,
        };
        if header.first_sequence != self.sequence {
            Some(Fault::Sequence { expected: self.sequence, found: header.first_sequence })
        } else if !epoch_fits {
            Some(Fault::Epoch)
        } else if self.chain.is_some_and(|chain| chain != header.chain) {
            Some(Fault::Chain)
        } else {
            None
        }
    }

    /// What lies from here on, where [`Walk::step`] stopped with `fault`.
    ///
    /// # Errors
    /// Whatever reading says.
    pub fn tail(&mut self, fault: Fault) -> io::Result<Tail> {
        if fault == Fault::EndOfFile && !self.is_sealed {
            return Ok(Tail::Clean);
        }
        let (key, epoch, offset, sequence) = (self.key, self.epoch, self.offset, self.sequence);
        // A batch whose own bytes are bad can't be where reading goes on; one that only does not follow can.
        let is_bad_itself = matches!(fault, Fault::Payload | Fault::Contents(_) | Fault::CutShort);
        let resume_from = if is_bad_itself { offset + 1 } else { offset };
        let mut resume = None;
        let is_sealed = self.is_sealed;
        let scan = scan(
            &mut self.window,
            offset,
            |_| Some(key),
            |at, header| {
                if header.epoch < epoch || header.first_sequence < sequence {
                    return false; // F5, too.
                }
                if at >= resume_from && resume.is_none() {
                    resume = Some((at, header.first_sequence));
                }
                // K2. In a sealed segment all that is looked for is where to go on.
                if is_sealed { resume.is_some() } else { header.durable_sequence > sequence || header.calls_durable(offset, at) }
            },
        )?;
        // What something else wrote is nothing to cut either.
        let is_foreign = matches!(fault, Fault::Contents(_) | Fault::Footer(FormatError::Version { .. }));
        if self.is_sealed || scan.hit.is_some() || is_foreign {
            return Ok(Tail::Damaged(Damage { offset, fault, first_lost: sequence, resume }));
        }
        if self.segment.recycled {
            return self.tail_of_recycled(fault);
        }
        match scan.nonzero_end - offset {
            0 => Ok(Tail::Clean),
            bytes => Ok(Tail::Torn { fault, bytes }),
        }
    }

    /// Where an earlier use of the file may have left anything, only a header that had to come here tells of a torn write.
    fn tail_of_recycled(&mut self, fault: Fault) -> io::Result<Tail> {
        let header = BatchHeader::decode(self.window.at(self.offset, BATCH_HEADER_BYTES)?, self.key);
        match header {
            Ok((header, _)) if header.first_sequence == self.sequence => {
                let left = self.window.file.len()?.saturating_sub(self.offset);
                Ok(Tail::Torn { fault, bytes: header.batch_bytes().min(left) })
            }
            _ => Ok(Tail::Clean),
        }
    }

    /// Goes on behind a damage: from where batches can be read again.
    pub fn resume(&mut self, offset: u64, sequence: u64) {
        (self.offset, self.sequence, self.chain) = (offset, sequence, None);
        let latest_receipt_before = self.so_far.latest_receipt;
        self.so_far = Footer::of_empty(&SegmentHeader { first_sequence: sequence, latest_receipt_before, ..self.segment });
    }

    /// Looks at the file anew: what was read ahead may be older than what is in the file now.
    pub fn refresh(&mut self) {
        self.window.forget();
    }
}

/// Reads the payload of the batch at `offset`, and checks it.
fn read_payload<F: LogFile>(
    window: &mut Window<F>,
    offset: u64,
    header: &BatchHeader,
    payload: &mut Vec<u8>,
) -> io::Result<Option<Fault>> {
    payload.clear();
    let mut crc = 0;
    let (mut at, end) = (offset + BATCH_HEADER_BYTES as u64, offset + header.batch_bytes());
    while at < end {
        let want = (end - at).min(WINDOW_BYTES as u64) as usize;
        let piece = window.at(at, want)?;
        if piece.len() < want {
            return Ok(Some(Fault::CutShort));
        }
        crc = crc32c_append(crc, piece);
        payload.extend_from_slice(piece);
        at += want as u64;
    }
    let is_good = crc == header.payload_crc || is_planted(Bug::NoCrc);
    Ok((!is_good).then_some(Fault::Payload))
}

/// K1: a payload whose checksum fits is what its header says.
fn contents_of(header: &BatchHeader, payload: &[u8]) -> Result<Contents, FormatError> {
    match header.mark {
        BatchMark::Producers | BatchMark::ProducersEnd if !is_snapshot(payload) => Err(FormatError::Field),
        BatchMark::Producers | BatchMark::ProducersEnd => Ok(Contents::default()),
        BatchMark::Data | BatchMark::Opened | BatchMark::Closed => Contents::of(payload, header.record_count),
    }
}

/// What a scan found.
struct Scan {
    /// The first header that was wanted, and where.
    hit: Option<(u64, BatchHeader, LogKey)>,
    /// Behind the last byte that is not zero; complete only without a hit.
    nonzero_end: u64,
}

/// Looks for a batch header at every byte from `from` on, checked with the key that `key_of` gives its bytes. Blocks of zeros cost a memcmp.
fn scan<F: LogFile>(
    window: &mut Window<F>,
    from: u64,
    key_of: impl Fn(&[u8]) -> Option<LogKey>,
    mut wanted: impl FnMut(u64, &BatchHeader) -> bool,
) -> io::Result<Scan> {
    let (mut at, mut nonzero_end) = (from, from);
    loop {
        let bytes = window.at(at, WINDOW_BYTES)?;
        // The window's last header bytes are looked at again at the start of the next one, when headers there are whole.
        let usable = if bytes.len() < WINDOW_BYTES { bytes.len() } else { WINDOW_BYTES - (BATCH_HEADER_BYTES - 1) };
        for start in (0..usable).step_by(BLOCK_BYTES) {
            let block = &bytes[start..usable.min(start + BLOCK_BYTES)];
            if block == &ZEROS[..block.len()] {
                continue;
            }
            let last = block.iter().rposition(|byte| *byte != 0).expect("the block has a byte that is not zero");
            nonzero_end = at + (start + last + 1) as u64;
            for (index, byte) in block.iter().enumerate() {
                if *byte != BATCH_MAGIC[0] || !bytes[start + index..].starts_with(&BATCH_MAGIC) {
                    continue;
                }
                let offset = at + (start + index) as u64;
                let candidate = &bytes[start + index..];
                if let Some(key) = key_of(candidate)
                    && let Ok((header, _)) = BatchHeader::decode(candidate, key)
                    && wanted(offset, &header)
                {
                    return Ok(Scan { hit: Some((offset, header, key)), nonzero_end });
                }
            }
        }
        if bytes.len() < WINDOW_BYTES {
            return Ok(Scan { hit: None, nonzero_end });
        }
        at += usable as u64;
    }
}

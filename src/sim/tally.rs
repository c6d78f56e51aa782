//! What went wrong in a run, counted by kind: a fault that no seed ever meets is one that nothing is tested against.
//!
//! A kind is noted where it happens ([`Met::note`]), once for each time. How likely it is there is set in [`super::faults`] and
//! [`super::scenario`].

use std::cell::Cell;
use std::rc::Rc;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal,)*) => {
        /// A kind of thing that goes wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $fault),* }

        impl Fault {
            /// All of them, by index.
            pub const ALL: [Fault; [$(Fault::$fault),*].len()] = [$(Fault::$fault),*];

            /// Its name in summaries.
            pub const fn name(self) -> &'static str {
                match self { $(Fault::$fault => $name),* }
            }
        }
    };
}

faults! {
    // -- the ring --
    /// A receive takes less than there is.
    ShortReceive = "short receive",
    /// A receive finds no buffer on offer (ENOBUFS).
    NoBuffer = "no buffer on offer",
    /// A buffer comes back without a byte.
    EmptyBuffer = "buffer with nothing in it",
    /// A multishot operation ends with a completion that otherwise succeeded.
    SilentEnd = "multishot ended silently",
    /// A multishot operation ends as the completion queue is full.
    QueueOverflow = "completion queue overflown",
    /// A completion is told some time after its operation was done.
    LateCompletion = "completion told late",
    /// A completion is told before one of another operation that was done earlier.
    Reordered = "completions out of order",
    /// An operation ends with EINTR or EAGAIN, and has done nothing.
    Interrupted = "operation interrupted",
    /// A cancel finds its target at its end, which is not told yet.
    CancelTooLate = "cancel after the end",
    /// A cancelled operation brings something all the same.
    CancelOvertaken = "data after a cancel",
    /// A connection is gone before it is accepted.
    AcceptAborted = "accept aborted",
    /// There is no descriptor for a connection (EMFILE).
    NoDescriptor = "no descriptor",
    /// A send takes less than it was given.
    ShortSend = "short send",
    /// A send waits for a peer that does not read.
    SendHeldUp = "send held up",
    // -- the network --
    /// A stream is cut inside of what its sender had to say.
    Cut = "stream cut anywhere",
    /// A connection is reset.
    Reset = "connection reset",
    /// A sender finds the window of its connection full.
    SenderHeldUp = "sender held up",
    /// A client does not read for a while.
    ReaderStalled = "reader stalled",
    /// A client opens another connection.
    Reconnected = "client connected again",
    /// A client opens another connection while the old one is open.
    Superseded = "client superseded itself",
    /// The kernel drops a datagram.
    DatagramDropped = "datagram dropped",
    /// A datagram is longer than its buffer.
    DatagramTruncated = "datagram truncated",
    // -- the disk --
    /// A write takes less than it was given.
    ShortWrite = "short write",
    /// A write fails with EIO.
    WriteError = "write error",
    /// A write finds no space (ENOSPC).
    NoSpace = "no space",
    /// Space can't be allocated ahead.
    AllocateRefused = "allocation refused",
    /// What a refused allocation may have got is given back.
    BlocksGivenBack = "blocks given back",
    /// A file operation takes a hundred times as long as usual.
    FileStalled = "file operation stalled",
    /// A sync fails with EIO.
    SyncError = "sync error",
    /// A sector is lost by a sync that fails.
    SectorLostBySync = "sector lost by a sync error",
    /// At a power cut: a sector that was not synced is there.
    SectorKept = "unsynced sector kept",
    /// At a power cut: a sector that was not synced is not there.
    SectorLost = "unsynced sector lost",
    /// At a power cut: a sector is half old, half new.
    SectorTorn = "sector torn",
    /// At a power cut: a file is shorter than it was.
    LengthLost = "unsynced length lost",
    /// At a power cut: a change of names is undone.
    NameLost = "unsynced name lost",
    /// A bit of a closed log flips.
    BitFlipped = "bit flipped",
    /// A block of a closed log is written over another one.
    Misdirected = "block misdirected",
    // -- the clock --
    /// The wall clock is set.
    WallJump = "wall clock jump",
    /// Much time passes at once, whoever waits for what: the host was suspended.
    Leap = "clock leap",
    /// A thread is not scheduled for a while.
    HeldUp = "thread held up",
    // -- lives --
    /// The process is killed.
    Killed = "process killed",
    /// The host loses its power.
    PowerCut = "power cut",
    /// Either of them, between two changes that the keeper makes.
    DeathInKeeper = "death in the keeper",
    /// Either of them tears the end of the log.
    LogTorn = "log torn by a death",
    /// An opening of the log is killed, or finds a disk that is full or can't be read.
    OpeningInterrupted = "opening interrupted",
    /// The engine is stopped in good order, and started again with other flags.
    Restarted = "restart with other flags",
}

/// How many kinds there are.
const COUNT: usize = Fault::ALL.len();

/// The counter of a run; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Met(Rc<Counts>);

#[derive(Debug)]
struct Counts([Cell<u64>; COUNT]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { Cell::new(0) }; COUNT])
    }
}

impl Met {
    /// It has happened once more.
    pub fn note(&self, fault: Fault) {
        let count = &self.0.0[fault as usize];
        count.set(count.get() + 1);
    }

    /// What has happened so far.
    pub fn tally(&self) -> Tally {
        Tally { times: std::array::from_fn(|index| self.0.0[index].get()), ..Tally::default() }.of_a_seed()
    }
}

/// How often what went wrong, over one seed or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    seeds: u64,
    times: [u64; COUNT],
    in_seeds: [u64; COUNT],
}

impl Default for Tally {
    /// Of no seed at all.
    fn default() -> Self {
        Self { seeds: 0, times: [0; COUNT], in_seeds: [0; COUNT] }
    }
}

impl Tally {
    fn of_a_seed(self) -> Self {
        Self { seeds: 1, in_seeds: self.times.map(|times| u64::from(times > 0)), ..self }
    }

    /// Adds other seeds.
    pub fn add(&mut self, other: &Tally) {
        self.seeds += other.seeds;
        let both = self.times.iter_mut().chain(&mut self.in_seeds).zip(other.times.iter().chain(&other.in_seeds));
        both.for_each(|(sum, more)| *sum += more);
    }

    /// How often this has happened.
    pub fn times(&self, fault: Fault) -> u64 {
        self.times[fault as usize]
    }

    /// What has never happened.
    pub fn never(&self) -> Vec<&'static str> {
        Fault::ALL.into_iter().filter(|fault| self.times(*fault) == 0).map(Fault::name).collect()
    }
}

impl std::fmt::Display for Tally {
    /// A line for each kind: how often, and in which share of the seeds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<28} {:>12} {:>10}", "fault", "times", "seeds")?;
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            let share = self.in_seeds[index] as f64 * 100.0 / self.seeds.max(1) as f64;
            writeln!(f, "{:<28} {:>12} {share:>8.1} %", fault.name(), self.times[index])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_and_a_seed_counts_once_however_often_it_met_a_fault() {
        let mut sum = Tally::default();
        for times in [0, 2, 3] {
            let met = Met::default();
            (0..times).for_each(|_| met.clone().note(Fault::Reset));
            sum.add(&met.tally());
        }
        assert_eq!((sum.times(Fault::Reset), sum.in_seeds[Fault::Reset as usize], sum.seeds), (5, 2, 3));
        assert!(!sum.never().contains(&"connection reset") && sum.never().contains(&"short write"));
        let line = sum.to_string().lines().find(|line| line.starts_with("connection reset")).map(str::to_owned);
        assert_eq!(line.as_deref().map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>()), Some(vec!["5", "66.7", "%"]));
    }
}

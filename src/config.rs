//! The configuration: flags over `EVENTSTREAM_*` over a TOML file over defaults, read into one typed [`Config`].
//!
//! ```text
//! --tcp-chunks 8  ─┐
//! EVENTSTREAM_…   ─┤ text, with its origin ──► read, rule ──► Config ──► conflicts ──► engine
//! tcp-chunks = 8  ─┤                              │                         │
//! default         ─┘                              └────── ConfigRefusal ◄───┘   error, cause, fix: exit code 3
//! ```
//!
//! Each option is one entry of the table below; field, flag, variable, key, default, bounds and help all come from it.
//!
//! Invariants:
//! - **C1** Every default is a value that its own rule accepts, and the defaults have no conflict (tested).
//! - **C2** A [`Config`] from [`Config::load`] has passed every rule; a hand-made one is asked by [`Config::check`].
//! - **C3** Nothing is ignored: an unknown flag or key is refused, an unknown `EVENTSTREAM_*` variable is named in a note.
//!
//! What it does not do: ask the host. Whether memory, cores and descriptors suffice is for the start and for `doctor`.

#![forbid(unsafe_code)]

mod layers;
mod refusal;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use layers::{ArgumentRefusal, Flags, Layers, Loaded, VARIABLES_APART};
pub use refusal::{ConfigRefusal, Conflict, FilterCause, Origin};
pub use values::{
    Auto, ByteSize, Cause, CoreSpec, Dedup, Durability, HugePages, IdleStrategy, OnOff, OptionValue, Overflow, Rule, read_ruled,
};

use crate::limits::{FRAME_BYTES_MAX, RECEIVE_BYTES_PER_MICRO};
use crate::wire::{Priority, Tier};
use values::Rule::{Any, Between, PowerOfTwo};

/// One option, for every layer and for `--help`.
#[derive(Debug)]
pub struct OptionSpec {
    /// The name of its field.
    field: &'static str,
    /// What it is, in a sentence, as it stands in the documentation of its field.
    help: &'static str,
    /// What to write in place of the value.
    pub form: &'static str,
    /// The default, as text.
    pub default: &'static str,
    /// The bound of a number.
    pub rule: Rule,
    set: fn(&mut Config, &str) -> Result<(), Cause>,
}

impl PartialEq for OptionSpec {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field
    }
}

impl Eq for OptionSpec {}

impl OptionSpec {
    /// Its flag without the dashes in front, which is also its key in a file: `tcp-chunks`.
    pub fn name(&self) -> String {
        self.field.replace('_', "-")
    }

    /// Its environment variable: `EVENTSTREAM_TCP_CHUNKS`.
    pub fn variable(&self) -> String {
        format!("EVENTSTREAM_{}", self.field.to_ascii_uppercase())
    }

    /// What it is, in a sentence.
    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// Whether the flag alone means `on`.
    pub fn is_switch(&self) -> bool {
        matches!(self.field, "strict" | "accept_data_loss")
    }

    /// The option of a flag or key.
    pub fn find(name: &str) -> Option<&'static OptionSpec> {
        OPTIONS.iter().find(|option| option.name() == name)
    }
}

/// An override of the priority of the topics that a filter matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOverride {
    /// A name, or a filter with `+` (one level) and `#` (the rest).
    pub filter: String,
    /// The priority instead of the one sent.
    pub priority: Priority,
}

macro_rules! options {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:literal, $rule:expr;)+) => {
        /// Everything `serve` can be told. Times carry their unit in their name; sizes are bytes, capacities events.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $field: $type,)+
            /// Topic overrides, from the file's table `[topics]`.
            pub topics: Vec<TopicOverride>,
        }

        /// All options, in the order of `--help`.
        pub static OPTIONS: &[OptionSpec] = &[$(OptionSpec {
            field: stringify!($field),
            help: concat!($($doc),+),
            form: <$type as OptionValue>::FORM,
            default: $default,
            rule: $rule,
            set: |config, text| {
                config.$field = read_ruled::<$type>(text, $rule)?;
                Ok(())
            },
        },)+];

        impl Default for Config {
            fn default() -> Self {
                Config {
                    $($field: read_ruled::<$type>($default, $rule).expect("C1: defaults keep their rules"),)+
                    topics: Vec::new(),
                }
            }
        }
    };
}

options! {
    /// Where TCP clients connect; port 0 picks a free one.
    tcp_listen: Option<SocketAddr> = "127.0.0.1:9000", Any;
    /// Where datagrams arrive; port 0 picks a free one.
    udp_listen: Option<SocketAddr> = "127.0.0.1:9001", Any;
    /// Where metrics, health and status are served over HTTP.
    admin_listen: Option<SocketAddr> = "127.0.0.1:9002", Any;
    /// The folder of the log and everything else that is written.
    data_dir: PathBuf = "data", Any;
    /// The file of dead letters; auto: dlq_log.txt in the data folder.
    dead_letter_path: Auto<PathBuf> = "auto", Any;
    /// Whether events are stored; off: they end when their handler is done.
    storage: OnOff = "on", Any;

    /// Which CPUs, and which role on which.
    cores: CoreSpec = "auto", Any;
    /// NUMA nodes, each with a pipeline of its own; more than the host has are pretended.
    nodes: Auto<u8> = "auto", Between(1, 64);
    /// Reactors per node.
    reactors_per_node: u8 = "1", Between(1, 64);
    /// What a runner without work does.
    idle: IdleStrategy = "adaptive", Any;
    /// Refuses to start with any warning about the host.
    strict: OnOff = "off", Any;
    /// Work that the receive chunks on offer may hold, the most a turn takes on at once, microseconds.
    poll_budget_us: u32 = "100", Between(10, 100_000);
    /// How long a parked runner lets completions gather, microseconds; 0: not at all.
    min_wait_us: u32 = "0", Between(0, 10_000);
    /// A kernel thread that submits; burns a core.
    sqpoll: OnOff = "off", Any;
    /// Submission queue entries of each ring.
    ring_entries: u32 = "256", PowerOfTwo(4, 32_768);
    /// Completion queue entries of each ring; auto: 8 for each submission entry, and all that is on offer.
    cq_entries: Auto<u32> = "auto", PowerOfTwo(4, 65_536);

    /// TCP receive chunks per reactor.
    tcp_chunks: u32 = "4", Between(1, 4_096);
    /// Bytes of a TCP receive chunk.
    tcp_chunk_bytes: ByteSize = "32KiB", Between(4_096, 1 << 20);
    /// Makes connections wait before a tier overflows.
    tcp_flow_control: OnOff = "on", Any;
    /// Slots on offer for datagrams, per reactor.
    udp_slots: u32 = "1024", Between(8, 32_768);
    /// Takes aggregates of datagrams where sender or NIC make them.
    udp_gro: OnOff = "off", Any;
    /// Kernel memory wanted for each UDP socket's queue.
    udp_receive_buffer_bytes: ByteSize = "8MiB", Between(4_096, 1 << 30);
    /// Connections at once; more are accepted when others close.
    max_connections: u32 = "10000", Between(1, 1_000_000);
    /// How long a frame may take from its first byte to its last, milliseconds.
    frame_deadline_ms: u64 = "10000", Between(10, 86_400_000);
    /// How long a connection may be silent, milliseconds; 0: for ever, as a version-1 client can't see that what it then sends is lost.
    idle_deadline_ms: u64 = "0", Between(0, 604_800_000);
    /// The longest frame, its length field included.
    max_frame_bytes: ByteSize = "1MiB", Between(64, FRAME_BYTES_MAX as u64);

    /// Pool slots for events of up to 256 bytes, per node; auto: by the host's memory.
    pool_small_slots: Auto<u32> = "auto", Between(64, 1 << 28);
    /// Pool slots for events of up to 2 KiB, per node; auto: by the host's memory.
    pool_medium_slots: Auto<u32> = "auto", Between(64, 1 << 26);
    /// Pool slots for events of up to --max-frame-bytes, per node; auto: by the host's memory.
    pool_large_slots: Auto<u32> = "auto", Between(2, 1 << 20);
    /// Huge pages for the pool.
    huge_pages: HugePages = "auto", Any;

    /// Events that the lanes of REALTIME hold.
    realtime_capacity: u32 = "16384", PowerOfTwo(2, 1 << 22);
    /// Events that the lanes of TRANSACTIONAL hold.
    transactional_capacity: u32 = "65536", PowerOfTwo(2, 1 << 22);
    /// Events that the lanes of BATCH hold.
    batch_capacity: u32 = "65536", PowerOfTwo(2, 1 << 22);
    /// The depth of a tier that counts as 100 %: flow control acts from 40 % of it, levels from 50 %.
    max_queue_depth: u32 = "5000", Between(1, 1 << 22);
    /// What a full REALTIME tier does.
    realtime_overflow: Overflow = "drop-old", Any;
    /// What a full TRANSACTIONAL tier does.
    transactional_overflow: Overflow = "block-producer", Any;
    /// What a full BATCH tier does.
    batch_overflow: Overflow = "drop-new", Any;

    /// How often a failed TRANSACTIONAL event is tried again.
    max_retries: u8 = "3", Between(0, 100);
    /// The wait before the first retry, milliseconds; doubles with each.
    retry_backoff_ms: u32 = "10", Between(1, 60_000);
    /// How TRANSACTIONAL events are told to be the same.
    dedup: Dedup = "content", Any;
    /// Keys that dedup remembers.
    dedup_capacity: u32 = "1048576", Between(1_024, 1 << 30);
    /// How long dedup remembers a key, milliseconds.
    dedup_window_ms: u64 = "3600000", Between(100, 604_800_000);
    /// The length of BATCH's windows, milliseconds.
    window_ms: u32 = "5000", Between(10, 86_400_000);

    /// When a stored event survives a power cut.
    durability: Durability = "group", Any;
    /// Staged events that start a write; a trigger, never a cap.
    flush_events: u32 = "100", Between(1, 1 << 20);
    /// How long a staged event waits for others before its write, microseconds.
    flush_interval_us: u32 = "500", Between(1, 10_000_000);
    /// How long written bytes wait for their group's sync, microseconds.
    commit_interval_us: u32 = "2000", Between(1, 10_000_000);
    /// Written bytes that start their group's sync.
    commit_bytes: ByteSize = "1MiB", Between(4_096, 1 << 30);
    /// Bytes after which a segment of the log is sealed and the next one begun.
    segment_bytes: ByteSize = "1GiB", Between(65_536, 1 << 40);
    /// Bytes of sealed segments to keep, per node; beyond, the oldest are given up. 0: all are kept.
    retention_bytes: ByteSize = "0", Any;
    /// How long sealed segments are kept after their last record, seconds. 0: for ever.
    retention_age_s: u64 = "0", Any;
    /// Keeps what a named cursor (`eventstream tail --cursor`) has not passed, whatever the retention says.
    retention_respects_cursors: OnOff = "off", Any;
    /// Starts with a damaged log: what is damaged is put in quarantine, what is readable is kept, what is lost is said.
    accept_data_loss: OnOff = "off", Any;
    /// With less than this free on the log's file system no events are taken in.
    min_free_bytes: ByteSize = "0", Any;

    /// How long a drain may take before what is left is given up, milliseconds.
    drain_timeout_ms: u64 = "10000", Between(1, 3_600_000);
}

impl Config {
    /// The file of dead letters.
    pub fn dead_letter_file(&self) -> PathBuf {
        match &self.dead_letter_path {
            Auto::Auto => self.data_dir.join("dlq_log.txt"),
            Auto::Given(path) => path.clone(),
        }
    }

    /// Receive bytes to have on offer, by `--poll-budget-us` and bounded by what `--tcp-chunks` are there; at least one chunk.
    pub fn receive_offer_bytes(&self) -> u64 {
        let chunk = self.tcp_chunk_bytes.0;
        let budget = u64::from(self.poll_budget_us) * RECEIVE_BYTES_PER_MICRO;
        budget.clamp(chunk, chunk * u64::from(self.tcp_chunks))
    }

    /// Events that the lanes of a tier hold.
    pub fn capacity_events(&self, tier: Tier) -> u32 {
        match tier {
            Tier::Realtime => self.realtime_capacity,
            Tier::Transactional => self.transactional_capacity,
            Tier::Batch => self.batch_capacity,
        }
    }

    /// What a full tier does.
    pub fn overflow(&self, tier: Tier) -> Overflow {
        match tier {
            Tier::Realtime => self.realtime_overflow,
            Tier::Transactional => self.transactional_overflow,
            Tier::Batch => self.batch_overflow,
        }
    }

    /// Looks for values that are wrong together.
    ///
    /// # Errors
    /// The first conflict found.
    pub fn check(&self) -> Result<(), ConfigRefusal> {
        for tier in Tier::ALL {
            let capacity_events = self.capacity_events(tier);
            if self.max_queue_depth > capacity_events {
                let conflict = Conflict::QueueDepthBeyondCapacity { depth_events: self.max_queue_depth, tier, capacity_events };
                return Err(ConfigRefusal::Conflict(conflict));
            }
        }
        if let Some(cq) = self.cq_entries.given().filter(|cq| *cq < self.ring_entries) {
            let conflict = Conflict::CompletionsBelowSubmissions { cq, ring: self.ring_entries };
            return Err(ConfigRefusal::Conflict(conflict));
        }
        match (self.tcp_listen, self.udp_listen, self.admin_listen) {
            (None, None, _) => return Err(ConfigRefusal::Conflict(Conflict::NoIntake)),
            (Some(tcp), _, Some(admin)) if tcp == admin && tcp.port() != 0 => {
                return Err(ConfigRefusal::Conflict(Conflict::SameAddress(tcp)));
            }
            _ => {}
        }
        let dead_letters = self.dead_letter_file();
        let name = dead_letters.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("events.") && name.ends_with(".bin") {
            return Err(ConfigRefusal::Conflict(Conflict::DeadLettersIntoLog(dead_letters)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

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

mod classes;
mod layers;
mod refusal;
mod rules;
mod values;
mod windows;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use layers::{ArgumentRefusal, Flags, Layers, Loaded, VARIABLES_APART};
pub use refusal::{ConfigRefusal, Conflict, FilterCause, Origin};
pub use rules::{KeyCause, RuleCause};
pub use values::{
    Auto, ByteSize, Cause, CoreSpec, Decimal, Dedup, DedupKey, IdleStrategy, OnOff, OptionValue, RetryOrder, Rule, read_ruled,
};
pub use windows::{WindowCause, WindowConflict, WindowEntry};

use crate::bus::{Overflow, TopicClass, TopicClasses};
use crate::limits::{FRAME_BYTES_MAX, RECEIVE_BYTES_PER_MICRO};
use crate::process::rules::{AlertRule, check_rules};
use crate::storage::appender::Durability;
use crate::storage::sync_method::SyncChoice;
use crate::sys::memory::HugePages;
use crate::wire::session::WINDOW_MAX;
use crate::wire::{Priority, Tier};
use values::Rule::{Any, Between, BetweenThousandths, PowerOfTwo};
use windows::WINDOW_MS;

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
        matches!(self.field, "strict" | "accept_data_loss" | "allow_anonymous")
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
            /// Topic classes, from the file's table `[classes]`.
            pub classes: Vec<TopicClass>,
            /// Alert rules, from the file's tables `[[rules]]`; none: every REALTIME event is an alert.
            pub rules: Vec<AlertRule>,
            /// Windows beside the default ones, from the file's list `[[windows]]`.
            pub windows: Vec<WindowEntry>,
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
                    classes: Vec::new(),
                    rules: Vec::new(),
                    windows: Vec::new(),
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
    /// Bytes of dead letters after which their file is renamed away.
    dead_letter_bytes: ByteSize = "256MiB", Between(4_096, 1 << 40);
    /// Renamed files of dead letters that are kept; 0: a full file is emptied.
    dead_letter_files: u32 = "2", Between(0, 1_000);
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
    /// Connections at once from one source, per reactor: an IPv4 address, or the /64 of an IPv6 one; more are closed. 0: no limit, as many
    /// senders may stand behind one address.
    connections_per_source: u32 = "0", Between(0, 1_000_000);
    /// Events per second from one source over TCP, per reactor, with a burst of one second; a connection beyond it waits, and loses nothing. As
    /// many again as datagrams, whose frames beyond it are dropped (source_rate). 0: no limit.
    events_per_source: u32 = "0", Between(0, 1_000_000_000);
    /// How long a frame may take from its first byte to its last, milliseconds.
    frame_deadline_ms: u64 = "10000", Between(10, 86_400_000);
    /// How long a connection may be silent, milliseconds; 0: for ever, as a version-1 client can't see that what it then sends is lost.
    idle_deadline_ms: u64 = "0", Between(0, 604_800_000);
    /// Producers with a session at once, per reactor; more are refused until others are gone.
    sessions: u16 = "256", Between(1, 4_096);
    /// Sequences that a session may have without an outcome.
    session_window: u32 = "4096", Between(64, WINDOW_MAX as u64);
    /// A file, of mode 0600, whose bytes every session's hello must carry; auto: none is needed.
    session_token_file: Auto<PathBuf> = "auto", Any;
    /// Takes what has no token from beyond this host: version 1, datagrams, and sessions without --session-token-file.
    allow_anonymous: OnOff = "off", Any;
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
    /// The share of events lost over 10 s for want of room that counts as 100 %, percent: levels act from half of it.
    max_drop_rate: Decimal = "2.0", BetweenThousandths(1, 100_000);
    /// The p99 of REALTIME, receive to handled, that counts as 100 %, milliseconds: levels act from half of it.
    max_latency_ms: u32 = "100", Between(1, 30_000);
    /// Events in 10 s below which the drop rate is not judged.
    min_events_for_evaluation: u32 = "1000", Between(1, 1_000_000_000);
    /// A level is left when every signal is below this share of the level's threshold.
    recovery_factor: Decimal = "0.8", BetweenThousandths(10, 999);
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
    /// Whether later events of its topic wait for one that is tried again.
    retry_order: RetryOrder = "none", Any;
    /// How TRANSACTIONAL events are told to be the same.
    dedup: Dedup = "content", Any;
    /// What --dedup key looks at beside the topic; a body that lacks it is told by its content.
    dedup_key: DedupKey = "none", Any;
    /// Keys that dedup remembers.
    dedup_capacity: u32 = "1048576", Between(1_024, 1 << 30);
    /// Idempotency keys that each tier remembers, whatever --dedup says.
    dedup_keyed_capacity: u32 = "131072", Between(1_024, 1 << 30);
    /// How long dedup remembers a key, milliseconds.
    dedup_window_ms: u64 = "3600000", Between(100, 604_800_000);
    /// The length of BATCH's windows, milliseconds.
    window_ms: u32 = "5000", Between(*WINDOW_MS.start(), *WINDOW_MS.end());
    /// From the start of one window to that of the next, milliseconds; auto: the length, so that windows lie side by side.
    window_slide_ms: Auto<u32> = "auto", Between(*WINDOW_MS.start(), *WINDOW_MS.end());
    /// Bytes of windows.jsonl after which it is renamed away.
    window_log_bytes: ByteSize = "64MiB", Between(4_096, 1 << 40);
    /// Files of windows kept beside the one that is written.
    window_log_files: u32 = "4", Between(0, 1_000);

    /// The longest body that the conditions of rules look at, and what their actions get of a body.
    rule_body_bytes_max: ByteSize = "4KiB", Between(64, 65_536);

    /// When a stored event survives a power cut.
    durability: Durability = "group", Any;
    /// How --durability always makes a write durable, and group a large one (fdatasync: later, with its group). auto: of always the faster one, by a probe
    /// in the data folder; of group dsync.
    sync_method: SyncChoice = "auto", Any;
    /// Staged events that start a write before its interval is over; a trigger, never a cap.
    flush_events: u32 = "16384", Between(1, 1 << 20);
    /// How long a staged event waits for others before its write, microseconds; where 256 KiB come in that time, four times as long, or until 1 MiB is there.
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
    /// Producers whose stored sequences are remembered, per node; the one that stored least recently gives way.
    producers: u32 = "1024", Between(1, 65_536);
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

    /// The topic classes, compiled.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn topic_classes(&self) -> Result<TopicClasses, ConfigRefusal> {
        TopicClasses::compile(&self.classes).map_err(|refusal| ConfigRefusal::Conflict(Conflict::Classes(refusal)))
    }

    /// The defaults without a socket: events come from publishers alone, and nothing is served over HTTP.
    pub fn without_sockets() -> Config {
        Config { tcp_listen: None, udp_listen: None, admin_listen: None, ..Config::default() }
    }

    /// Whoever can reach a socket beyond loopback may send, unless a token says who: that must have been meant.
    fn check_anonymous(&self) -> Result<(), ConfigRefusal> {
        let is_beyond = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
        let needs_no_token = self.session_token_file == Auto::Auto;
        let tcp = self.tcp_listen.filter(is_beyond).filter(|_| needs_no_token).map(|address| ("tcp", address));
        let udp = self.udp_listen.filter(is_beyond).map(|address| ("udp", address));
        match tcp.or(udp) {
            Some((socket, address)) if self.allow_anonymous == OnOff::Off => {
                Err(ConfigRefusal::Conflict(Conflict::Anonymous { socket, address }))
            }
            _ => Ok(()),
        }
    }

    /// Looks for values that are wrong together, in an engine with so many publishers.
    ///
    /// # Errors
    /// The first conflict found.
    pub fn check(&self, publishers: u32) -> Result<(), ConfigRefusal> {
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
            (None, None, _) if publishers == 0 => return Err(ConfigRefusal::Conflict(Conflict::NoIntake)),
            (Some(tcp), _, Some(admin)) if tcp == admin && tcp.port() != 0 => {
                return Err(ConfigRefusal::Conflict(Conflict::SameAddress(tcp)));
            }
            _ => {}
        }
        self.check_anonymous()?;
        windows::check(self).map_err(|conflict| ConfigRefusal::Conflict(Conflict::Windows(conflict)))?;
        if (self.dedup == Dedup::Key) != (self.dedup_key != DedupKey::None) {
            return Err(ConfigRefusal::Conflict(Conflict::DedupKeyAlone { dedup: self.dedup }));
        }
        let dead_letters = self.dead_letter_file();
        let name = dead_letters.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("events.") && name.ends_with(".bin") {
            return Err(ConfigRefusal::Conflict(Conflict::DeadLettersIntoLog(dead_letters)));
        }
        check_rules(&self.rules).map_err(|(place, refusal)| ConfigRefusal::Rule {
            place: None,
            rule: format!("`{}`", self.rules[place].name.escape_debug()),
            cause: Box::new(RuleCause::Rule(refusal)),
        })?;
        self.topic_classes().map(drop)
    }
}

#[cfg(test)]
mod tests;

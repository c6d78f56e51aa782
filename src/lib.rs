//! `eventstream`: an io_uring-based, thread-per-core event engine for bare-metal Linux.
//!
//! ```text
//!  TCP :9000 ─┐  ingest             bus                      process                 storage
//!  UDP :9001 ─┤  reactor ──► REALTIME      (16384, SPSC) ──► realtime      alerts ─┐
//!             │  (one per    TRANSACTIONAL (65536, MPSC) ──► transactional dedup,  ├─► appender ──► data/events.bin
//!             │   NUMA node) BATCH         (65536, MPSC) ──► batch         windows ┘
//!             │     ▲
//!  publishers ┘     └── event pool of that node ◄── slots come home ◄── released by whoever held the event last
//! ```
//!
//! **Threads.** A *runner* is a pinned thread with one ring, which it lends to all its *agents* in turn ([`runner`], [`agent`]); which
//! agents share a runner is the core plan's to say ([`sys::plan`]): all of a node's on small hosts, one each on large ones. Nodes share
//! nothing on the hot path. Whatever blocks (dead letters, windows, alerts, HTTP, offloaded handlers) is on helper threads behind
//! bounded queues.
//!
//! **The life of an event.** Bytes arrive in a receive chunk, or right in a slot (a datagram); [`wire`] finds the frame; the reactor
//! copies it once into a slot of its [`pool`], dispatches it by priority or topic, and puts its 8-byte ticket into a lane of the [`bus`]. The
//! processor of its tier handles it and passes the ticket on; the appender copies it into the batch that goes to disk, and counts it as
//! stored when the write has completed. On each way that ends elsewhere it is counted with a reason: [`metrics::ledger`] is the account.
//!
//! **The life of a slot.** Free list → slot → event → released by its last holder → release stack → free list. A ticket is move-only, so a slot has
//! one holder at any time; nothing is freed by anybody but its owner, and nothing on agent threads allocates after start.
//!
//! **Overload.** What can wait waits before it is taken. For what cannot, an agent beside the others judges five levels from depths, losses and
//! latency, and sets the node's gate: one word that reactors read once a poll, and hold or shed by ([`control`]).
//!
//! **The house**, in the order of the flow; a folder uses only those below it:
//!
//! | module | holds |
//! |---|---|
//! | [`commands`], [`config`], [`report`], [`limits`] | the binary's subcommands; flags > environment > file > default; what start and end say |
//! | [`bench`](mod@bench) | the harness: limits of the machine, figures, reports; its scenarios are in [`commands`] |
//! | [`embedding`] | the door for programs that have the engine inside, and its page |
//! | [`engine`], [`runner`], [`agent`] | wiring, start and stop; the threads; what an active part is |
//! | [`ingest`] | reactor: TCP, UDP, flow control, deadlines; sessions; publishers in this process |
//! | [`bus`] | lanes, tiers, overflow policies, dispatch by topic |
//! | [`process`] | realtime (alert rules), transactional (dedup, retries), batch (windows), handlers |
//! | [`storage`] | appender, log format, segments and their keeper, recovery, readers, repair, dead letters |
//! | [`control`], [`metrics`] | the node's level and gate; ledger, latencies, export, status |
//! | [`client`] (feature `client`) | a producer with sessions, for programs without the engine: above [`wire`] and nothing else |
//! | [`pool`], [`wire`] | slots and tickets; the codec of frames and sessions |
//! | [`sys`] | every syscall: ring, probe, memory, sockets, topology |
//! | `sim` (feature `sim`) | the same agents over a simulated kernel, disk and clock |
//!
//! Names from the engine's first sketch: EventBusMulti is [`bus`], ProcessManager is [`engine`] with [`process`], NUMAEventPool and
//! IngestEventPool are [`pool`], ControlPlane and PipelineStateManager are [`control`] with [`metrics::telemetry::PipelineState`], StorageEngine is
//! [`storage`], MetricRegistry is [`metrics`], DeadLetterQueue is [`storage::dead_letter`].

// Model-checked builds (`make loom`) leave out what needs tokio, and with it the users of much else.
#![cfg_attr(loom, allow(dead_code, unused_imports))]
// The page above is of the whole house; builds without some part of it lack what it links to.
#![cfg_attr(any(loom, not(feature = "engine")), allow(rustdoc::broken_intra_doc_links))]

#[cfg(all(feature = "engine", not(loom)))]
pub mod bench;
#[cfg(all(feature = "engine", not(loom)))]
pub mod commands;
#[cfg(feature = "engine")]
pub mod config;
#[cfg(all(feature = "engine", not(loom)))]
pub mod embedding;
#[cfg(feature = "engine")]
pub mod limits;
#[cfg(feature = "engine")]
pub mod report;

#[cfg(feature = "engine")]
pub mod agent;
#[cfg(all(feature = "engine", not(loom)))]
pub mod engine;
#[cfg(feature = "engine")]
pub mod runner;

#[cfg(feature = "engine")]
pub mod bus;
#[cfg(feature = "engine")]
pub mod ingest;
#[cfg(feature = "engine")]
pub mod process;
#[cfg(feature = "engine")]
pub mod storage;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "engine")]
pub mod control;
#[cfg(feature = "engine")]
pub mod metrics;
#[cfg(feature = "engine")]
pub mod pool;
pub mod wire;

#[cfg(feature = "engine")]
mod planted;
#[cfg(all(feature = "engine", not(loom), any(test, feature = "sim")))]
pub mod sim;
#[cfg(feature = "engine")]
mod sync;
#[cfg(feature = "engine")]
pub mod sys;

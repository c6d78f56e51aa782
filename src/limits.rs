//! Named limits that more than one part keeps, with the reason for each number.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::sys::clock::Nanos;

/// The longest frame that `--max-frame-bytes` may allow, its 4-byte length field included: the length of a version-1 frame is
/// below 2^24, so that the first byte of a version-1 stream is always 0.
pub const FRAME_BYTES_MAX: u32 = (1 << 24) - 1 + 4;

/// The longest line of a dead letter, its newline included, and so the longest body of a replay's request: the longest frame in base64, and
/// 16 KiB for a topic and a note of escapes only, and the rest.
pub const DEAD_LETTER_LINE_BYTES_MAX: usize = FRAME_BYTES_MAX as usize / 3 * 4 + 4 + (16 << 10);

/// What a core is counted on to parse, route and hand over, in bytes a microsecond: 128 KiB in 100 µs, 16 million 80-byte frames a second.
/// Turns `--poll-budget-us` into bytes on offer.
pub const RECEIVE_BYTES_PER_MICRO: u64 = (128u64 * 1024).div_ceil(100);

/// How long a runner may go without a turn before `/readyz` says so.
pub const RUNNER_STALL: Nanos = Nanos::from_millis(2_000);

/// Admin connections served at once; more wait in the listener's backlog. Bounds the memory of a thousand scrapes to that of these.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;

/// How long an admin connection may live, however slowly its peer reads.
pub const ADMIN_CONNECTION_LIFE: Duration = Duration::from_secs(10);

/// How long a rendered answer is given out again: a thousand scrapes at once cost four renderings a second.
pub const ADMIN_ANSWER_AGE: Duration = Duration::from_millis(250);

/// How long the admin endpoint waits at its stop for answers under way.
pub const ADMIN_STOP_GRACE: Duration = Duration::from_millis(500);

/// The largest configuration file that is read.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// The longest topic filter in the configuration: as long as a topic can be.
pub const TOPIC_FILTER_BYTES_MAX: usize = 65_535;

const _: () = assert!(RECEIVE_BYTES_PER_MICRO > 0);

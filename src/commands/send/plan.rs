//! From flags to a plan that can't be wrong.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{BodySizes, SendCommand, SendError, TopicSkew};
use crate::wire::session::AckLevel;
use crate::wire::{Priority, ProducerId, check_topic};

/// What to send, where to and how. Made from flags, see [`SendCommand`].
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What.
    pub input: Input,
    /// Where to.
    pub transport: Transport,
    /// Connections or sockets, at least one per thread.
    pub connections: usize,
    /// Threads, at least one.
    pub threads: usize,
    /// Events per second over all threads; `None`: as fast as the receiver takes them.
    pub rate_events_per_second: Option<u64>,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Each line is an event.
    Lines {
        /// In this order; `-` is standard input.
        files: Vec<PathBuf>,
        /// How a line is read.
        format: LineFormat,
        /// For lines that don't say.
        topic: String,
        /// For lines that don't say.
        priority: Priority,
    },
    /// Files of frames, sent as they are.
    Raw {
        /// In this order; `-` is standard input.
        files: Vec<PathBuf>,
    },
    /// Generated events.
    Generated(Generate),
}

/// How a line is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// The line is the body.
    Plain,
    /// The line is a JSON object with a body, and perhaps topic and priority.
    Json,
}

/// What is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    /// How many events, over all threads.
    pub events: u64,
    /// Bytes of bodies.
    pub body_bytes: BodySizes,
    /// First level of the topics.
    pub topic: String,
    /// How many topics, at least 1.
    pub topics: u32,
    /// How unevenly they are used.
    pub topic_skew: TopicSkew,
    /// Shares of the priorities.
    pub mix: Mix,
    /// Where the ids begin, and how priorities and topics are shuffled.
    pub seed: u64,
}

impl Generate {
    /// A body holds at least its id: 16 hexadecimal digits.
    pub const BODY_BYTES_MIN: usize = 16;
}

/// The way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A stream per connection.
    Tcp(TcpTransport),
    /// A session per connection.
    Session(SessionTransport),
    /// Datagrams.
    Udp(UdpTransport),
}

/// Streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpTransport {
    /// Where to.
    pub address: SocketAddr,
    /// Bytes of one write, at least 1.
    pub write_bytes: usize,
    /// How long to wait at the end for the receiver to read everything.
    pub close_wait: Duration,
}

/// Sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionTransport {
    /// Where to.
    pub address: SocketAddr,
    /// When an event is acknowledged.
    pub ack_level: AckLevel,
    /// Who sends, over the one connection there is then; else each connection draws an id.
    pub producer: Option<ProducerId>,
    /// The sequence of the first event, at least 1.
    pub first_sequence: u64,
    /// Where the token is.
    pub token_file: Option<PathBuf>,
}

/// Datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpTransport {
    /// Where to.
    pub address: SocketAddr,
    /// Events in each datagram, at least 1.
    pub datagram_events: u64,
}

/// Shares of the five priorities, indexed by priority byte; at least one of them above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix([u32; Priority::ALL.len()]);

impl Mix {
    /// 10 % HIGH, 60 % MEDIUM, 30 % LOW.
    pub const STANDARD: Mix = Mix([0, 30, 60, 10, 0]);

    /// The shares, indexed by priority byte. They need not add up to 100.
    pub const fn shares(&self) -> &[u32; Priority::ALL.len()] {
        &self.0
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused =
            || format!("`{text}` is not a mix: give HIGH,MEDIUM,LOW or CRITICAL,HIGH,MEDIUM,LOW,BATCH, such as 10,60,30");
        let shares: Vec<u32> = text
            .split(',')
            .map(|share| share.trim().parse::<u16>().map(u32::from))
            .collect::<Result<_, _>>()
            .map_err(|_| refused())?;
        let mix = match shares[..] {
            [high, medium, low] => [0, low, medium, high, 0],
            [critical, high, medium, low, batch] => [batch, low, medium, high, critical],
            _ => return Err(refused()),
        };
        if mix.iter().sum::<u32>() == 0 { Err(refused()) } else { Ok(Mix(mix)) }
    }
}

impl Plan {
    /// About how many bytes go together.
    pub(super) fn piece_bytes(&self) -> usize {
        match self.transport {
            Transport::Tcp(tcp) => tcp.write_bytes,
            Transport::Session(_) | Transport::Udp(_) => 65_536,
        }
    }

    /// The connections of one thread: as even as can be.
    pub(super) fn connections_of(&self, thread: usize) -> usize {
        (thread + 1) * self.connections / self.threads - thread * self.connections / self.threads
    }
}

impl TryFrom<SendCommand> for Plan {
    type Error = SendError;

    fn try_from(flags: SendCommand) -> Result<Plan, SendError> {
        refuse_conflicts(&flags)?;
        let transport = transport(&flags)?;
        let udp = matches!(transport, Transport::Udp(_));
        let threads = within("--threads", flags.threads, 1, 1, 256)?;
        let one = flags.producer_id.is_some();
        let connections_default = if flags.generate.is_some() && !udp && !one { 8.max(threads) } else { threads };
        // A session has two threads.
        let connections_max = if flags.session { 1024 } else { 65_536 };
        let connections = within("--connections", flags.connections, connections_default, threads, connections_max)?;
        // UDP loses what the receiver can't take at once, and the default receive buffers of hosts are small.
        let rate = flags.rate.unwrap_or(if udp { 50_000 } else { 0 });
        let input = input(flags)?;
        Ok(Plan { input, transport, connections, threads, rate_events_per_second: (rate > 0).then_some(rate) })
    }
}

fn refuse_conflicts(flags: &SendCommand) -> Result<(), SendError> {
    if flags.file.is_empty() && flags.generate.is_none() {
        return Err(SendError::NothingToSend);
    }
    let (files, generate) = (!flags.file.is_empty(), flags.generate.is_some());
    let (tcp, udp) = (flags.tcp.is_some(), flags.udp.is_some());
    let many = |count: Option<usize>| count.is_some_and(|count| count > 1);
    let conflicts = [
        (tcp && udp, "--tcp", "--udp"),
        (files && generate, "--file", "--generate"),
        (flags.raw && generate, "--raw", "--generate"),
        (flags.raw && flags.json_lines, "--raw", "--json-lines"),
        (flags.json_lines && generate, "--json-lines", "--generate"),
        (flags.raw && udp, "--raw", "--udp"),
        (flags.raw && many(flags.connections), "--raw", "--connections"),
        (flags.raw && flags.topic.is_some(), "--raw", "--topic"),
        (flags.raw && flags.priority.is_some(), "--raw", "--priority"),
        (flags.raw && flags.rate.is_some(), "--raw", "--rate"),
        (files && many(flags.threads), "--file", "--threads"),
        (files && flags.body_bytes.is_some(), "--file", "--body-bytes"),
        (files && flags.topics.is_some(), "--file", "--topics"),
        (files && flags.topic_skew.is_some(), "--file", "--topic-skew"),
        (files && flags.mix.is_some(), "--file", "--mix"),
        (files && flags.seed.is_some(), "--file", "--seed"),
        (generate && flags.priority.is_some(), "--generate", "--priority"),
        (udp && flags.write_bytes.is_some(), "--udp", "--write-bytes"),
        (udp && flags.close_wait_ms.is_some(), "--udp", "--close-wait-ms"),
        (!udp && flags.datagram_events.is_some(), "--tcp", "--datagram-events"),
        (flags.session && udp, "--session", "--udp"),
        (flags.session && flags.raw, "--session", "--raw"),
        (flags.session && flags.write_bytes.is_some(), "--session", "--write-bytes"),
        (flags.session && flags.close_wait_ms.is_some(), "--session", "--close-wait-ms"),
        (flags.producer_id.is_some() && many(flags.connections), "--producer-id", "--connections"),
        (flags.producer_id.is_some() && many(flags.threads), "--producer-id", "--threads"),
    ];
    if let Some((_, flag, with)) = conflicts.into_iter().find(|(conflict, ..)| *conflict) {
        return Err(SendError::Conflict { flag, with });
    }
    let lacking = [
        (flags.ack.is_some() && !flags.session, "--ack", "--session"),
        (flags.producer_id.is_some() && !flags.session, "--producer-id", "--session"),
        (flags.token_file.is_some() && !flags.session, "--token-file", "--session"),
        (flags.first_sequence.is_some() && flags.producer_id.is_none(), "--first-sequence", "--producer-id"),
    ];
    match lacking.into_iter().find(|(lacking, ..)| *lacking) {
        Some((_, flag, needs)) => Err(SendError::Lacking { flag, needs }),
        None => Ok(()),
    }
}

fn transport(flags: &SendCommand) -> Result<Transport, SendError> {
    if let Some(address) = flags.udp {
        // Frames are 8 bytes at least: more of them fit no datagram.
        let datagram_events = within("--datagram-events", flags.datagram_events, 1, 1, 8_188)?;
        return Ok(Transport::Udp(UdpTransport { address, datagram_events }));
    }
    let address = flags.tcp.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 9000)));
    if flags.session {
        return Ok(Transport::Session(SessionTransport {
            address,
            ack_level: flags.ack.unwrap_or(AckLevel::Written),
            producer: flags.producer_id,
            first_sequence: within("--first-sequence", flags.first_sequence, 1, 1, u64::MAX / 2)?,
            token_file: flags.token_file.clone(),
        }));
    }
    let write_bytes = within("--write-bytes", flags.write_bytes, 65_536, 1, 16 << 20)?;
    let close_wait = Duration::from_millis(within("--close-wait-ms", flags.close_wait_ms, 30_000, 1, 3_600_000)?);
    Ok(Transport::Tcp(TcpTransport { address, write_bytes, close_wait }))
}

fn input(flags: SendCommand) -> Result<Input, SendError> {
    let default = if flags.generate.is_some() { "load" } else { "events" };
    let topic = flags.topic.unwrap_or_else(|| default.to_owned());
    check_topic(topic.as_bytes()).map_err(|refusal| SendError::Topic { refusal })?;
    if let Some(events) = flags.generate {
        let body_bytes = flags.body_bytes.unwrap_or_else(BodySizes::standard);
        let topics = within("--topics", flags.topics, 16, 1, 1_000_000)?;
        let topic_skew = flags.topic_skew.unwrap_or_default();
        check_topic(format!("{topic}/{}", topics - 1).as_bytes()).map_err(|refusal| SendError::Topic { refusal })?;
        let seed = flags.seed.unwrap_or_else(seed_from_clock);
        let mix = flags.mix.unwrap_or(Mix::STANDARD);
        return Ok(Input::Generated(Generate { events, body_bytes, topic, topics, topic_skew, mix, seed }));
    }
    if flags.raw {
        return Ok(Input::Raw { files: flags.file });
    }
    let format = if flags.json_lines { LineFormat::Json } else { LineFormat::Plain };
    Ok(Input::Lines { files: flags.file, format, topic, priority: flags.priority.unwrap_or(Priority::Medium) })
}

/// The value or its default, if it is in its range.
fn within<T>(flag: &'static str, value: Option<T>, default: T, least: T, most: T) -> Result<T, SendError>
where
    T: Copy + PartialOrd + TryInto<u64>,
{
    let value = value.unwrap_or(default);
    let number = |value: T| value.try_into().unwrap_or(u64::MAX);
    if value < least || value > most {
        return Err(SendError::OutOfRange { flag, value: number(value), least: number(least), most: number(most) });
    }
    Ok(value)
}

/// Different in every run of one host: nanoseconds of the clock and the process id.
fn seed_from_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // The low 64 bits of the nanoseconds turn over once in 584 years.
    since.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(40)
}

#[cfg(test)]
mod tests {
    use argh::FromArgs;

    use super::*;

    fn plan(flags: &[&str]) -> Result<Plan, SendError> {
        Plan::try_from(SendCommand::from_args(&["send"], flags).expect("known flags"))
    }

    #[test]
    fn defaults_are_the_standard_load_over_local_tcp() {
        let plan = plan(&["--generate", "10"]).unwrap();
        assert_eq!((plan.connections, plan.threads, plan.rate_events_per_second), (8, 1, None));
        let address = "127.0.0.1:9000".parse().unwrap();
        let close_wait = Duration::from_secs(30);
        assert_eq!(plan.transport, Transport::Tcp(TcpTransport { address, write_bytes: 65_536, close_wait }));
        let Input::Generated(generate) = plan.input else { panic!() };
        assert_eq!((generate.events, generate.topics, generate.mix), (10, 16, Mix::STANDARD));
        assert_eq!((generate.body_bytes, generate.topic_skew), (BodySizes::standard(), TopicSkew::default()));
    }

    #[test]
    fn udp_is_bounded_unless_told_otherwise() {
        assert_eq!(plan(&["--generate", "1", "--udp", "[::1]:9001"]).unwrap().rate_events_per_second, Some(50_000));
        assert_eq!(plan(&["--generate", "1", "--udp", "[::1]:9001", "--rate", "0"]).unwrap().rate_events_per_second, None);
    }

    #[test]
    fn a_mix_is_three_or_five_shares() {
        assert_eq!("10,60,30".parse(), Ok(Mix::STANDARD));
        assert_eq!("1,2, 3,4,5".parse(), Ok(Mix([5, 4, 3, 2, 1])));
        for text in ["", "1", "1,2", "1,2,3,4", "0,0,0", "a,b,c", "-1,2,3", "99999,1,1"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_conflict_of_flags_is_refused() {
        assert!(matches!(plan(&[]), Err(SendError::NothingToSend)));
        let generate = ["--generate", "1"];
        let file = ["--file", "-"];
        let raw = ["--file", "-", "--raw"];
        let udp = ["--udp", "127.0.0.1:1", "--generate", "1"];
        let session = ["--generate", "1", "--session"];
        let producer = ["--generate", "1", "--session", "--producer-id", "000102030405060708090a0b0c0d0e0f"];
        let cases: &[(&[&str], &[&str])] = &[
            (&udp, &["--tcp", "127.0.0.1:1"]),
            (&generate, &["--file", "x"]),
            (&generate, &["--raw"]),
            (&raw, &["--json-lines"]),
            (&generate, &["--json-lines"]),
            (&raw, &["--udp", "127.0.0.1:1"]),
            (&raw, &["--connections", "2"]),
            (&raw, &["--topic", "t"]),
            (&raw, &["--priority", "high"]),
            (&raw, &["--rate", "9"]),
            (&file, &["--threads", "2"]),
            (&file, &["--body-bytes", "20"]),
            (&file, &["--topics", "2"]),
            (&file, &["--topic-skew", "1"]),
            (&file, &["--mix", "1,1,1"]),
            (&file, &["--seed", "1"]),
            (&generate, &["--priority", "high"]),
            (&udp, &["--write-bytes", "9"]),
            (&udp, &["--close-wait-ms", "9"]),
            (&generate, &["--datagram-events", "9"]),
            (&session, &["--udp", "127.0.0.1:1"]),
            (&raw, &["--session"]),
            (&session, &["--write-bytes", "9"]),
            (&session, &["--close-wait-ms", "9"]),
            (&producer, &["--connections", "2"]),
            (&producer, &["--threads", "2"]),
        ];
        for (base, added) in cases {
            assert!(plan(base).is_ok(), "{base:?}");
            let error = plan(&[*base, *added].concat()).unwrap_err();
            assert!(matches!(error, SendError::Conflict { .. }) && error.is_usage(), "{base:?} {added:?}: {error}");
        }
    }

    #[test]
    fn a_session_is_asked_for_before_its_flags_are_and_has_a_connection_for_each_producer() {
        let flags = ["--ack", "durable"];
        for lonely in [&flags[..], &["--producer-id", &"a".repeat(32)], &["--token-file", "x"], &["--first-sequence", "2"]] {
            let error = plan(&[&["--generate", "1"], lonely].concat()).unwrap_err();
            assert!(matches!(error, SendError::Lacking { .. }) && error.is_usage(), "{lonely:?}: {error}");
        }
        let made = plan(&["--generate", "9", "--session", "--ack", "durable"]).unwrap();
        let Transport::Session(session) = made.transport else { panic!() };
        assert_eq!((session.ack_level, session.producer, session.first_sequence), (AckLevel::Durable, None, 1));
        assert_eq!(made.connections, 8);
        assert_eq!(plan(&["--generate", "9", "--session", "--producer-id", &"a".repeat(32)]).unwrap().connections, 1);
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_their_range() {
        for flags in [
            &["--topics", "0"][..],
            &["--connections", "0"],
            &["--threads", "0"],
            &["--threads", "9", "--connections", "8"],
            &["--write-bytes", "0"],
            &["--close-wait-ms", "0"],
            &["--udp", "127.0.0.1:1", "--datagram-events", "0"],
        ] {
            let error = plan(&[&["--generate", "1"], flags].concat()).unwrap_err();
            assert!(matches!(error, SendError::OutOfRange { .. }), "{flags:?}: {error}");
            assert_eq!(error.to_string().lines().count(), 3);
        }
        for topic in ["", "a/+", "a\nb"] {
            assert!(matches!(plan(&["--file", "-", "--topic", topic]), Err(SendError::Topic { .. })));
        }
    }

    #[test]
    fn connections_are_shared_out_without_loss() {
        let plan = plan(&["--generate", "1", "--connections", "8", "--threads", "3"]).unwrap();
        let parts: Vec<_> = (0..3).map(|thread| plan.connections_of(thread)).collect();
        assert_eq!(parts.iter().sum::<usize>(), 8);
        assert!(parts.iter().all(|part| (2..=3).contains(part)));
    }
}

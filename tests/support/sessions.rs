//! Producers that send numbered events in sessions, outlive the engines they send to, and remember what each was promised.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use eventstream::client::{AckLevel, ClientOptions, Producer};
use eventstream::wire::Priority;

use super::PATIENCE;
use super::numbered::{Account, Number};

/// The run that the events of sessions belong to: there is one for all lives of the engine.
const RUN: u32 = u32::MAX;
/// As many events as a burst of the other load has, and as often.
const BURST_EVENTS: u32 = 32;
const BURST_EVERY: Duration = Duration::from_millis(2);

/// Producers of numbered events of all priorities.
pub struct Sessions {
    producers: Vec<Arc<Producer>>,
    senders: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Sessions {
    /// Connects and begins to send. Whenever the engine at this address is gone, they wait for the next one.
    pub fn start(tcp: SocketAddr, level: AckLevel, producers: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut connected, mut senders) = (Vec::new(), Vec::new());
        for connection in 0..producers {
            let options = ClientOptions {
                ack_level: level,
                reconnect_for: PATIENCE,
                backoff_max: Duration::from_millis(100),
                ..ClientOptions::new(tcp.to_string())
            };
            let producer = Arc::new(Producer::connect(options).expect("the engine takes sessions"));
            let (sender, is_over) = (producer.clone(), stop.clone());
            senders.push(std::thread::spawn(move || send(&sender, connection, &is_over)));
            connected.push(producer);
        }
        Self { producers: connected, senders, stop }
    }

    /// Ends them, with an engine there to answer: every event has its outcome then, and what is acked becomes a promise of the account.
    /// Returns how many were sent again on a later connection.
    pub fn end(self, account: &mut Account) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().expect("a sender ends when told to"));
        let mut resent = 0;
        for (connection, producer) in self.producers.into_iter().enumerate() {
            producer.flush().expect("an engine that answers");
            self::note(&producer, connection as u32, account);
            let producer = Arc::into_inner(producer).expect("its sender has ended");
            let statistics = producer.close().expect("an engine that answers");
            assert_eq!(statistics.given, statistics.acked + statistics.refused, "each event has one outcome");
            assert_eq!(statistics.protocol_faults, 0);
            resent += statistics.resent;
        }
        resent
    }
}

fn note(producer: &Producer, connection: u32, account: &mut Account) {
    let refused = producer.take_refusals();
    let is_refused = |sequence| refused.iter().any(|refusal| refusal.covers(sequence));
    let acked = (1..=producer.acked()).filter(|sequence| !is_refused(*sequence)).map(|sequence| sequence as u32 - 1);
    account.handed_over_in(RUN, connection, producer.next_sequence() as u32 - 1);
    account.promised(RUN, connection, acked);
}

fn send(producer: &Producer, connection: u32, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST_EVENTS {
            let priority = Priority::ALL[number as usize % Priority::ALL.len()];
            let sequence = producer.send(priority, "numbered/sessions", &Number { run: RUN, connection, number }.body());
            assert_eq!(sequence.expect("room, in the end"), u64::from(number) + 1);
            number += 1;
        }
        std::thread::sleep(BURST_EVERY); // the pace
    }
}

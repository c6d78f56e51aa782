//! Producers that send numbered events in sessions, outlive the engines they send to, and remember what each was promised.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use eventstream::client::{AckLevel, ClientOptions, Producer};
use eventstream::wire::Priority;

use super::PATIENCE;
use super::numbered::{Account, Number, Outcomes};

/// The run that the events of sessions belong to: there is one for all lives of the engine.
const RUN: u32 = u32::MAX;
/// As often as a burst of the other load.
const BURST_EVERY: Duration = Duration::from_millis(2);

/// Producers of numbered events of all priorities.
pub struct Sessions {
    producers: Vec<Arc<Producer>>,
    senders: Vec<JoinHandle<()>>,
    level: AckLevel,
    stop: Arc<AtomicBool>,
}

impl Sessions {
    /// Connects and begins to send, each so many events every 2 ms. Whenever the engine at this address is gone, they wait for the next one.
    pub fn start(tcp: SocketAddr, level: AckLevel, producers: u32, burst_events: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut connected, mut senders) = (Vec::new(), Vec::new());
        for connection in 0..producers {
            let options = ClientOptions {
                ack_level: level,
                connect_timeout: PATIENCE,
                reconnect_for: PATIENCE,
                silence_max: PATIENCE,
                backoff_first: Duration::from_millis(2),
                backoff_max: Duration::from_millis(50),
                ..ClientOptions::new(tcp.to_string())
            };
            let producer = Arc::new(Producer::connect(options).expect("the engine takes sessions"));
            let (sender, is_over) = (producer.clone(), stop.clone());
            senders.push(std::thread::spawn(move || send(&sender, connection, burst_events, &is_over)));
            connected.push(producer);
        }
        Self { producers: connected, senders, level, stop }
    }

    /// Ends them, with an engine there to answer: every event has its outcome then, and the account knows which.
    pub fn end(self, account: &mut Account) {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().expect("a sender ends when told to"));
        for (connection, producer) in self.producers.into_iter().enumerate() {
            producer.flush().expect("an engine that answers");
            let refusals = producer.take_refusals();
            let producer = Arc::into_inner(producer).expect("its sender has ended");
            let statistics = producer.close().expect("an engine that answers");
            assert_eq!(statistics.given, statistics.acked + statistics.refused, "each event has one outcome");
            assert_eq!((statistics.protocol_faults, statistics.refusals_forgotten), (0, 0));
            assert!(statistics.lost_after_ack == 0 || self.level == AckLevel::Accepted, "only there an ack may be taken back");
            let outcomes = Outcomes { level: self.level, refusals, resent: statistics.resent };
            account.told(RUN, connection as u32, statistics.given as u32, outcomes);
        }
    }
}

fn send(producer: &Producer, connection: u32, burst_events: u32, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..burst_events {
            let priority = Priority::ALL[number as usize % Priority::ALL.len()];
            let sequence = producer.send(priority, "numbered/sessions", &Number { run: RUN, connection, number }.body());
            assert_eq!(sequence.expect("room, in the end"), u64::from(number) + 1);
            number += 1;
        }
        std::thread::sleep(BURST_EVERY); // the pace
    }
}

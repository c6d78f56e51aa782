//! What a life came to: the account of what was sent against ledger, log and what clients were told, once a node has drained.

use super::clients::TcpClient;
use super::damage;
use super::lives::is_sync_failed;
use super::oracle::{self, Arrivals, LogRules};
use super::publishers::SimPublisher;
use super::scenario::{FRAME_BYTES_MAX, HandlerManner};
use super::session_oracle;
use super::world::{Outcome, Past, World};
use crate::metrics::ledger::LedgerTerms;
use crate::pool::Source;
use crate::storage::StoreState;
use crate::storage::format::{BATCH_HEADER_BYTES, crc32c_append};
use crate::storage::node_reader::{NodeReader, verify};
use crate::sys::clock::Clock;
use crate::wire::session::AckLevel;

impl World {
    /// What the run came to, once its last life has drained.
    pub(super) fn reckon(mut self) -> Outcome {
        let log_checksum = self.reckon_life();
        self.publishers.iter().for_each(|publisher| self.past.add_counters(publisher.counters().clone()));
        self.sessions.iter().for_each(|client| self.past.add_counters(client.counters()));
        self.past.add(&self.node);
        let Past { terms, counters } = self.past;
        Outcome { terms, counters, faults: self.ring.met().tally(), steps: self.steps, log_checksum }
    }

    /// The reckoning of a life that has drained; closes its log. Gives the checksum of the log.
    pub(super) fn reckon_life(&mut self) -> u32 {
        self.sessions.iter_mut().for_each(|client| client.hear_the_rest(&self.ring));
        let ledger = self.node.ledger();
        oracle::check_balance(&ledger, self.scheduler.holding());
        let total = ledger.total();
        assert_eq!(total.received, total.outcomes(), "O1: something is still in flight after the drain");
        let (least, most) = self.arrivals();
        oracle::check_receipts(&ledger, &least, &most);
        self.check_letters(&total);
        self.check_rest();
        let processed = self.node.counters()["events_processed batch"];
        assert_eq!(self.node.windowed.get(), processed, "O9: BATCH events in windows, and processed");
        self.check_log()
    }

    /// What agents must have received, and what they may have: bytes that came after the engine itself ended a connection need not be
    /// looked at.
    fn arrivals(&self) -> (Arrivals, Arrivals) {
        let (mut least, mut most) = (Arrivals::default(), Arrivals::default());
        for conn in self.tcp.iter().filter_map(TcpClient::conn) {
            let delivered = self.ring.delivered(conn);
            least.add(Source::Tcp, &delivered.bytes[..delivered.before_shutdown], FRAME_BYTES_MAX as usize);
            most.add(Source::Tcp, &delivered.bytes, FRAME_BYTES_MAX as usize);
        }
        let sockets = self.node.udp.map_or(Vec::new(), |(urgent, rest)| vec![urgent, rest]);
        for (place, socket) in sockets.iter().enumerate() {
            if sockets[..place].contains(socket) {
                continue;
            }
            for datagram in self.ring.delivered_datagrams(*socket).iter().filter(|datagram| !datagram.truncated) {
                least.add(Source::Udp, &datagram.bytes, FRAME_BYTES_MAX as usize);
                most.add(Source::Udp, &datagram.bytes, FRAME_BYTES_MAX as usize);
            }
        }
        self.sessions.iter().for_each(|client| most.add_all(&client.arrivals(&self.ring)));
        for published in self.publishers.iter().map(SimPublisher::arrivals) {
            least.add_all(published);
            most.add_all(published);
        }
        (least, most)
    }

    fn check_letters(&self, total: &LedgerTerms) {
        let letters = self.node.letters.counters();
        assert_eq!(letters.sent(), total.dead_lettered(), "O6: dead letters sent, and dead-lettered by the ledger");
        assert_eq!(self.node.letters.queued(), 0, "O6: dead letters left in their queue");
    }

    fn check_rest(&mut self) {
        assert_eq!(self.ring.in_flight(), [], "O5: operations in flight after the drain");
        assert_eq!(self.ring.accepted_open(), 0, "O5: connections open after the drain");
        self.ring.close_ring();
        assert_eq!(self.node.reactor.borrow_mut().slots_missing(), 0, "O5: slots of the reactor are missing");
        let missing: u64 = self.publishers.iter_mut().map(SimPublisher::slots_missing).sum();
        assert_eq!(missing, 0, "O5: slots of the publishers are missing");
        assert_eq!(self.node.transactional.borrow_mut().slots_missing(), 0, "O5: slots of the retry memory are missing");
    }

    /// O3 and O4; gives the checksum of the log.
    fn check_log(&mut self) -> u32 {
        let ledger = self.node.ledger();
        let Some(log) = &mut self.node.log else {
            assert_eq!(ledger.total().stored, 0, "O3: stored without a log");
            return 0;
        };
        let disk = self.ring.disk();
        (0..4).for_each(|_| oracle::check_watermarks(log.status(), &disk, &mut self.rng));
        let state = log.status().state();
        let store_failed = matches!(state, StoreState::Failed { .. });
        if !store_failed {
            assert!(log.finish(self.ring.wall()).expect("a simulated file"), "a drained log can be closed");
            assert!(verify(disk.clone(), 0).expect("a log").is_whole(), "O3: the log is not whole");
        }
        let stored = oracle::read_log(&disk);
        let given_up = NodeReader::open(disk.clone(), 0).expect("a log").next_sequence();
        let rules = LogRules {
            dedup: self.scenario.dedup,
            transactional_in_order: self.scenario.handler != HandlerManner::Bad,
            store_failed,
            sync_failed: is_sync_failed(state, &disk),
            since: self.life.first_sequence,
            given_up,
        };
        if !store_failed {
            let mark_at = log.status().written_bytes() - BATCH_HEADER_BYTES as u64;
            damage::check_damage(&disk, &stored, mark_at, &mut self.rng, &self.ring.met());
        }
        oracle::check_log(&stored, &ledger, &self.account, rules);
        self.check_sessions(self.sound_level(), &disk);
        if !store_failed {
            let ground = self.ground(AckLevel::Accepted, &disk);
            self.sessions.iter().for_each(|client| session_oracle::check_told_all(&stored, client, ground));
        }
        disk.content().values().fold(0, |crc, bytes| crc32c_append(crc, bytes))
    }
}

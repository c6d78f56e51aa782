//! Random interleavings of clients, processors and faults over a pool that is always too small.

use super::test_support::*;
use crate::bus::Overflow;
use crate::metrics::ledger::DropReason;
use crate::sys::clock::Nanos;
use crate::sys::io::Fd;
use crate::wire::{Priority, Tier};

/// xorshift64*, Marsaglia / Vigna.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

struct Client {
    fd: Fd,
    stream: Vec<u8>,
    sent: usize,
}

const FRAMES: usize = 60;
const CLIENTS: usize = 5;

/// A client's frames: body = client, number, filler.
fn stream(dice: &mut Dice, client: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..FRAMES as u8 {
        let filler = [0, 20, 300, 2500, 5000][dice.below(5)];
        let mut body = vec![client, number];
        body.resize(2 + dice.below(filler + 1), 7);
        bytes.extend(frame(Priority::ALL[dice.below(5)], &body));
    }
    bytes
}

fn options(dice: &mut Dice) -> RigOptions {
    let mut options = RigOptions {
        // Parking memory for less than what all clients could leave behind.
        slots: [12, 20, 4, 4 + dice.below(3) as u32, 6 + dice.below(6) as u32],
        overflow: Overflow::BlockProducer,
        lane_events: 16,
        high_water_events: [2, 8, 64][dice.below(3)],
        ..RigOptions::default()
    };
    options.reactor.tcp_flow_control = dice.below(2) == 0;
    options
}

fn send_some(rig: &mut Rig, client: &mut Client, dice: &mut Dice) {
    if rig.ring.armed_on(client.fd).is_none() || client.sent == client.stream.len() {
        return;
    }
    if dice.below(20) == 0 {
        return rig.end(client.fd, Err([libc::ENOBUFS, libc::EINTR, libc::ECANCELED][dice.below(3)]));
    }
    let count = (1 + dice.below(CHUNK_BYTES)).min(client.stream.len() - client.sent);
    let more = dice.below(8) > 0;
    if rig.send_chunk(client.fd, &client.stream[client.sent..client.sent + count], more) {
        client.sent += count;
    } else {
        rig.end(client.fd, Err(libc::ENOBUFS));
    }
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let mut rig = Rig::new(options(&mut dice));
    let mut clients: Vec<_> =
        (0..CLIENTS as u8).map(|number| Client { fd: rig.connect(), stream: stream(&mut dice, number), sent: 0 }).collect();
    let mut last = [[None; CLIENTS]; Tier::COUNT];
    let mut taken = 0;
    for _ in 0..100_000 {
        match dice.below(4) {
            0 => drop(rig.poll()),
            1 => {
                let tier = Tier::ALL[dice.below(3)];
                for event in rig.take_some(tier, 1 + dice.below(6)) {
                    let (client, number) = (event.body[0] as usize, event.body[1]);
                    let before = last[tier.index()][client].replace(number);
                    assert!(before < Some(number), "seed {seed}: {number} of {client} after {before:?}");
                    taken += 1;
                }
            }
            _ => {
                let client = dice.below(CLIENTS);
                send_some(&mut rig, &mut clients[client], &mut dice);
            }
        }
        if taken == CLIENTS * FRAMES {
            break;
        }
        rig.ring.now = rig.ring.now + Nanos::from_micros(1);
    }
    let stuck: Vec<_> = clients.iter().map(|c| (c.sent, c.stream.len(), rig.ring.armed_on(c.fd).is_some())).collect();
    assert_eq!(taken, CLIENTS * FRAMES, "seed {seed}: every frame becomes an event: {stuck:?}");
    assert_eq!(rig.terms().lost, [0; DropReason::COUNT]);
    rig.drain();
}

#[test]
fn any_interleaving_keeps_order_loses_nothing_and_gives_everything_back() {
    (1..=200).for_each(run);
}

/// Clients speak up one after the other and then have data at all times: each armed one takes a chunk or finds none, as a kernel
/// does it, in another order each turn.
fn flood_turn(rig: &mut Rig, clients: &mut [Client], dice: &mut Dice) {
    let first = dice.below(clients.len());
    let (behind, before) = clients.split_at_mut(first);
    for client in before.iter_mut().chain(behind).filter(|client| client.sent < client.stream.len()) {
        if rig.ring.armed_on(client.fd).is_none() || (client.sent == 0 && dice.below(50) > 0) {
            continue;
        }
        let bytes = &client.stream[client.sent..client.stream.len().min(client.sent + CHUNK_BYTES)];
        if rig.send_chunk(client.fd, bytes, true) {
            client.sent += bytes.len();
        } else {
            rig.end(client.fd, Err(libc::ENOBUFS));
        }
    }
    Tier::ALL.into_iter().for_each(|tier| drop(rig.take(tier)));
    rig.pass(Nanos::from_micros(10));
}

/// 40 clients with frames for four large slots, of which unfinished frames may have two.
fn large_frames_get_through(chunks: u32, parking: u32, seed: u64) {
    let mut options = RigOptions { slots: [64, 64, 4, chunks, parking], ..RigOptions::default() };
    options.reactor.connections_max = 40;
    options.reactor.tcp_chunks_offered = chunks as u16;
    let (mut rig, mut dice) = (Rig::new(options), Dice(seed));
    let stream = |name: u8| [frame(Priority::Low, &[name; 5000]), frame(Priority::Medium, &[name; 4000])].concat();
    let mut clients: Vec<_> = (0..40).map(|name| Client { fd: rig.connect(), stream: stream(name), sent: 0 }).collect();
    for _ in 0..5000 {
        flood_turn(&mut rig, &mut clients, &mut dice);
        if rig.terms().received == 80 {
            return rig.drain();
        }
    }
    panic!("{} of 80 frames with {chunks} chunks, {parking} parking slots, seed {seed}", rig.terms().received);
}

#[test]
fn many_large_frames_at_once_get_through_little_memory_before_any_deadline() {
    for (chunks, parking) in [(2, 8), (4, 4), (4, 6), (4, 9), (8, 8), (8, 12)] {
        (1..=10).for_each(|seed| large_frames_get_through(chunks, parking, seed));
    }
}

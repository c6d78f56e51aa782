//! Generated load: frames encoded once, an id written into each copy.
//!
//! The generator has to outrun the engine from one core. So a few blocks of frames, each one write long, are encoded at the
//! start; a piece is a copy of the next block (4 ns an event at the 1.4 ns per 80 bytes of a warm memcpy, cache misses
//! included) with sixteen digits written into each body.

use super::{Generate, Piece};
use crate::wire::{Priority, encode_header, encoded_len};

/// Blocks encoded at the start: the shuffle of priorities and topics repeats after so many. 8 x 64 KiB stay in L2.
const BLOCKS: usize = 8;

/// Digits of an id.
const ID_DIGITS: usize = 16;

/// See the module doc.
#[derive(Debug)]
pub(in crate::commands) struct Generator {
    blocks: Vec<Block>,
    /// The block and the frame in it that come next.
    block: usize,
    frame: usize,
    next_id: u64,
    events_left: u64,
}

#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    frames: Vec<Mark>,
}

/// Where a frame lies in its block.
#[derive(Clone, Copy, Debug)]
struct Mark {
    start: u32,
    end: u32,
    id_at: u32,
    priority: Priority,
}

impl Generator {
    /// One thread's share. `block_bytes` is about what goes into one write.
    pub(in crate::commands) fn new(generate: &Generate, block_bytes: usize, thread: usize, threads: usize) -> Generator {
        let share = |threads_before: usize| (u128::from(generate.events) * threads_before as u128 / threads as u128) as u64;
        let first = share(thread);
        // Ids run on from a place that the seed chooses: two seeds overlap with a chance of events / 2^63.
        let base = SplitMix(generate.seed).next();
        let shuffle = SplitMix(generate.seed.wrapping_add(thread as u64 + 1));
        Generator {
            blocks: blocks(generate, block_bytes, shuffle),
            block: 0,
            frame: 0,
            next_id: base.wrapping_add(first),
            events_left: share(thread + 1) - first,
        }
    }

    /// Appends the next events, up to the end of the block and up to `events_max`.
    pub(in crate::commands) fn fill(&mut self, piece: &mut Piece, events_max: u64) {
        let block = &self.blocks[self.block];
        let rest = &block.frames[self.frame..];
        // No more than `rest` holds, so it fits.
        let count = events_max.min(self.events_left).min(rest.len() as u64) as usize;
        let marks = &rest[..count];
        let (Some(first), Some(last)) = (marks.first(), marks.last()) else { return };
        piece.bytes.extend_from_slice(&block.bytes[first.start as usize..last.end as usize]);
        for mark in marks {
            let at = (mark.id_at - first.start) as usize;
            piece.bytes[at..at + ID_DIGITS].copy_from_slice(&hex(self.next_id));
            self.next_id = self.next_id.wrapping_add(1);
            piece.tally.count(mark.priority);
        }
        piece.tally.bytes += u64::from(last.end - first.start);
        self.events_left -= count as u64;
        self.frame += count;
        if self.frame == block.frames.len() {
            self.frame = 0;
            self.block = (self.block + 1) % self.blocks.len();
        }
    }
}

/// Blocks whose frames keep the shares of priorities and sizes as exactly as their number allows, in shuffled order.
fn blocks(generate: &Generate, block_bytes: usize, mut random: SplitMix) -> Vec<Block> {
    let sizes = generate.body_bytes.shares();
    let bodies: Vec<(Vec<u8>, usize)> = sizes.iter().map(|(bytes, _)| body(*bytes)).collect();
    let (mix, of_sizes) = (generate.mix.shares(), sizes.iter().map(|(_, share)| *share).collect::<Vec<_>>());
    let (mut mix_debts, mut size_debts) = (vec![0; mix.len()], vec![0; of_sizes.len()]);
    let topics = generate.topic_skew.shares_up_to(generate.topics);
    // Topics differ in length: plan with the longest.
    let frame_bytes = encoded_len(format!("{}/{}", generate.topic, generate.topics - 1).len(), generate.body_bytes.mean());
    let frames = (block_bytes / frame_bytes).max(1);
    (0..BLOCKS)
        .map(|_| {
            let mut priorities: Vec<_> = (0..frames).map(|_| Priority::ALL[furthest_behind(mix, &mut mix_debts)]).collect();
            let mut sizes: Vec<_> = (0..frames).map(|_| furthest_behind(&of_sizes, &mut size_debts)).collect();
            shuffle(&mut priorities, &mut random);
            shuffle(&mut sizes, &mut random);
            let mut block = Block::default();
            for (priority, size) in priorities.into_iter().zip(sizes) {
                let topic = format!("{}/{}", generate.topic, random.place(&topics));
                let (template, id_in_body) = &bodies[size];
                let header = encode_header(priority, topic.len(), template.len()).expect("the plan checked topic and body");
                let start = block.bytes.len();
                block.bytes.extend_from_slice(&header);
                block.bytes.extend_from_slice(topic.as_bytes());
                let id_at = block.bytes.len() + id_in_body;
                block.bytes.extend_from_slice(template);
                // Blocks are about a write long, 16 MiB at most, or a frame of 16 MiB beyond that.
                let [start, end, id_at] = [start, block.bytes.len(), id_at].map(|offset| offset as u32);
                block.frames.push(Mark { start, end, id_at, priority });
            }
            block
        })
        .collect()
}

/// The place of what is furthest behind its share.
fn furthest_behind(shares: &[u32], debts: &mut [i64]) -> usize {
    for (debt, share) in debts.iter_mut().zip(shares) {
        *debt += i64::from(*share);
    }
    let furthest = (0..debts.len()).max_by_key(|index| debts[*index]).expect("at least one share");
    debts[furthest] -= shares.iter().copied().map(i64::from).sum::<i64>();
    furthest
}

/// A body of exactly so many bytes, and where its id goes: JSON where it fits, else the id and filling.
fn body(body_bytes: usize) -> (Vec<u8>, usize) {
    const START: &str = r#"{"seq":""#;
    const ID: &str = "0000000000000000";
    const PAD: &str = r#"","pad":""#;
    let fixed = START.len() + ID.len();
    let body = if body_bytes >= fixed + PAD.len() + 2 {
        format!("{START}{ID}{PAD}{}\"}}", "x".repeat(body_bytes - fixed - PAD.len() - 2))
    } else if body_bytes >= fixed + 2 {
        format!("{START}{ID}\"}}{}", " ".repeat(body_bytes - fixed - 2))
    } else {
        return ([ID.as_bytes(), &vec![b'.'; body_bytes - ID.len()]].concat(), 0);
    };
    (body.into_bytes(), START.len())
}

/// Sixteen hexadecimal digits, two at a time from a table.
#[inline]
fn hex(id: u64) -> [u8; ID_DIGITS] {
    const PAIRS: [[u8; 2]; 256] = {
        let digits = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
            byte += 1;
        }
        pairs
    };
    let mut text = [0; ID_DIGITS];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(id.to_be_bytes()) {
        *pair = PAIRS[usize::from(byte)];
    }
    text
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A place in shares that ascend to 1, each as often as its share.
    fn place(&mut self, shares_up_to: &[f64]) -> usize {
        // 53 bits: all that a number from 0 to 1 can hold.
        let drawn = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        shares_up_to.partition_point(|share| *share <= drawn).min(shares_up_to.len() - 1)
    }

    /// Below `bound`, which is above 0. The bias of the multiplication is below 2^-32.
    fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], random: &mut SplitMix) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u32 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::super::{BodySizes, Mix, TopicSkew};
    use super::*;
    use crate::wire::{FrameLimits, datagram};

    fn generate(events: u64) -> Generate {
        let (body_bytes, topic_skew) = (BodySizes::standard(), TopicSkew::default());
        Generate { events, body_bytes, topic: "load".into(), topics: 16, topic_skew, mix: Mix::STANDARD, seed: 7 }
    }

    /// All bodies by a generator's frames, and how many came of each priority and topic.
    fn run(generate: &Generate, threads: usize, events_max: u64) -> (Vec<Vec<u8>>, HashMap<Priority, u64>, HashSet<String>) {
        let (mut bodies, mut priorities, mut topics) = (Vec::new(), HashMap::new(), HashSet::new());
        for thread in 0..threads {
            let mut generator = Generator::new(generate, 65_536, thread, threads);
            loop {
                let mut piece = Piece::default();
                generator.fill(&mut piece, events_max);
                if piece.bytes.is_empty() {
                    break;
                }
                let before = bodies.len();
                for frame in datagram(&piece.bytes, &FrameLimits::FORMAT) {
                    let frame = frame.expect("well-formed");
                    bodies.push(frame.body.to_vec());
                    *priorities.entry(frame.priority).or_default() += 1;
                    topics.insert(frame.topic.as_str().to_owned());
                }
                assert_eq!(piece.tally.events(), (bodies.len() - before) as u64);
                assert_eq!(piece.tally.bytes, piece.bytes.len() as u64);
            }
        }
        (bodies, priorities, topics)
    }

    #[test]
    fn exactly_so_many_events_with_unique_bodies_in_the_shares_of_the_mix() {
        for (threads, events_max) in [(1, u64::MAX), (3, u64::MAX), (1, 1), (2, 7)] {
            let (bodies, priorities, topics) = run(&generate(10_000), threads, events_max);
            assert_eq!(bodies.len(), 10_000);
            assert_eq!(bodies.iter().collect::<HashSet<_>>().len(), 10_000, "{threads} threads");
            assert!(bodies.iter().all(|body| body.len() == 64 && serde_json::from_slice::<serde_json::Value>(body).is_ok()));
            assert_eq!(topics.len(), 16);
            for (priority, share) in [(Priority::High, 1000), (Priority::Medium, 6000), (Priority::Low, 3000)] {
                assert!(priorities[&priority].abs_diff(share) < 100, "{priorities:?}");
            }
        }
    }

    #[test]
    fn a_seed_repeats_a_run_and_another_shares_no_body_with_it() {
        let one = run(&generate(500), 1, u64::MAX).0;
        assert_eq!(one, run(&generate(500), 1, u64::MAX).0);
        let other = run(&Generate { seed: 8, ..generate(500) }, 1, u64::MAX).0;
        assert!(one.iter().collect::<HashSet<_>>().is_disjoint(&other.iter().collect()));
    }

    #[test]
    fn bodies_have_exactly_their_bytes_and_are_unique_at_any_size() {
        for body_bytes in [16, 17, 25, 26, 27, 34, 35, 36, 100, 70_000] {
            let sizes = BodySizes::fixed(body_bytes).unwrap();
            let (bodies, ..) = run(&Generate { body_bytes: sizes, ..generate(50) }, 1, u64::MAX);
            assert!(bodies.iter().all(|body| body.len() == body_bytes));
            assert_eq!(bodies.iter().collect::<HashSet<_>>().len(), 50);
            if body_bytes >= 26 {
                assert!(bodies.iter().all(|body| serde_json::from_slice::<serde_json::Value>(body).is_ok()), "{body_bytes}");
            }
        }
    }

    #[test]
    fn five_shares_reach_all_five_priorities() {
        let mix = "1,1,1,1,1".parse().unwrap();
        let (_, priorities, _) = run(&Generate { mix, topics: 1, ..generate(1000) }, 1, u64::MAX);
        assert_eq!(priorities.len(), 5);
        assert!(priorities.values().all(|count| (150..=250).contains(count)), "{priorities:?}");
    }

    #[test]
    fn sizes_come_in_their_shares_and_the_first_topics_are_the_busy_ones() {
        let body_bytes = "64:90,300:9,4000:1".parse().unwrap();
        let topic_skew = "1".parse().unwrap();
        let spread = Generate { body_bytes, topic_skew, ..generate(10_000) };
        let mut generator = Generator::new(&spread, 65_536, 0, 1);
        let (mut sizes, mut topics) = (HashMap::<usize, u64>::new(), HashMap::<String, u64>::new());
        loop {
            let mut piece = Piece::default();
            generator.fill(&mut piece, u64::MAX);
            if piece.bytes.is_empty() {
                break;
            }
            for frame in datagram(&piece.bytes, &FrameLimits::FORMAT).map(|frame| frame.expect("well-formed")) {
                *sizes.entry(frame.body.len()).or_default() += 1;
                *topics.entry(frame.topic.as_str().to_owned()).or_default() += 1;
            }
        }
        for (bytes, share) in [(64, 9_000), (300, 900), (4_000, 100)] {
            assert!(sizes[&bytes].abs_diff(share) < 50, "{sizes:?}");
        }
        // The harmonic number of 16 is 3.38: 2,958 of 10,000, and 185 for the last.
        assert!((2_500..3_500).contains(&topics["load/0"]) && topics["load/15"] < 350, "{topics:?}");
    }
}

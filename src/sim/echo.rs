//! Proves ring and scheduler with the smallest agent that uses all of them: it appends what connections bring to a file.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::clients::{Account, FrameMix, Manner, TcpClient};
use super::disk::SimFile;
use super::faults::Faults;
use super::frames;
use super::net::LOCALHOST;
use super::ring::SimRing;
use super::rng::Rng;
use super::scheduler::{Pace, Scheduler};
use crate::agent::{Agent, Context, Holding, Work};
use crate::pool::{ClassStrides, OwnerLayout, PoolOwner, SharedPool, SlotClass, SlotUse};
use crate::storage::{LogFile, LogFolder};
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Fd, GroupId, Ring, Token, WriteSync};
use crate::sys::memory::{Arena, StagingBuffer};
use crate::wire::Priority;

const ACCEPT: u8 = 0;
const RECV: u8 = 1;
const CLOSE: u8 = 2;
const WRITE: u8 = 3;
const CHUNKS: u16 = 3;
const CHUNK_BYTES: u32 = 448;

/// Every chunk becomes one record of the file: the connection, the length, the bytes.
struct Echo {
    owner: PoolOwner,
    listener: Fd,
    file: SimFile,
    conns: BTreeMap<u32, Fd>,
    accepted: u32,
    starved: Vec<u32>,
    to_write: VecDeque<u8>,
    staging: Option<StagingBuffer>,
    writing: usize,
    offset: u64,
    accept_again_at: Option<Nanos>,
}

impl Echo {
    fn new(listener: Fd, file: SimFile) -> Self {
        let strides = ClassStrides::new(256, CHUNK_BYTES);
        let layout = OwnerLayout::with_standard_quotas([0, 0, 0, u32::from(CHUNKS), 0]);
        let arena = Arena::map(SharedPool::arena_bytes(&strides, std::slice::from_ref(&layout))).expect("a small mapping");
        let mut owner = SharedPool::divide(arena, strides, &[layout]).1.remove(0);
        owner.open_group(GroupId::Tcp, CHUNKS);
        Self {
            owner,
            listener,
            file,
            conns: BTreeMap::new(),
            accepted: 0,
            starved: Vec::new(),
            to_write: VecDeque::new(),
            staging: Some(StagingBuffer::map(4096).expect("a small mapping")),
            writing: 0,
            offset: 0,
            accept_again_at: None,
        }
    }

    fn received(&mut self, completion: Completion, ctx: &mut Context<'_, SimRing>) {
        let slot = completion.token.slot();
        let count = completion.result.unwrap_or(0) as usize;
        if let Some(buffer) = completion.buffer {
            let mut chunk = self.owner.take_back(buffer);
            if count > 0 {
                self.to_write.extend(slot.to_le_bytes());
                self.to_write.extend((count as u32).to_le_bytes());
                self.to_write.extend(&self.owner.bytes_mut(&mut chunk)[..count]);
            }
            let lent = self.owner.lend(chunk, GroupId::Tcp, 0).expect("its id has just come back");
            ctx.ring.provide(lent);
        }
        if completion.more {
            return;
        }
        match completion.result {
            Err(errno) if errno.0 == libc::ENOBUFS => self.starved.push(slot),
            Ok(1..) => self.arm(slot, ctx),
            Ok(0) | Err(_) => ctx.ring.close(ctx.token(CLOSE, 0, slot), self.conns[&slot]),
        }
    }

    fn arm(&mut self, slot: u32, ctx: &mut Context<'_, SimRing>) {
        ctx.ring.recv_multishot(ctx.token(RECV, 0, slot), self.conns[&slot], GroupId::Tcp, 900);
    }

    fn written(&mut self, completion: Completion, ctx: &mut Context<'_, SimRing>) {
        self.staging = Some(ctx.ring.reclaim(completion.token));
        let count = completion.result.unwrap_or(0);
        self.offset += u64::from(count);
        self.to_write.drain(..count as usize);
        self.writing = 0;
    }
}

impl Agent<SimRing> for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn start(&mut self, ctx: &mut Context<'_, SimRing>) {
        for _ in 0..CHUNKS {
            let slot = self.owner.acquire(SlotClass::Chunk, SlotUse::Kernel).expect("all are free");
            ctx.ring.provide(self.owner.lend(slot, GroupId::Tcp, 0).expect("the group is open"));
        }
        ctx.ring.accept_multishot(ctx.token(ACCEPT, 0, 0), self.listener);
    }

    fn complete(&mut self, completion: Completion, ctx: &mut Context<'_, SimRing>) {
        match completion.token.kind() {
            ACCEPT => {
                if let Ok(fd) = completion.result {
                    self.conns.insert(self.accepted, Fd(fd as i32));
                    self.arm(self.accepted, ctx);
                    self.accepted += 1;
                }
                if !completion.more {
                    self.accept_again_at = Some(ctx.now + Nanos::from_millis(1));
                }
            }
            RECV => self.received(completion, ctx),
            CLOSE => {
                self.conns.remove(&completion.token.slot());
            }
            _ => self.written(completion, ctx),
        }
    }

    fn poll(&mut self, ctx: &mut Context<'_, SimRing>) -> Work {
        let starved = std::mem::take(&mut self.starved);
        let done = starved.len() as u32;
        starved.into_iter().for_each(|slot| self.arm(slot, ctx));
        if self.accept_again_at.is_some_and(|at| at <= ctx.now) {
            self.accept_again_at = None;
            ctx.ring.accept_multishot(ctx.token(ACCEPT, 0, 0), self.listener);
        }
        if self.writing == 0
            && !self.to_write.is_empty()
            && let Some(mut staging) = self.staging.take()
        {
            self.writing = self.to_write.len().min(staging.len());
            staging.iter_mut().zip(&self.to_write).for_each(|(to, byte)| *to = *byte);
            let token = ctx.token(WRITE, 0, 0);
            ctx.ring.write(token, self.file.fd(), staging, 0..self.writing, self.offset, WriteSync::None);
        }
        Work { done, next_deadline: self.accept_again_at }
    }

    fn drain(&mut self, _: &mut Context<'_, SimRing>) {}

    fn is_drained(&self) -> bool {
        self.to_write.is_empty() && self.conns.is_empty()
    }

    fn holding(&self) -> Holding {
        Holding::default()
    }
}

fn rough() -> Faults {
    Faults {
        silent_end: 100,
        short_receive: 300,
        buffer_with_nothing: 500,
        accept_aborted: 100,
        descriptors_max: 3,
        cq_entries: 4,
        late_completion: 50,
        late_max: Nanos::from_millis(2),
        receive_window_bytes: 700,
        short_write: 300,
        whole_sectors: false,
        file_delay_max: Nanos::from_micros(300),
        file_stall: 20,
        ..Faults::none()
    }
}

/// Runs a seed; gives the file's bytes and what each connection brought.
fn run(seed: u64) -> (Vec<u8>, Vec<Vec<u8>>, Account) {
    let mut rng = Rng::new(seed);
    let ring = SimRing::new(rng.next_u64(), rough());
    let (listener, file) = (ring.listen(), ring.disk().create("echo").expect("an empty disk"));
    let pace =
        Pace { kernel: 300, completions: 250, time: 50, stalls: 5, wall_jumps: 0, leaps: 0, stall_max: Nanos::from_millis(1) };
    let mut scheduler = Scheduler::new(ring.clone(), rng.fork(), pace);
    let echo = Rc::new(RefCell::new(Echo::new(listener, file.clone())));
    scheduler.seat(echo.clone());
    let mut account = Account::default();
    let mix = FrameMix {
        priorities: Priority::ALL.to_vec(),
        frame_bytes_max: 256,
        long: 100,
        twice: 50,
        pause_max: Nanos::from_micros(400),
    };
    let manners = [Manner::Orderly, Manner::Dribbling, Manner::ResetInFrame, Manner::Orderly, Manner::Orderly];
    let mut client = |manner| TcpClient::new((manner, LOCALHOST), listener, 30, mix.clone(), &mut account, rng.fork());
    let mut clients: Vec<TcpClient> = manners.into_iter().map(&mut client).collect();
    for _ in 0..200_000 {
        let who = rng.index(clients.len() + 4);
        if let Some(client) = clients.get_mut(who) {
            client.act(&ring, &mut account);
            continue;
        }
        scheduler.step();
        if clients.iter().all(|c| c.next_at().is_none())
            && echo.borrow().is_drained()
            && ring.accepted_open() == 0
            && scheduler.is_quiet()
        {
            break;
        }
        if scheduler.is_quiet()
            && let Some(time) = scheduler.next_time().into_iter().chain(clients.iter().filter_map(TcpClient::next_at)).min()
        {
            scheduler.jump(time);
        }
    }
    assert!(echo.borrow().is_drained(), "did not come to its end:\n{}", scheduler.describe());
    let delivered = clients.iter().map(|c| ring.delivered(c.conn().expect("all connected")).bytes).collect();
    (file.seen(), delivered, account)
}

/// The file's records, put together by connection, longest first.
fn streams(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut streams: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    while let Some((header, rest)) = file.split_at_checked(8) {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let (bytes, rest) = rest.split_at(word(4) as usize);
        streams.entry(word(0)).or_default().extend(bytes);
        file = rest;
    }
    streams.into_values().collect()
}

#[test]
fn everything_delivered_reaches_the_file_in_order_on_every_seed() {
    for seed in 0..40 {
        let (file, mut delivered, account) = run(seed);
        let mut stored = streams(&file);
        delivered.retain(|bytes| !bytes.is_empty());
        delivered.sort();
        stored.sort();
        assert_eq!(stored, delivered, "seed {seed}");
        let names: usize = stored.iter().map(|bytes| frames::walk(bytes, 256).frames.len()).sum();
        assert!(names as u32 <= account.sent.values().map(|(_, times)| times).sum(), "seed {seed}: more than was sent");
        assert!(names > 100, "seed {seed}: most frames arrive");
    }
}

#[test]
fn a_seed_replays_exactly() {
    assert_eq!(run(5).0, run(5).0);
    assert_ne!(run(5).0, run(6).0);
}

fn idle_ring() -> (SimRing, Fd) {
    let ring = SimRing::new(1, Faults::none());
    let listener = ring.listen();
    (ring, listener)
}

#[test]
#[should_panic(expected = "closed under an operation in flight")]
fn closing_under_an_operation_is_caught() {
    let (mut ring, listener) = idle_ring();
    ring.accept_multishot(Token::new(0, 0, 0, 0), listener);
    ring.close(Token::new(0, 1, 0, 0), listener);
}

#[test]
#[should_panic(expected = "while it is in flight")]
fn a_token_used_twice_is_caught() {
    let (mut ring, listener) = idle_ring();
    ring.accept_multishot(Token::new(0, 0, 0, 0), listener);
    ring.accept_multishot(Token::new(0, 0, 0, 0), listener);
}

#[test]
#[should_panic(expected = "a second write in flight")]
fn a_second_write_on_one_file_is_caught() {
    let (mut ring, _) = idle_ring();
    let fd = ring.disk().create("echo").expect("an empty disk").fd();
    for kind in 0..2 {
        let buffer = StagingBuffer::map(4096).expect("a small mapping");
        ring.write(Token::new(0, kind, 0, 0), fd, buffer, 0..4096, 0, WriteSync::None);
    }
}

#[test]
fn a_cancelled_operation_still_ends_by_itself() {
    let (mut ring, listener) = idle_ring();
    let (accept, cancel) = (Token::new(0, 0, 0, 0), Token::new(0, 1, 0, 0));
    ring.accept_multishot(accept, listener);
    ring.cancel(cancel, accept);
    while ring.step() {}
    let ended: BTreeMap<u64, Result<u32, i32>> = std::iter::from_fn(|| ring.take_completion())
        .map(|completion| (completion.token.0, completion.result.map_err(|errno| errno.0)))
        .collect();
    assert_eq!(ended[&cancel.0], Ok(0));
    assert_eq!(ended[&accept.0], Err(libc::ECANCELED));
    assert!(ring.in_flight().is_empty());
}

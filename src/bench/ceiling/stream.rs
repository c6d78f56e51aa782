//! The bare ends of TCP streams: a sender that only writes, a receiver that only takes chunks in.
//!
//! The receiver is the engine's own way in without what comes after it: the same ring, multishot receives, provided buffers of 64 KiB.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::CeilingError;
use crate::pool::{ClassStrides, OwnerLayout, PoolOwner, SharedPool, Slot, SlotClass, SlotUse};
use crate::sys::features::Features;
use crate::sys::io::{Completion, Errno, Fd, GroupId, Ring, Token};
use crate::sys::memory::{Arena, StagingBuffer};
use crate::sys::process::pin_current_thread;
use crate::sys::uring::{Uring, UringOptions, Wait};
use crate::wire::{Priority, encode_into};

/// Bytes of a provided buffer, and of a write of the sender.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Provided buffers: 1 MiB of them stays in cache on what has 1 MiB of it for a core.
const CHUNKS: u16 = 16;
/// Completions taken at a time.
const COMPLETIONS_MAX: usize = 256;

const RECEIVE: u8 = 1;
const WRITE: u8 = 2;
const SYNC: u8 = 3;

/// What the frames of a stream look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameShape {
    /// Bytes of a topic, 1 to 255.
    pub topic_bytes: usize,
    /// Bytes of a body.
    pub body_bytes: usize,
}

impl FrameShape {
    /// Frames of 80 bytes, as the references were measured with.
    pub const REFERENCE: FrameShape = FrameShape { topic_bytes: 9, body_bytes: 64 };

    /// Whole frames, about a chunk's worth of bytes.
    pub(super) fn block(&self) -> Vec<u8> {
        let (topic, body) = ("t".repeat(self.topic_bytes), vec![b'.'; self.body_bytes]);
        let mut block = Vec::new();
        loop {
            let before = block.len();
            encode_into(&mut block, Priority::Medium, &topic, &body).expect("a topic of letters, and a body below 16 MiB");
            if 2 * block.len() - before > CHUNK_BYTES {
                return block;
            }
        }
    }
}

/// Writes a block over and over, flat out, on connections in turn.
pub(super) struct BareSender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Both ends of so many connections.
pub(super) fn connect(connections: usize) -> io::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let mut ends = (Vec::with_capacity(connections), Vec::with_capacity(connections));
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        ends.0.push(stream);
        ends.1.push(listener.accept()?.0);
    }
    Ok(ends)
}

impl BareSender {
    pub(super) fn start(mut streams: Vec<TcpStream>, block: Vec<u8>, cpu: Option<u32>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let body = move || {
            // Best effort: with one CPU there is nothing to choose.
            let _ = cpu.map(pin_current_thread);
            let mut written = vec![0; streams.len()];
            while !stopped.load(Ordering::Relaxed) {
                let mut moved = false;
                for (stream, at) in streams.iter_mut().zip(&mut written) {
                    match stream.write(&block[*at..]) {
                        Ok(bytes) => {
                            *at = (*at + bytes) % block.len();
                            moved = true;
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        // The receiver has seen enough.
                        Err(_) => return,
                    }
                }
                if !moved {
                    std::thread::yield_now();
                }
            }
        };
        Ok(Self { stop, thread: std::thread::Builder::new().name("bare-sender".into()).spawn(body)? })
    }

    pub(super) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sender does not panic");
    }
}

/// A chunk that a connection filled. It goes back with [`Intake::give_back`].
pub(super) struct Chunk {
    pub(super) connection: usize,
    slot: Slot,
    filled: usize,
}

/// What a turn of the ring brought.
pub(super) enum Arrival {
    /// Bytes of a connection, in its order.
    Bytes(Chunk),
    /// A write ended; its buffer can be had back by its token.
    Written(Token),
    /// A sync ended.
    Synced,
}

/// A ring with streams to receive from and, perhaps, staging buffers to write from.
pub(super) struct Intake {
    // First: the ring is closed before the memory that the kernel writes to goes.
    ring: Uring,
    pool: PoolOwner,
    shared: Arc<SharedPool>,
    streams: Vec<TcpStream>,
    completions: VecDeque<Completion>,
    turn: Vec<Completion>,
    /// Connections whose receive ended for want of chunks.
    starved: Vec<usize>,
}

impl Intake {
    /// With the first turn each stream is received from. Belongs to the calling thread.
    pub(super) fn open(
        features: &Features,
        streams: Vec<TcpStream>,
        staging: &mut [StagingBuffer],
    ) -> Result<Self, CeilingError> {
        let writes_max = staging.len() as u16;
        let mut ring = Uring::new(&UringOptions { writes_max, ..UringOptions::default() }, features)?;
        let strides = ClassStrides::new(1 << 10, CHUNK_BYTES as u32);
        let mut slots = [0; SlotClass::COUNT];
        slots[SlotClass::Chunk.index()] = CHUNKS.into();
        let layout = OwnerLayout::without_quotas(slots);
        let bytes = SharedPool::arena_bytes(&strides, std::slice::from_ref(&layout));
        let (shared, mut owners) = SharedPool::divide(Arena::map(bytes)?, strides, &[layout]);
        let mut pool = owners.pop().expect("one owner");
        pool.open_group(GroupId::Tcp, CHUNKS);
        ring.register_group(GroupId::Tcp, CHUNKS)?;
        if !staging.is_empty() {
            // Where the limit of locked memory is low they are written unregistered, as the engine does.
            let _ = ring.register_staging(&mut staging.iter_mut().collect::<Vec<_>>());
        }
        ring.enable()?;
        while let Some(slot) = pool.acquire(SlotClass::Chunk, SlotUse::Kernel) {
            ring.provide(pool.lend(slot, GroupId::Tcp, 0).expect("a place for each chunk"));
        }
        let starved = (0..streams.len()).collect();
        let (completions, turn) = (VecDeque::with_capacity(COMPLETIONS_MAX), Vec::with_capacity(COMPLETIONS_MAX));
        Ok(Self { ring, pool, shared, streams, completions, turn, starved })
    }

    /// The ring, to write with.
    pub(super) fn ring(&mut self) -> &mut Uring {
        &mut self.ring
    }

    /// One turn; what it brought is for [`Intake::next`].
    pub(super) fn turn(&mut self, wait: Wait) -> Result<(), CeilingError> {
        // Here, as the completion that said so may have come after those of the last chunks.
        if self.ring.offered(GroupId::Tcp) > 0 {
            self.arm_starved();
        }
        self.ring.turn(wait, &mut self.turn)?;
        self.completions.extend(self.turn.drain(..));
        Ok(())
    }

    /// What came next. Whatever ends a connection only means that no more comes of it.
    pub(super) fn next(&mut self) -> Result<Option<Arrival>, CeilingError> {
        while let Some(Completion { token, result, more, buffer }) = self.completions.pop_front() {
            let failed = |errno: Errno| io::Error::from_raw_os_error(errno.0);
            match token.kind() {
                WRITE => return result.map_err(failed).map(|_| Some(Arrival::Written(token))).map_err(CeilingError::Io),
                SYNC => return result.map_err(failed).map(|_| Some(Arrival::Synced)).map_err(CeilingError::Io),
                _ => {}
            }
            let connection = token.slot() as usize;
            match result {
                Err(Errno(libc::ENOBUFS)) => self.starved.push(connection),
                Ok(bytes) if bytes > 0 && !more => self.arm(connection),
                _ => {}
            }
            if let Some(buffer) = buffer {
                let chunk = Chunk { connection, slot: self.pool.take_back(buffer), filled: result.unwrap_or(0) as usize };
                return Ok(Some(Arrival::Bytes(chunk)));
            }
        }
        Ok(None)
    }

    /// The chunk is the kernel's again.
    pub(super) fn give_back(&mut self, chunk: Chunk) {
        self.ring.provide(self.pool.lend(chunk.slot, GroupId::Tcp, 0).expect("its place is free again"));
    }

    fn arm_starved(&mut self) {
        while let Some(connection) = self.starved.pop() {
            self.arm(connection);
        }
    }

    fn arm(&mut self, connection: usize) {
        self.ring.recv_multishot(token(RECEIVE, connection), Fd(self.streams[connection].as_raw_fd()), GroupId::Tcp, 0);
    }

    /// The memory behind the chunks.
    pub(super) fn memory(&self) -> Arc<SharedPool> {
        self.shared.clone()
    }

    /// No more is to come of the streams.
    pub(super) fn shut(&self) {
        for stream in &self.streams {
            // One that the other side has closed already is no error.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Chunk {
    /// What the connection put there.
    pub(super) fn bytes<'a>(&'a self, memory: &'a SharedPool) -> &'a [u8] {
        &PoolOwner::bytes(memory, &self.slot)[..self.filled]
    }
}

fn token(kind: u8, slot: usize) -> Token {
    Token::new(0, kind, 0, slot as u32)
}

/// The token of a write, by its number.
pub(super) fn write_token(number: u64) -> Token {
    token(WRITE, number as usize)
}

/// The token of a sync; one at a time.
pub(super) fn sync_token() -> Token {
    token(SYNC, 0)
}

/// Finds frames in the chunks of one connection: a frame that two chunks share is put together apart.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    carry: Vec<u8>,
}

/// Bytes of a frame, its length field included; `None` while that is not whole.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|length| 4 + u32::from_be_bytes(*length) as usize)
}

impl Cutter {
    /// Calls `whole` with the place of each whole frame in the chunk, and `carried` first with the frame that began in an earlier one.
    pub(super) fn feed(&mut self, mut chunk: &[u8], carried: impl FnOnce(&[u8]), mut whole: impl FnMut(usize, usize)) -> usize {
        let given = chunk.len();
        if !self.carry.is_empty() {
            let Some(rest) = self.complete(chunk) else { return given };
            chunk = rest;
            carried(&self.carry);
            self.carry.clear();
        }
        let offset = given - chunk.len();
        let mut at = 0;
        while let Some(bytes) = frame_bytes(&chunk[at..])
            && at + bytes <= chunk.len()
        {
            whole(offset + at, bytes);
            at += bytes;
        }
        self.carry.extend_from_slice(&chunk[at..]);
        offset
    }

    /// Takes what the carried frame lacks; the rest of the chunk once it is whole.
    fn complete<'a>(&mut self, mut chunk: &'a [u8]) -> Option<&'a [u8]> {
        loop {
            let wanted = frame_bytes(&self.carry).unwrap_or(4) - self.carry.len();
            let (taken, rest) = chunk.split_at(wanted.min(chunk.len()));
            self.carry.extend_from_slice(taken);
            chunk = rest;
            if taken.len() < wanted {
                return None;
            }
            if frame_bytes(&self.carry) == Some(self.carry.len()) {
                return Some(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_cut_anywhere_has_the_same_frames() {
        let block = FrameShape { topic_bytes: 3, body_bytes: 10 }.block();
        for step in [1, 2, 3, 7, 19, 20, 64, 1_000, block.len()] {
            let (mut cutter, mut frames, mut bytes) = (Cutter::default(), 0, Vec::new());
            for chunk in block.chunks(step) {
                let mut carried_frame = Vec::new();
                let mut places = Vec::new();
                cutter.feed(chunk, |frame| carried_frame.extend_from_slice(frame), |at, len| places.push(at..at + len));
                frames += usize::from(!carried_frame.is_empty()) + places.len();
                bytes.extend(carried_frame);
                places.into_iter().for_each(|place| bytes.extend_from_slice(&chunk[place]));
            }
            assert_eq!(frames, block.len() / 20, "chunks of {step}");
            assert!(bytes == block, "chunks of {step}");
        }
    }

    #[test]
    fn a_block_is_whole_frames_of_about_a_chunk() {
        assert_eq!(FrameShape::REFERENCE.block().len() % 80, 0);
        let large = FrameShape { topic_bytes: 6, body_bytes: 65_536 };
        assert_eq!(frame_bytes(&large.block()), Some(large.block().len()));
    }
}

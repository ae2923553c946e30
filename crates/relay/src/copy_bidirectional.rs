//! `copy_bidirectional`: a connection that is under way, from both sides.
//!
//! While nothing comes it holds no buffer: what is read goes through one that all connections of a worker share, and
//! only what the other side does not take at once is kept, so nothing more is read until that is gone. A side that
//! carries much goes through a pipe instead, uncopied. Each direction ends for itself: a client that has said all may
//! still listen. What must not go in here: who talks to whom.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use netns_nft::NetnsId;
use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::load_balancer::TrafficCounters;
use crate::pipe::{Pipe, Pipes};
use crate::pod_relay::BackendLease;
use crate::poll_io;
use crate::stall::Stalls;
use crate::udp_socket::DATAGRAM_BYTES;

/// What is read at once; also the most that is kept for a side that does not take it.
pub(crate) const BUFFER_BYTES: usize = 32 << 10;
/// After so many full buffers a direction carries much.
const FULL_BEFORE_PIPE: u8 = 2;
/// After so many rounds others have their turn.
const ROUNDS_MAX: u32 = 16;

/// What the connections of a worker share.
#[derive(Debug)]
pub(crate) struct Buffers {
    shared: RefCell<Box<[u8]>>,
    /// For datagrams, which may be larger.
    pub(crate) datagram: RefCell<Box<[u8]>>,
    pipes: Pipes,
}

impl Buffers {
    /// Buffers, and at most so many pipes.
    pub(crate) fn new(pipes_max: usize) -> Self {
        let bytes = |count| RefCell::new(vec![0; count].into());
        Self { shared: bytes(BUFFER_BYTES), datagram: bytes(DATAGRAM_BYTES), pipes: Pipes::new(pipes_max) }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyOutcome {
    /// Both sides have said all, or one broke off.
    Finished,
    /// The backend broke off before anybody had said a word: another may serve the client as well.
    BackendUnused,
}

/// Carries what each side says to the other until both have ended, or one has broken off; then both break off.
pub(crate) async fn copy_bidirectional(
    client: &TcpStream,
    backend: &TcpStream,
    buffers: &Buffers,
    counters: &TrafficCounters,
    lease: &BackendLease,
    stalling: &StallContext<'_>,
) -> CopyOutcome {
    let mut out = Direction::new(client, backend, buffers, &counters.sent, stalling);
    let mut back = Direction::new(backend, client, buffers, &counters.received, stalling);
    let begun = Instant::now();
    let mut has_answered = false;
    let end = poll_fn(|cx| {
        // First, so that what the backend has said goes to the client even where it takes no more, and so that
        // nothing is taken from the client where it has broken off already.
        let received = back.poll(cx);
        if received.is_err() && !out.has_moved && !back.has_moved {
            return Poll::Ready(Ok(CopyOutcome::BackendUnused));
        }
        let sent = out.poll(cx);
        if !has_answered && back.has_moved {
            has_answered = true;
            let delay = out.begun.unwrap_or(begun).elapsed();
            lease.record_response_time(u32::try_from(delay.as_micros()).unwrap_or(u32::MAX));
        }
        match (sent?, received?) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok::<_, io::Error>(CopyOutcome::Finished)),
            _ => Poll::Pending,
        }
    });
    let end = end.await;
    if matches!(end, Ok(CopyOutcome::Finished)) {
        // All was said: what is not delivered yet is left to the kernel.
        for stream in [client, backend] {
            let _ = sockopt::set_socket_linger(stream, None);
        }
    }
    end.unwrap_or(CopyOutcome::Finished)
}

/// One direction.
struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    buffers: &'a Buffers,
    count: &'a AtomicU64,
    stalling: &'a StallContext<'a>,
    kept: Unwritten,
    full: u8,
    has_moved: bool,
    begun: Option<Instant>,
    /// Wakes when the reader's side breaks off, while the other takes nothing and so nothing is read; or when that lasts
    /// too long for the memory that there is.
    broken: Option<Broken<'a>>,
    state: State,
}

type Broken<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// What a connection that stalls has to do with.
pub(crate) struct StallContext<'a> {
    pub(crate) stalls: &'a Arc<Stalls>,
    pub(crate) netns: NetnsId,
    /// How many bytes it holds while one direction stalls.
    pub(crate) bytes: usize,
}

impl StallContext<'_> {
    /// Ends when a connection that has stalled is to be broken off.
    async fn broken(&self, from: &TcpStream) {
        let stall = self.stalls.register(self.netns, self.bytes, Instant::now());
        tokio::select! {
            _ = from.ready(Interest::ERROR) => {}
            () = stall.evicted() => {}
        }
    }
}

/// How far a direction is.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The reader's side has ended; what is kept is still to go.
    Ending,
    Over,
}

/// What was read and not written yet.
#[derive(Debug)]
enum Unwritten {
    Nothing,
    Bytes(Box<[u8]>, usize),
    Pipe(Pipe),
}

impl<'a> Direction<'a> {
    fn new(
        from: &'a TcpStream,
        to: &'a TcpStream,
        buffers: &'a Buffers,
        count: &'a AtomicU64,
        stalling: &'a StallContext<'a>,
    ) -> Self {
        let (kept, state, has_moved) = (Unwritten::Nothing, State::Open, false);
        Self {
            from,
            to,
            buffers,
            count,
            stalling,
            kept,
            full: 0,
            has_moved,
            begun: None,
            broken: None,
            state,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        for _ in 0..ROUNDS_MAX {
            if self.state == State::Over {
                return Ok(Poll::Ready(()));
            }
            if self.flush(cx)?.is_pending() {
                return self.is_broken(cx);
            }
            self.broken = None;
            if self.state == State::Ending {
                self.state = State::Over;
                self.put_back();
                shut_down(self.to)?;
                continue;
            }
            let read =
                if matches!(self.kept, Unwritten::Pipe(_)) { self.read_more(cx)? } else { self.forward(cx)? };
            let Poll::Ready(bytes) = read else {
                self.put_back();
                return Ok(Poll::Pending);
            };
            if bytes == 0 {
                self.state = State::Ending;
                continue;
            }
            if !self.has_moved {
                (self.has_moved, self.begun) = (true, Some(Instant::now()));
            }
            self.count.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    fn is_broken(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let (from, stalling) = (self.from, self.stalling);
        let broken = self.broken.get_or_insert_with(|| Box::pin(stalling.broken(from)));
        match broken.as_mut().poll(cx) {
            Poll::Ready(()) => Err(ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Writes what was kept.
    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        match &mut self.kept {
            Unwritten::Nothing => {}
            Unwritten::Bytes(bytes, written) => {
                while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
                    match poll_io::write(cx, self.to, rest) {
                        Poll::Ready(more) => *written += more?,
                        Poll::Pending => return Ok(Poll::Pending),
                    }
                }
                self.kept = Unwritten::Nothing;
            }
            Unwritten::Pipe(pipe) => {
                while !pipe.is_empty() {
                    match poll_io::poll_write_with(cx, self.to, 0, || pipe.drain(self.to)) {
                        Poll::Ready(more) => drop(more?),
                        Poll::Pending => return Ok(Poll::Pending),
                    }
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Reads into the shared buffer and writes from it; what is not taken is kept.
    fn forward(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<usize>> {
        let mut shared = self.buffers.shared.borrow_mut();
        let Poll::Ready(read) = poll_io::read(cx, self.from, &mut shared)? else { return Ok(Poll::Pending) };
        let mut bytes = shared.get(..read).unwrap_or_default();
        while !bytes.is_empty() {
            let Poll::Ready(written) = poll_io::write(cx, self.to, bytes)? else {
                self.kept = Unwritten::Bytes(bytes.into(), 0);
                break;
            };
            bytes = bytes.get(written..).unwrap_or_default();
        }
        self.full = if read == BUFFER_BYTES { self.full.saturating_add(1) } else { 0 };
        if self.full >= FULL_BEFORE_PIPE
            && matches!(self.kept, Unwritten::Nothing)
            && let Some(pipe) = self.buffers.pipes.acquire()
        {
            self.kept = Unwritten::Pipe(pipe);
        }
        Ok(Poll::Ready(read))
    }

    /// Reads into the pipe, which is empty.
    fn read_more(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<usize>> {
        let Unwritten::Pipe(pipe) = &mut self.kept else { return Ok(Poll::Pending) };
        match poll_io::poll_read_with(cx, self.from, 0, || pipe.fill(self.from)) {
            Poll::Ready(bytes) => Ok(Poll::Ready(bytes?)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Gives an empty pipe back.
    fn put_back(&mut self) {
        if matches!(&self.kept, Unwritten::Pipe(pipe) if pipe.is_empty())
            && let Unwritten::Pipe(pipe) = std::mem::replace(&mut self.kept, Unwritten::Nothing)
        {
            self.full = 0;
            self.buffers.pipes.release(pipe);
        }
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        if let Unwritten::Pipe(pipe) = std::mem::replace(&mut self.kept, Unwritten::Nothing) {
            self.buffers.pipes.release(pipe);
        }
    }
}

/// Says that nothing more comes. That the other side has gone meanwhile is no news.
fn shut_down(to: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

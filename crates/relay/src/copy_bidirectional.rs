//! `copy_bidirectional`: copies the bytes of an established connection between its client and its backend.
//!
//! Each of the two directions is a state machine that ends on its own, so half-closed connections work:
//!
//! ```text
//!              2 reads filled the buffer, and a pipe is available
//!    Copying ──────────────────────────────────────────────────────► Splicing
//!       │    ◄──────────────────────────────────────────────────────    │
//!       │                      nothing to read                          │
//!       └───────── end of stream ────────► Done ◄──── end of stream ────┘
//! ```
//! `Copying` reads into a buffer that all connections of a worker share, so an idle connection holds no buffer. Bytes
//! that the receiver does not accept at once are kept as `unwritten`. `Splicing` moves bytes through a kernel pipe.
//! Both read only if nothing is unwritten; until then the direction is stalled, and `Stalls` can evict the connection.

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

/// The size of the shared buffer, which is also the maximum of unwritten bytes.
pub(crate) const BUFFER_BYTES: usize = 32 << 10;
/// The number of consecutive reads that fill the buffer before a direction switches to a pipe.
const FULL_READS_BEFORE_PIPE: u8 = 2;
/// The number of reads after which a direction yields to other tasks.
const READS_MAX: u32 = 16;

/// The buffers that the connections of a worker share.
#[derive(Debug)]
pub(crate) struct Buffers {
    stream: RefCell<Box<[u8]>>,
    pub(crate) datagram: RefCell<Box<[u8]>>,
    pipes: Pipes,
}

impl Buffers {
    /// Allocates the buffers; pipes are opened on demand.
    pub(crate) fn new(pipes_max: usize) -> Self {
        let bytes = |count| RefCell::new(vec![0; count].into());
        Self { stream: bytes(BUFFER_BYTES), datagram: bytes(DATAGRAM_BYTES), pipes: Pipes::new(pipes_max) }
    }
}

/// The reason why copying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyOutcome {
    /// Both directions reached the end of the stream, or one end aborted the connection.
    Finished,
    /// The backend closed the connection before any byte was copied, so the client can be served by another.
    BackendUnused,
}

/// Copies bytes in both directions until both reach the end of the stream, or one end aborts the connection.
pub(crate) async fn copy_bidirectional(
    client: &TcpStream,
    backend: &TcpStream,
    buffers: &Buffers,
    counters: &TrafficCounters,
    lease: &BackendLease,
    stall: &StallContext<'_>,
) -> CopyOutcome {
    let mut request = Direction::new(client, backend, buffers, &counters.sent, stall);
    let mut response = Direction::new(backend, client, buffers, &counters.received, stall);
    let start = Instant::now();
    let mut has_response_time = false;
    let result = poll_fn(|cx| {
        // The response comes first: what the backend has sent reaches the client even if the backend accepts no more
        // bytes, and no byte of the client is consumed if the backend has closed the connection.
        let received = response.poll(cx);
        if received.is_err() && !request.has_moved() && !response.has_moved() {
            return Poll::Ready(Ok(CopyOutcome::BackendUnused));
        }
        let sent = request.poll(cx);
        if !has_response_time && response.has_moved() {
            has_response_time = true;
            let delay = request.first_read_at.unwrap_or(start).elapsed();
            lease.record_response_time(u32::try_from(delay.as_micros()).unwrap_or(u32::MAX));
        }
        match (sent?, received?) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok::<_, io::Error>(CopyOutcome::Finished)),
            _ => Poll::Pending,
        }
    });
    let result = result.await;
    if matches!(result, Ok(CopyOutcome::Finished)) {
        // Turns SO_LINGER 0 off, so that the kernel delivers what is left in the send buffers after close.
        for stream in [client, backend] {
            let _ = sockopt::set_socket_linger(stream, None);
        }
    }
    result.unwrap_or(CopyOutcome::Finished)
}

/// The data that a stalled connection registers with `Stalls`.
pub(crate) struct StallContext<'a> {
    pub(crate) stalls: &'a Arc<Stalls>,
    pub(crate) netns: NetnsId,
    /// The number of bytes that the connection holds while one direction is stalled.
    pub(crate) bytes: usize,
}

impl StallContext<'_> {
    /// Registers a stall, and waits until the connection must be aborted: the sender has aborted it, or it is evicted.
    async fn aborted(&self, sender: &TcpStream) {
        let stall = self.stalls.register(self.netns, self.bytes, Instant::now());
        tokio::select! {
            _ = sender.ready(Interest::ERROR) => {}
            () = stall.evicted() => {}
        }
    }
}

/// One direction of a connection.
struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    buffers: &'a Buffers,
    bytes: &'a AtomicU64,
    stall: &'a StallContext<'a>,
    state: State,
    first_read_at: Option<Instant>,
    /// `StallContext::aborted` while the direction is stalled. It is boxed, since most connections never stall.
    aborted: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
}

/// The state of a direction; see the diagram above.
#[derive(Debug)]
enum State {
    Copying {
        unwritten: Unwritten,
        /// The number of consecutive reads that filled the buffer.
        full_reads: u8,
    },
    Splicing(Pipe),
    Done,
}

impl Default for State {
    fn default() -> Self {
        Self::Copying { unwritten: Unwritten::default(), full_reads: 0 }
    }
}

/// Bytes that were read and not written yet. The default is empty, and allocates no memory.
#[derive(Debug, Default)]
struct Unwritten {
    bytes: Box<[u8]>,
    written: usize,
}

impl<'a> Direction<'a> {
    fn new(
        from: &'a TcpStream,
        to: &'a TcpStream,
        buffers: &'a Buffers,
        bytes: &'a AtomicU64,
        stall: &'a StallContext<'a>,
    ) -> Self {
        Self { from, to, buffers, bytes, stall, state: State::default(), first_read_at: None, aborted: None }
    }

    fn has_moved(&self) -> bool {
        self.first_read_at.is_some()
    }

    /// Copies until the sender has no bytes, the receiver accepts none, or the stream ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        for _ in 0..READS_MAX {
            if self.poll_flush(cx)?.is_pending() {
                return self.poll_aborted(cx);
            }
            self.aborted = None;
            let (from, to, buffers) = (self.from, self.to, self.buffers);
            let read = match &mut self.state {
                State::Copying { unwritten, full_reads } => {
                    forward(cx, from, to, buffers, unwritten, full_reads)?
                }
                State::Splicing(pipe) => poll_io::poll_read_with(cx, from, 0, || pipe.fill(from))?,
                State::Done => return Ok(Poll::Ready(())),
            };
            match read {
                Poll::Pending => {
                    self.release_pipe();
                    return Ok(Poll::Pending);
                }
                Poll::Ready(0) => {
                    self.release_pipe();
                    self.state = State::Done;
                    shut_down(to)?;
                    return Ok(Poll::Ready(()));
                }
                Poll::Ready(bytes) => {
                    self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                    self.first_read_at.get_or_insert_with(Instant::now);
                    self.acquire_pipe();
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Writes what is unwritten.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        match &mut self.state {
            State::Copying { unwritten, .. } => unwritten.poll_flush(cx, self.to),
            State::Splicing(pipe) => {
                while !pipe.is_empty() {
                    match poll_io::poll_write_with(cx, self.to, 0, || pipe.drain(self.to)) {
                        Poll::Ready(written) => drop(written?),
                        Poll::Pending => return Ok(Poll::Pending),
                    }
                }
                Ok(Poll::Ready(()))
            }
            State::Done => Ok(Poll::Ready(())),
        }
    }

    /// Returns an error if the stalled connection must be aborted.
    fn poll_aborted(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let (from, stall) = (self.from, self.stall);
        let aborted = self.aborted.get_or_insert_with(|| Box::pin(stall.aborted(from)));
        match aborted.as_mut().poll(cx) {
            Poll::Ready(()) => Err(ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Switches from copying to splicing if the last reads filled the buffer.
    fn acquire_pipe(&mut self) {
        if let State::Copying { unwritten, full_reads } = &self.state
            && *full_reads >= FULL_READS_BEFORE_PIPE
            && unwritten.is_empty()
            && let Some(pipe) = self.buffers.pipes.acquire()
        {
            self.state = State::Splicing(pipe);
        }
    }

    /// Switches from splicing to copying.
    fn release_pipe(&mut self) {
        if matches!(self.state, State::Splicing(_))
            && let State::Splicing(pipe) = std::mem::take(&mut self.state)
        {
            self.buffers.pipes.release(pipe);
        }
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        self.release_pipe();
    }
}

impl Unwritten {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> io::Result<Poll<()>> {
        if self.is_empty() {
            return Ok(Poll::Ready(()));
        }
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match poll_io::write(cx, to, rest) {
                Poll::Ready(written) => self.written += written?,
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        *self = Self::default();
        Ok(Poll::Ready(()))
    }
}

/// Reads into the shared buffer and writes from it. Bytes that the receiver does not accept become `unwritten`, which
/// must be empty before. Returns the number of bytes read, or 0 at the end of the stream.
fn forward(
    cx: &mut Context<'_>,
    from: &TcpStream,
    to: &TcpStream,
    buffers: &Buffers,
    unwritten: &mut Unwritten,
    full_reads: &mut u8,
) -> io::Result<Poll<usize>> {
    let mut buffer = buffers.stream.borrow_mut();
    let Poll::Ready(read) = poll_io::read(cx, from, &mut buffer)? else { return Ok(Poll::Pending) };
    let mut bytes = buffer.get(..read).unwrap_or_default();
    while !bytes.is_empty() {
        let Poll::Ready(written) = poll_io::write(cx, to, bytes)? else {
            *unwritten = Unwritten { bytes: bytes.into(), written: 0 };
            break;
        };
        bytes = bytes.get(written..).unwrap_or_default();
    }
    *full_reads = if read == BUFFER_BYTES { full_reads.saturating_add(1) } else { 0 };
    Ok(Poll::Ready(read))
}

/// Signals the end of the stream. The peer may have closed the connection already.
fn shut_down(to: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

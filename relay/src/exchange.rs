//! `Exchange`: a connection that is under way, from both sides.
//!
//! While nothing comes it holds no buffer: what is read goes through one that all connections of a worker share, and
//! only what the other side does not take at once is kept, so nothing more is read until that is gone. A side that
//! carries much goes through a pipe instead, uncopied. Each direction ends for itself: a client that has said all may
//! still listen. What must not go in here: who talks to whom.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::account::Tally;
use crate::pipe::{Pipe, Pipes};
use crate::place::Lease;

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
    pipes: Pipes,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { shared: RefCell::new(vec![0; BUFFER_BYTES].into()), pipes: Pipes::default() }
    }
}

/// Carries what each side says to the other until both have ended, or one has broken off; then both break off.
pub(crate) async fn exchange(
    mut client: TcpStream,
    mut backend: TcpStream,
    buffers: Rc<Buffers>,
    tally: &Tally,
    lease: &Lease,
) {
    let mut out = Way::new(&buffers);
    let mut back = Way::new(&buffers);
    let begun = Instant::now();
    let mut has_answered = false;
    let end = poll_fn(|cx| {
        let sent = out.poll(cx, &mut client, &mut backend, &tally.sent)?;
        let received = back.poll(cx, &mut backend, &mut client, &tally.received)?;
        if !has_answered && back.has_moved {
            has_answered = true;
            let delay = out.begun.unwrap_or(begun).elapsed();
            lease.answered(u32::try_from(delay.as_micros()).unwrap_or(u32::MAX));
        }
        match (sent, received) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok::<_, io::Error>(())),
            _ => Poll::Pending,
        }
    });
    if end.await.is_err() {
        reset(&client);
        reset(&backend);
    }
}

/// Makes the end of a connection a break: the other side learns that something was lost.
pub(crate) fn reset(stream: &TcpStream) {
    // Whoever has broken off already needs no more telling.
    let _ = sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO));
}

/// One direction.
#[derive(Debug)]
struct Way<'a> {
    buffers: &'a Buffers,
    kept: Kept,
    full: u8,
    has_moved: bool,
    begun: Option<Instant>,
    state: State,
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
enum Kept {
    Nothing,
    Bytes(Box<[u8]>, usize),
    Pipe(Pipe),
}

impl<'a> Way<'a> {
    fn new(buffers: &'a Buffers) -> Self {
        let (kept, state) = (Kept::Nothing, State::Open);
        Self { buffers, kept, full: 0, has_moved: false, begun: None, state }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        count: &AtomicU64,
    ) -> io::Result<Poll<()>> {
        for _ in 0..ROUNDS_MAX {
            if self.state == State::Over {
                return Ok(Poll::Ready(()));
            }
            if self.flush(cx, to)?.is_pending() {
                return Ok(Poll::Pending);
            }
            if self.state == State::Ending {
                self.state = State::Over;
                self.put_back();
                shut_down(to)?;
                continue;
            }
            let read = if matches!(self.kept, Kept::Pipe(_)) {
                self.fill(cx, from)?
            } else {
                self.carry(cx, from, to)?
            };
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
            count.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// Writes what was kept.
    fn flush(&mut self, cx: &mut Context<'_>, to: &mut TcpStream) -> io::Result<Poll<()>> {
        match &mut self.kept {
            Kept::Nothing => {}
            Kept::Bytes(bytes, written) => {
                while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
                    match Pin::new(&mut *to).poll_write(cx, rest) {
                        Poll::Ready(more) => *written += more?,
                        Poll::Pending => return Ok(Poll::Pending),
                    }
                }
                self.kept = Kept::Nothing;
            }
            Kept::Pipe(pipe) => {
                while !pipe.is_empty() {
                    match to.poll_write_ready(cx) {
                        Poll::Ready(ready) => ready?,
                        Poll::Pending => return Ok(Poll::Pending),
                    }
                    would_block(to.try_io(Interest::WRITABLE, || pipe.drain(&*to)))?;
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Reads into the shared buffer and writes from it; what is not taken is kept.
    fn carry(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> io::Result<Poll<usize>> {
        let mut shared = self.buffers.shared.borrow_mut();
        let mut buffer = ReadBuf::new(&mut shared);
        match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Ready(read) => read?,
            Poll::Pending => return Ok(Poll::Pending),
        }
        let bytes = buffer.filled();
        let mut written = 0;
        while written < bytes.len() {
            match Pin::new(&mut *to).poll_write(cx, &bytes[written..]) {
                Poll::Ready(more) => written += more?,
                Poll::Pending => {
                    self.kept = Kept::Bytes(bytes[written..].into(), 0);
                    break;
                }
            }
        }
        let read = bytes.len();
        self.full = if read == BUFFER_BYTES { self.full.saturating_add(1) } else { 0 };
        if self.full >= FULL_BEFORE_PIPE
            && matches!(self.kept, Kept::Nothing)
            && let Some(pipe) = self.buffers.pipes.take()
        {
            self.kept = Kept::Pipe(pipe);
        }
        Ok(Poll::Ready(read))
    }

    /// Reads into the pipe, which is empty.
    fn fill(&mut self, cx: &mut Context<'_>, from: &mut TcpStream) -> io::Result<Poll<usize>> {
        let Kept::Pipe(pipe) = &mut self.kept else { return Ok(Poll::Pending) };
        loop {
            match from.poll_read_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(Poll::Pending),
            }
            if let Some(bytes) = would_block(from.try_io(Interest::READABLE, || pipe.fill(&*from)))? {
                return Ok(Poll::Ready(bytes));
            }
        }
    }

    /// Gives an empty pipe back.
    fn put_back(&mut self) {
        if matches!(&self.kept, Kept::Pipe(pipe) if pipe.is_empty())
            && let Kept::Pipe(pipe) = std::mem::replace(&mut self.kept, Kept::Nothing)
        {
            self.full = 0;
            self.buffers.pipes.give_back(pipe);
        }
    }
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        if let Kept::Pipe(pipe) = std::mem::replace(&mut self.kept, Kept::Nothing) {
            self.buffers.pipes.give_back(pipe);
        }
    }
}

fn would_block<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says that nothing more comes. That the other side has gone meanwhile is no news.
fn shut_down(to: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

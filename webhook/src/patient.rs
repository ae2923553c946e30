//! `Patient`: a connection that is given up when its client is idle for long, or slow.
//!
//! Between requests a client may be silent for longer than an API server keeps an idle connection (90 s), so that it is
//! never we who close while the next request is on its way. Once a request has begun, it must come. What must not go
//! in here: the body of a request, which has a limit of its own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a connection may be without a request.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// How long the head of a request may take to come.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How many requests of a connection are being answered, and how many were.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy(Arc<(AtomicUsize, AtomicUsize)>);

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Answering(Busy);

impl Busy {
    /// One more, until the answer is dropped.
    pub(crate) fn answering(&self) -> Answering {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        Answering(self.clone())
    }

    fn is_busy(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) > 0
    }

    /// How many were answered.
    pub(crate) fn ended(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let (answering, ended) = &*self.0.0;
        ended.fetch_add(1, Ordering::Relaxed);
        answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection and its patience. Its timer is not set anew for each request: it looks every `HEAD_MAX` at how long there is.
pub(crate) struct Patient<S> {
    stream: S,
    busy: Busy,
    /// Frames come and go between the requests of HTTP/2: what comes is not the head of one.
    is_http2: bool,
    has_begun: bool,
    /// How many requests had been answered when it was looked last.
    ended: usize,
    until: Instant,
    look: Pin<Box<Sleep>>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, busy: Busy, is_http2: bool) -> Self {
        let until = Instant::now() + HEAD_MAX;
        let look = Box::pin(sleep_until(until));
        // Whoever connects has something to ask.
        Self { stream, busy, is_http2, has_begun: true, ended: 0, until, look }
    }

    /// Fails once the client's time is over.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let ended = self.busy.ended();
        if ended != self.ended {
            self.ended = ended;
            self.has_begun = false;
            self.until = Instant::now() + IDLE_MAX;
        }
        loop {
            ready!(self.look.as_mut().poll(context));
            let now = Instant::now();
            // The answer has a limit of its own.
            if now >= self.until && !self.busy.is_busy() {
                return Poll::Ready(io::Error::from(io::ErrorKind::TimedOut));
            }
            self.look.as_mut().reset(now + HEAD_MAX);
        }
    }

    /// Something has come.
    fn heard(&mut self) {
        if self.is_http2 {
            self.until = Instant::now() + IDLE_MAX;
        } else if !self.has_begun && !self.busy.is_busy() {
            self.has_begun = true;
            self.until = Instant::now() + HEAD_MAX;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(error) = self.poll_patience(context) {
            return Poll::Ready(Err(error));
        }
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.heard();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

//! `IdleTimeoutStream`: a connection that is closed if its client is idle or slow.
//!
//! Between requests a client can be idle for longer than an API server keeps an idle connection (90 s), so that the webhook
//! never closes a connection while the next request is in flight. Once a request has started, its head must arrive in
//! time; the body has its own limit. To avoid arming a timer for each request, the timer fires every `HEAD_MAX` and then
//! checks the deadline.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The limit of the time without a request.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// The limit of the time in which the head of a request arrives.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// The numbers of requests of a connection that are in flight, and that are finished. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<(AtomicUsize, AtomicUsize)>);

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard(InFlight);

impl InFlight {
    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn begin(&self) -> InFlightGuard {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self.clone())
    }

    fn is_busy(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) > 0
    }

    /// Returns the number of finished requests.
    pub(crate) fn finished(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let (in_flight, finished) = &*self.0.0;
        finished.fetch_add(1, Ordering::Relaxed);
        in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream with an idle timeout.
pub(crate) struct IdleTimeoutStream<S> {
    stream: S,
    in_flight: InFlight,
    /// HTTP/2 exchanges frames between requests, so that received data is not the head of a request.
    is_http2: bool,
    has_begun: bool,
    /// The number of finished requests at the last check.
    finished: usize,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> IdleTimeoutStream<S> {
    pub(crate) fn new(stream: S, in_flight: InFlight, is_http2: bool) -> Self {
        let deadline = Instant::now() + HEAD_MAX;
        let timer = Box::pin(sleep_until(deadline));
        // A new client is expected to send a request.
        Self { stream, in_flight, is_http2, has_begun: true, finished: 0, deadline, timer }
    }

    /// Returns an error once the deadline has passed.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let finished = self.in_flight.finished();
        if finished != self.finished {
            self.finished = finished;
            self.has_begun = false;
            self.deadline = Instant::now() + IDLE_MAX;
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            // A request in flight has its own deadline.
            if now >= self.deadline && !self.in_flight.is_busy() {
                return Poll::Ready(io::Error::from(io::ErrorKind::TimedOut));
            }
            self.timer.as_mut().reset(now + HEAD_MAX);
        }
    }

    /// Updates the deadline after data was received.
    fn on_activity(&mut self) {
        if self.is_http2 {
            self.deadline = Instant::now() + IDLE_MAX;
        } else if !self.has_begun && !self.in_flight.is_busy() {
            self.has_begun = true;
            self.deadline = Instant::now() + HEAD_MAX;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for IdleTimeoutStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(error) = self.poll_deadline(context) {
            return Poll::Ready(Err(error));
        }
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.on_activity();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleTimeoutStream<S> {
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

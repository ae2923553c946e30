//! Polling reads and writes of a socket that both directions of a connection share.
//!
//! Like tokio's `AsyncRead` and `AsyncWrite`, but by shared reference and for any system call that moves bytes, such
//! as `splice`.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads into the buffer. Returns 0 at the end of the stream.
pub(crate) fn read(cx: &mut Context<'_>, from: &TcpStream, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let max = buffer.len();
    poll_read_with(cx, from, max, || Ok(rustix::io::read(from, &mut *buffer)?))
}

/// Writes as many bytes as fit into the socket's send buffer.
pub(crate) fn write(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    poll_write_with(cx, to, bytes.len(), || Ok(rustix::net::send(to, bytes, SendFlags::NOSIGNAL)?))
}

/// Moves bytes out of a socket with `io` as soon as it is readable. If `io` moves fewer than `max` bytes, the socket
/// counts as drained and its readiness is cleared.
pub(crate) fn poll_read_with(
    cx: &mut Context<'_>,
    from: &TcpStream,
    max: usize,
    mut io: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        if let Some(moved) = try_io(from, Interest::READABLE, max, &mut io) {
            return Poll::Ready(moved);
        }
    }
}

/// Moves bytes into a socket with `io` as soon as it is writable. If `io` moves fewer than `max` bytes, the socket
/// counts as full and its readiness is cleared.
pub(crate) fn poll_write_with(
    cx: &mut Context<'_>,
    to: &TcpStream,
    max: usize,
    mut io: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        if let Some(moved) = try_io(to, Interest::WRITABLE, max, &mut io) {
            return Poll::Ready(moved);
        }
    }
}

/// Returns `None` if `io` would block.
fn try_io(
    stream: &TcpStream,
    interest: Interest,
    max: usize,
    io: &mut impl FnMut() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    let mut moved = None;
    let outcome = stream.try_io(interest, || {
        let bytes = *moved.insert(io()?);
        // WouldBlock clears the readiness, so the next call waits for an event instead of making a system call that
        // would block.
        if (1..max).contains(&bytes) { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match (moved, outcome) {
        (Some(bytes), _) => Some(Ok(bytes)),
        (None, Err(error)) if error.kind() != ErrorKind::WouldBlock => Some(Err(error)),
        (None, _) => None,
    }
}

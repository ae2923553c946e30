//! What a connection can do at once, and whom it wakes when it can do more.
//!
//! As tokio's own readers and writers, but for connections that both directions share, and for whatever moves the
//! bytes. What must not go in here: what is read and written.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads into the buffer; 0: the other end has said all.
pub(crate) fn read(cx: &mut Context<'_>, from: &TcpStream, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    let room = buffer.len();
    take(cx, from, room, || Ok(rustix::io::read(from, &mut *buffer)?))
}

/// Writes as much as fits.
pub(crate) fn write(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    give(cx, to, bytes.len(), || Ok(rustix::net::send(to, bytes, SendFlags::NOSIGNAL)?))
}

/// Moves up to so many bytes out of a connection, as soon as there are any. Where fewer come, no more are there.
pub(crate) fn take(
    cx: &mut Context<'_>,
    from: &TcpStream,
    room: usize,
    mut work: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        if let Some(moved) = attempt(from, Interest::READABLE, room, &mut work) {
            return Poll::Ready(moved);
        }
    }
}

/// Moves up to so many bytes into a connection, as soon as it takes any. Where it takes fewer, it takes no more.
pub(crate) fn give(
    cx: &mut Context<'_>,
    to: &TcpStream,
    room: usize,
    mut work: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        if let Some(moved) = attempt(to, Interest::WRITABLE, room, &mut work) {
            return Poll::Ready(moved);
        }
    }
}

/// None: it would block.
fn attempt(
    stream: &TcpStream,
    interest: Interest,
    room: usize,
    work: &mut impl FnMut() -> io::Result<usize>,
) -> Option<io::Result<usize>> {
    let mut moved = None;
    let outcome = stream.try_io(interest, || {
        let bytes = *moved.insert(work()?);
        // Said so, the next attempt waits for an event instead of asking in vain.
        if (1..room).contains(&bytes) { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match (moved, outcome) {
        (Some(bytes), _) => Some(Ok(bytes)),
        (None, Err(error)) if error.kind() != ErrorKind::WouldBlock => Some(Err(error)),
        (None, _) => None,
    }
}

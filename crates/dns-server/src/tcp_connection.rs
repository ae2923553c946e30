//! `TcpConnection`: a client's connection, which carries messages with a length of two bytes before each (RFC 7766).
//!
//! The memory of a connection is bounded: it is not read while responses wait to be written, or while many queries wait
//! for an upstream.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netns_nft::NetnsId;

/// The size of the length before a message.
const LENGTH_BYTES: usize = 2;
/// The number of bytes that are read at a time.
const READ_BYTES: usize = 4_096;
/// The number of unwritten bytes beyond which the connection is not read.
const OUTPUT_MAX: usize = 64 << 10;
/// The number of unanswered queries beyond which the connection is not read.
const PENDING_MAX: usize = 32;

/// A connection.
#[derive(Debug)]
pub(crate) struct TcpConnection {
    stream: TcpStream,
    /// The pod.
    pub(crate) netns: NetnsId,
    /// The DNS address that the client asked.
    pub(crate) server: IpAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The number of queries that wait for an upstream.
    pub(crate) pending: usize,
    /// The time of the last query or response.
    pub(crate) active_at: Instant,
    /// Whether the client sends no more queries.
    is_finished: bool,
}

/// What a connection needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
    /// Only the response of an upstream.
    Nothing,
    /// The connection has ended.
    Close,
}

impl TcpConnection {
    pub(crate) fn new(stream: TcpStream, netns: NetnsId, server: IpAddr, now: Instant) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self { stream, netns, server, input, output, pending: 0, active_at: now, is_finished: false }
    }

    /// Reads what the client sent, if the connection has room for it.
    pub(crate) fn read(&mut self, now: Instant) -> io::Result<()> {
        if self.interest() != Interest::Read {
            return Ok(());
        }
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.is_finished = true,
            Ok(length) => {
                self.active_at = now;
                self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes the next complete message from the input, if the connection can take its response.
    pub(crate) fn next_message(&mut self) -> Option<Vec<u8>> {
        if self.output.len() > OUTPUT_MAX || self.pending >= PENDING_MAX {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(*self.input.first_chunk()?));
        let end = LENGTH_BYTES + length;
        let message = self.input.get(LENGTH_BYTES..end)?.to_vec();
        self.input.drain(..end);
        Some(message)
    }

    /// Queues a response. One that exceeds the protocol's maximum size is dropped.
    pub(crate) fn respond(&mut self, message: &[u8], now: Instant) {
        let Ok(length) = u16::try_from(message.len()) else { return };
        self.active_at = now;
        self.output.extend(length.to_be_bytes());
        self.output.extend_from_slice(message);
    }

    /// Writes queued responses, as far as the client takes them.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.output.is_empty() {
            self.output.shrink_to(READ_BYTES);
        }
        Ok(())
    }

    /// Returns what the connection needs next.
    pub(crate) fn interest(&self) -> Interest {
        if !self.output.is_empty() {
            Interest::Write
        } else if self.is_finished {
            if self.pending == 0 { Interest::Close } else { Interest::Nothing }
        } else if self.pending >= PENDING_MAX {
            Interest::Nothing
        } else {
            Interest::Read
        }
    }
}

impl AsFd for TcpConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

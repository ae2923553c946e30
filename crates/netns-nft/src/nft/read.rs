//! Reads Portico's table back from the kernel.
//!
//! Nothing is guessed: an element that no ruleset contains makes the whole table a drifted one, so that an audit finds
//! it and replaces the table. The entries of session affinity are the kernel's state and are not read.

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::error::Error;
use crate::netlink::attributes::Attributes;
use crate::netlink::socket::Socket;
use crate::netlink::uapi::*;
use crate::nft::names::TABLE;

pub(crate) mod decode;
mod limits;
pub(crate) mod reader;
mod recorded;

pub use limits::Limits;
pub use reader::TableState;
use reader::{Handler, ReadError, Reader, ReplySource, failed_to_read, request};
pub use recorded::{read_recorded, recorded_replies};

/// The number of attempts to read a table while other transactions are committed.
const READ_ATTEMPTS: usize = 10;

impl Socket {
    /// The generation of the rulesets in this network namespace. Each transaction of any process changes it: as long as
    /// it is the same, no table, rule or element was changed.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn generation(&self) -> Result<u32, Error> {
        let mut generation = None;
        let result = self.request(&request(NFT_MSG_GETGEN, NLM_F_ACK, |_| {}), |message| {
            generation = Attributes::of_netfilter(message.body).u32(NFTA_GEN_ID);
        });
        let failed = |source| failed_to_read("the generation", source);
        result.map_err(failed)?;
        generation.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }

    /// Whether a table of family inet exists.
    pub(crate) fn has_table(&self, name: &str) -> Result<bool, Error> {
        let request = request(NFT_MSG_GETTABLE, NLM_F_ACK, |buffer| buffer.put_string(NFTA_TABLE_NAME, name));
        match self.request(&request, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(failed_to_read("the table", source)),
        }
    }

    /// Reads the table with all of its elements.
    ///
    /// # Errors
    /// If the kernel does not report it, or other processes change it faster than it can be read.
    pub fn read_table(self) -> Result<TableState, Error> {
        self.read_table_within(&Limits::default(), None)
    }

    /// As `read_table`, but reads no more than these limits, until the deadline at the latest. A table beyond the
    /// limits has drifted. This consumes the socket, because replies may be left in it.
    ///
    /// # Errors
    /// If the kernel does not report the table, other processes change it faster than it can be read, or the deadline
    /// has passed.
    pub fn read_table_within(self, limits: &Limits, deadline: Option<Instant>) -> Result<TableState, Error> {
        let source = SocketSource { socket: &self, deadline };
        self.read_consistent(deadline, || Reader { source: &source, table: TABLE, limits }.read_state())?
            .or_else(ReadError::into_state)
    }

    /// Reads with `read` until no transaction was committed meanwhile.
    pub(crate) fn read_consistent<T>(
        &self,
        deadline: Option<Instant>,
        read: impl Fn() -> Result<T, ReadError>,
    ) -> Result<Result<T, ReadError>, Error> {
        for _ in 0..READ_ATTEMPTS {
            let generation = self.generation()?;
            let result = read();
            // After an aborted dump, the socket cannot be used for another request.
            let is_aborted = matches!(&result, Err(ReadError::LimitExceeded(_) | ReadError::Failed(_)));
            if is_aborted || self.generation()? == generation {
                return Ok(result);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
        }
        Err(failed_to_read("the table", io::ErrorKind::ResourceBusy.into()))
    }
}

/// Replies of the kernel, until a deadline.
pub(crate) struct SocketSource<'a> {
    pub(crate) socket: &'a Socket,
    pub(crate) deadline: Option<Instant>,
}

impl ReplySource for SocketSource<'_> {
    fn request(&self, request: &[u8], handle: Handler<'_>) -> io::Result<()> {
        let mut is_late = false;
        self.socket.request_while(request, &mut |message| {
            is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if is_late { ControlFlow::Break(()) } else { handle(message) }
        })?;
        if is_late { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

//! What a network namespace holds, found out and read back.
//!
//! Nothing is guessed: what no ruleset writes makes the table another one, so that an audit sees it and puts
//! the right one in its place. Entries of sticky clients are the kernel's own and are not read.

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use proxy_core::kernel_model::Table;

use crate::error::Error;
use crate::kernel::{flag, generation, message};
use crate::shape::attributes;
use crate::socket::Socket;

/// How often all is read again because something changed meanwhile.
const READS_MAX: usize = 10;

/// What stands in a network namespace under the table's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableState {
    /// No table.
    Missing,
    /// A table of this layout, whole.
    Intact(Table),
    /// Something else, and what is wrong with it: another layout, or damaged by whoever may write here.
    Drifted(String),
}

/// Why reading ends early.
enum End {
    Failed(Error),
    /// It is something else, and why.
    Other(String),
    /// It holds more than the limit, and what; the rest was not read.
    TooMany(String),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Socket {
    /// A number that is another one after each transaction in this network namespace, whoever's and whatever
    /// it was about: while it stays the same, nobody has changed a table, a rule or an element.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn generation(&self) -> Result<u32, Error> {
        let mut number = None;
        let asked = self.ask(&request(message::GETGEN, flag::ACK, |_| {}), |answer| {
            number = attributes(answer).u32(generation::ID);
        });
        let failed = |source| unread("the generation", source);
        asked.map_err(failed)?;
        number.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }

    /// Finds out what stands here, elements and all.
    ///
    /// # Errors
    /// Where the kernel does not tell, or it changes faster than it can be read.
    pub fn read_table(self) -> Result<TableState, Error> {
        self.read_table_within(&Limits::default(), None)
    }

    /// The same, but reads no more than these limits and no longer than until then. What holds more than the limits is
    /// something else. The socket is used up: its kernel may have more to say than was heard.
    ///
    /// # Errors
    /// Where the kernel does not tell, it changes faster than it can be read, or the time is over.
    pub fn read_table_within(self, limits: &Limits, until: Option<Instant>) -> Result<TableState, Error> {
        let source = Timed { socket: &self, until };
        match self.steadily(until, || Reader { source: &source, limits }.look())? {
            Ok(found) => Ok(found),
            Err(End::Other(why) | End::TooMany(why)) => Ok(TableState::Drifted(why)),
            Err(End::Failed(error)) => Err(error),
        }
    }

    /// What is read while nobody changes anything.
    fn steadily<T>(
        &self,
        until: Option<Instant>,
        read: impl Fn() -> Result<T, End>,
    ) -> Result<Result<T, End>, Error> {
        for _ in 0..READS_MAX {
            let generation = self.generation()?;
            let found = read();
            // After a dump that was given up nothing else can be asked.
            if matches!(&found, Err(End::TooMany(_) | End::Failed(_))) || self.generation()? == generation {
                return Ok(found);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        Err(unread("the table", io::ErrorKind::ResourceBusy.into()))
    }
}

/// The kernel, asked until some time.
struct Timed<'a> {
    socket: &'a Socket,
    until: Option<Instant>,
}

impl Source for Timed<'_> {
    fn ask(&self, request: &[u8], take: Take<'_>) -> io::Result<()> {
        let mut is_late = false;
        self.socket.ask_while(request, &mut |answer| {
            is_late = self.until.is_some_and(|until| Instant::now() >= until);
            if is_late { ControlFlow::Break(()) } else { take(answer) }
        })?;
        if is_late { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

mod count;
mod decode;
mod limits;
mod reader;
mod recorded;

pub use count::Counters;
pub(crate) use decode::address;
pub use limits::Limits;
use reader::{Reader, Source, Take, request, unread};
pub use recorded::{read_recorded, recorded_replies};

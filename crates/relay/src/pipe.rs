//! `Pipe`: a buffer in the kernel, through which bytes go from one socket to another without being copied.
//!
//! A pipe costs two descriptors, and the kernel a page for each packet in it; so only connections that carry much have
//! one, while they do. What must not go in here: when that is.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// How many bytes a pipe takes at a time.
pub(crate) const PIPE_BYTES: usize = 512 << 10;
/// A worker has at most so many; more connections that carry much copy their bytes.
pub(crate) const PIPES_MAX: usize = 256;
/// So many are kept when nobody needs them.
const PIPES_KEPT: usize = 16;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(crate) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    bytes: usize,
    capacity: usize,
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Where the user has many pipes already, the kernel allows no larger ones.
        let capacity = fcntl_setpipe_size(&writer, PIPE_BYTES).unwrap_or(64 << 10);
        Ok(Self { reader, writer, bytes: 0, capacity })
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Takes what a socket has; 0: its other end has closed.
    pub(crate) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let bytes = splice(from, None, &self.writer, None, self.capacity, FLAGS)?;
        self.bytes += bytes;
        Ok(bytes)
    }

    /// Gives a socket what it takes.
    pub(crate) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let bytes = splice(&self.reader, None, to, None, self.bytes, FLAGS)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Ok(bytes)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// The pipes of one worker.
#[derive(Debug)]
pub(crate) struct Pipes {
    max: usize,
    free: RefCell<Vec<Pipe>>,
    lent: Cell<usize>,
}

impl Pipes {
    /// At most so many.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, free: RefCell::default(), lent: Cell::default() }
    }

    /// A pipe, unless too many are in use or none is to be had.
    pub(crate) fn take(&self) -> Option<Pipe> {
        if self.lent.get() >= self.max {
            return None;
        }
        let pipe = self.free.borrow_mut().pop().or_else(|| Pipe::open().ok())?;
        self.lent.set(self.lent.get() + 1);
        Some(pipe)
    }

    /// Takes one back; what is in it belongs to a connection that is over.
    pub(crate) fn give_back(&self, pipe: Pipe) {
        self.lent.set(self.lent.get().saturating_sub(1));
        let mut free = self.free.borrow_mut();
        if pipe.is_empty() && free.len() < PIPES_KEPT {
            free.push(pipe);
        }
    }
}

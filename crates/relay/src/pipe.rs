//! `Pipe`: a kernel buffer through which bytes are spliced from one socket to another without a copy.
//!
//! A pipe costs two file descriptors, and the kernel allocates a page for each packet in it. Therefore only
//! connections with bulk transfers use one, for as long as the transfer lasts; `Pipes` is the pool of a worker.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The capacity that a pipe requests.
pub(crate) const PIPE_BYTES: usize = 512 << 10;
/// The maximum number of pipes of a worker. Connections without a pipe copy their bytes.
pub(crate) const PIPES_MAX: usize = 256;
/// The number of unused pipes that a worker keeps open.
const PIPES_IDLE_MAX: usize = 16;

/// A pipe and the number of bytes in it.
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
        // Beyond /proc/sys/fs/pipe-user-pages-soft the kernel does not enlarge pipes: 64 KiB is its default size.
        let capacity = fcntl_setpipe_size(&writer, PIPE_BYTES).unwrap_or(64 << 10);
        Ok(Self { reader, writer, bytes: 0, capacity })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Moves bytes from a socket into the pipe. Returns 0 at the end of the stream.
    pub(crate) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let bytes = splice(from, None, &self.writer, None, self.capacity, FLAGS)?;
        self.bytes += bytes;
        Ok(bytes)
    }

    /// Moves bytes from the pipe to a socket.
    pub(crate) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let bytes = splice(&self.reader, None, to, None, self.bytes, FLAGS)?;
        self.bytes = self.bytes.saturating_sub(bytes);
        Ok(bytes)
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// The pool of pipes of one worker.
#[derive(Debug)]
pub(crate) struct Pipes {
    max: usize,
    idle: RefCell<Vec<Pipe>>,
    in_use: Cell<usize>,
}

impl Pipes {
    /// Returns an empty pool of at most `max` pipes.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, idle: RefCell::default(), in_use: Cell::default() }
    }

    /// Returns an empty pipe, or `None` if all are in use or the kernel allows no more.
    pub(crate) fn acquire(&self) -> Option<Pipe> {
        if self.in_use.get() >= self.max {
            return None;
        }
        let pipe = self.idle.borrow_mut().pop().or_else(|| Pipe::open().ok())?;
        self.in_use.set(self.in_use.get() + 1);
        Some(pipe)
    }

    /// Returns a pipe to the pool. One that is not empty is closed, since its bytes belong to a closed connection.
    pub(crate) fn release(&self, pipe: Pipe) {
        self.in_use.set(self.in_use.get().saturating_sub(1));
        let mut idle = self.idle.borrow_mut();
        if pipe.is_empty() && idle.len() < PIPES_IDLE_MAX {
            idle.push(pipe);
        }
    }
}

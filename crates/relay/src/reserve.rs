//! `Reserve`: a descriptor that is kept for the day on which no other is left.
//!
//! A connection can be refused only by who takes it first, and that needs a descriptor. Without one, clients would
//! wait in the queue for an answer that does not come. What must not go in here: how many connections there may be.

use std::cell::RefCell;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::task::Poll;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::TcpListener;

/// The descriptor. It leads nowhere.
#[derive(Debug)]
pub(crate) struct Reserve(RefCell<Option<OwnedFd>>);

impl Default for Reserve {
    fn default() -> Self {
        Self(RefCell::new(opened()))
    }
}

impl Reserve {
    /// Refuses the connection that waits at this listener, if one does and the reserve is there.
    pub(crate) async fn refuse(&self, listener: &TcpListener) -> bool {
        drop(self.0.take());
        let taken = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
        // Closed before a byte was said, it is reset.
        let is_refused = matches!(&taken, Poll::Ready(Ok(_)));
        drop(taken);
        self.0.replace(opened());
        is_refused
    }
}

fn opened() -> Option<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()
}

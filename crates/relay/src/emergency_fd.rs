//! `EmergencyFd`: a spare file descriptor for the case that the process has reached its limit.
//!
//! To reject a connection, a process must accept it, and that needs a descriptor. Without one, clients would wait in
//! the backlog until they time out. `EmergencyFd` closes the spare descriptor, accepts one connection in its place,
//! resets it, and opens the spare again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::task::Poll;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::TcpListener;

/// The spare descriptor: an unconnected socket, or `None` if it could not be reopened.
#[derive(Debug)]
pub(crate) struct EmergencyFd(RefCell<Option<OwnedFd>>);

impl Default for EmergencyFd {
    fn default() -> Self {
        Self(RefCell::new(open()))
    }
}

impl EmergencyFd {
    /// Resets the first connection in the backlog of a listener. Returns false if the backlog is empty, or no
    /// descriptor is available.
    pub(crate) async fn reset_pending(&self, listener: &TcpListener) -> bool {
        drop(self.0.take());
        let accepted = poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
        let is_reset = matches!(&accepted, Poll::Ready(Ok(_)));
        // Accepted sockets inherit SO_LINGER 0, so closing one sends a reset.
        drop(accepted);
        self.0.replace(open());
        is_reset
    }
}

fn open() -> Option<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()
}

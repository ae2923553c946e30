//! `Membership`: a socket's membership in a multicast group, which is suspended during large transactions.
//!
//! The kernel creates a notification for each element of a transaction if any socket in any network namespace receives
//! them: its check for listeners is global. A transaction that adds 10,000 services takes 300 ms then instead of 90 ms.
//! So all sockets of this process leave their group while this process applies a large transaction. When a socket leaves
//! and when it joins again, it requests the generation of the rulesets, and the replies are in its queue like the
//! notifications: equal generations mean that nothing was changed meanwhile.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nix::sys::socket::{MsgFlags, NetlinkAddr, sendto, setsockopt};
use nix::{libc, setsockopt_impl, sockopt_impl};
use support::lock;

use crate::netlink::attributes::{MessageBuffer, nfgenmsg};
use crate::netlink::uapi::*;

sockopt_impl!(
    /// Joins a multicast group.
    AddMembership,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_ADD_MEMBERSHIP,
    u32
);
sockopt_impl!(
    /// Leaves a multicast group.
    DropMembership,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_DROP_MEMBERSHIP,
    u32
);

/// The sequence number of the request when a socket leaves.
pub(crate) const LEAVE: u32 = 0;
/// The sequence number of the request when a socket joins, plus the number of large transactions of its writer.
pub(crate) const JOIN: u32 = 1;

/// The socket with which this process changes the monitored table: the cookie of its network namespace, and its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriterId {
    pub(crate) netns_cookie: u64,
    pub(crate) port: u32,
}

/// A membership. It ends when the socket is closed.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) fd: OwnedFd,
    group: u32,
    writer: Mutex<WriterId>,
    /// The large transactions of the writer since the socket left.
    own: AtomicU32,
}

/// All memberships of this process.
static REGISTRY: Mutex<Registry> = Mutex::new(Registry { large: 0, members: Vec::new() });

struct Registry {
    /// The number of large transactions that are being applied.
    large: usize,
    members: Vec<Weak<Membership>>,
}

impl Membership {
    /// Joins a group, or does so after the large transactions of this moment.
    pub(crate) fn new(fd: OwnedFd, group: u32, writer: WriterId) -> nix::Result<Arc<Self>> {
        let member = Arc::new(Self { fd, group, writer: Mutex::new(writer), own: AtomicU32::default() });
        let mut registry = lock(&REGISTRY);
        if registry.large == 0 {
            setsockopt(&member.fd, AddMembership, &group)?;
        }
        registry.members.push(Arc::downgrade(&member));
        Ok(member)
    }

    pub(crate) fn set_writer(&self, writer: WriterId) {
        *lock(&self.writer) = writer;
    }

    fn leave(&self) {
        self.own.store(0, Ordering::Relaxed);
        self.request_generation(LEAVE);
        let _ = setsockopt(&self.fd, DropMembership, &self.group);
    }

    fn join(&self) {
        // The kernel rejects this only without memory; the reply to the request is still received.
        let _ = setsockopt(&self.fd, AddMembership, &self.group);
        self.request_generation(JOIN + self.own.load(Ordering::Relaxed));
    }

    /// Requests the generation. Without a reply, the next one does not match, so the change is unknown.
    fn request_generation(&self, sequence: u32) {
        let mut buffer = MessageBuffer::default();
        let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN;
        let open = buffer.begin_message(kind, NLM_F_REQUEST, sequence, &nfgenmsg(NFPROTO_UNSPEC, 0));
        buffer.end_message(&open);
        let _ = sendto(self.fd.as_raw_fd(), &buffer.0, &NetlinkAddr::new(0, 0), MsgFlags::empty());
    }
}

/// Suspends all memberships of this process until it is dropped.
#[derive(Debug)]
pub(crate) struct Suspension;

impl Suspension {
    /// Suspends the memberships; none if this process has none.
    pub(crate) fn begin() -> Option<Self> {
        let mut registry = lock(&REGISTRY);
        registry.members.retain(|member| member.strong_count() > 0);
        if registry.members.is_empty() {
            return None;
        }
        registry.large += 1;
        if registry.large == 1 {
            registry.members.iter().filter_map(Weak::upgrade).for_each(|member| member.leave());
        }
        Some(Self)
    }

    /// Records a transaction of this socket.
    pub(crate) fn count(&self, socket: WriterId) {
        let registry = lock(&REGISTRY);
        let members = registry.members.iter().filter_map(Weak::upgrade);
        members.filter(|member| *lock(&member.writer) == socket).for_each(|member| {
            member.own.fetch_add(1, Ordering::Relaxed);
        });
    }
}

impl Drop for Suspension {
    fn drop(&mut self) {
        let mut registry = lock(&REGISTRY);
        registry.large -= 1;
        if registry.large == 0 {
            registry.members.iter().filter_map(Weak::upgrade).for_each(|member| member.join());
        }
    }
}

//! `Limits`: what all connections of the relay may take together, what one pod may take of it, and what was refused.
//!
//! The kernel charges sockets to the memory limit of this process, so the memory decides: each connection takes some
//! kilobytes whatever it does, and its socket buffers what its two ends leave unread. What must not go in here: how
//! connections are served.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nix::sys::socket::{setsockopt, sockopt};

use crate::place::Place;
use crate::relay::Options;
use crate::report::RefusalCounts;
use crate::seat::Seat;
use crate::stall::Stalls;

/// One pod has at most this share of the connections of its node, as one part of so many.
const POD_SHARE: usize = 4;
/// But at least so many, if there are as many.
const POD_CONNECTIONS_MIN: usize = 64;
/// Of the memory for buffers all buffers of a new connection get one part of so many for each connection that is there.
const BUFFER_SHARE: usize = 16;
/// A buffer that the kernel begins with is about as large; smaller ones make connections slow.
const BUFFER_BYTES_MIN: usize = 64 << 10;
/// Where there is room for more than this, the kernel chooses.
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// What the kernel may choose for a connection whose backend reads nothing: about 2.8 MB were measured.
const CHOSEN_BY_KERNEL_BYTES: usize = 3 << 20;
/// A connection that stalls in one direction has two full buffers, and the kernel allows each twice its size.
const FULL_BUFFERS: usize = 4;

/// What is shared by all threads.
#[derive(Debug)]
pub(crate) struct Limits {
    connections: Arc<AtomicUsize>,
    connections_max: usize,
    pod_connections_max: usize,
    buffer_bytes_max: usize,
    pub(crate) stalls: Arc<Stalls>,
    /// RefusalCounts: there are as many connections as the node may have.
    over_node: AtomicU64,
    /// RefusalCounts: the pod has its share.
    over_pod: AtomicU64,
    /// RefusalCounts: no socket is to be had.
    no_socket: AtomicU64,
    /// Came without having wanted to go to a portal.
    pub(crate) strangers: AtomicU64,
}

/// The seats that a connection takes: one of its node, and one of its pod.
#[derive(Debug)]
pub(crate) struct Entered {
    _node: Seat,
    _pod: Seat,
}

impl Limits {
    pub(crate) fn new(options: &Options) -> Self {
        let max = options.connections_max;
        Self {
            connections: Arc::default(),
            connections_max: max,
            pod_connections_max: (max / POD_SHARE).max(POD_CONNECTIONS_MIN.min(max)),
            buffer_bytes_max: options.buffer_bytes_max,
            stalls: Arc::new(Stalls::new(options.buffer_bytes_max)),
            over_node: AtomicU64::default(),
            over_pod: AtomicU64::default(),
            no_socket: AtomicU64::default(),
            strangers: AtomicU64::default(),
        }
    }

    /// One connection more in this pod, if there may be; else it is counted as refused.
    pub(crate) fn enter(&self, place: &Place) -> Option<Entered> {
        let Some(pod) = Seat::take(&place.connections, self.pod_connections_max) else {
            self.over_pod.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let Some(node) = Seat::take(&self.connections, self.connections_max) else {
            self.over_node.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(Entered { _node: node, _pod: pod })
    }

    /// Counts a connection that is refused because its pod has too many of something.
    pub(crate) fn over_pod(&self) {
        self.over_pod.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that is refused because no socket is to be had.
    pub(crate) fn no_socket(&self) {
        self.no_socket.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// What was refused and why.
    pub(crate) fn refused(&self) -> RefusalCounts {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        RefusalCounts {
            node: count(&self.over_node),
            pod: count(&self.over_pod),
            sockets: count(&self.no_socket),
        }
    }

    /// How large the buffers of a new connection may be.
    pub(crate) fn buffers(&self) -> BufferSize {
        BufferSize::of(self.buffer_bytes_max, self.connections())
    }
}

/// How large each buffer of a connection may be; none: as the kernel chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BufferSize(Option<usize>);

impl BufferSize {
    fn of(bytes_max: usize, connections: usize) -> Self {
        let share = bytes_max / BUFFER_SHARE / (connections + 1);
        Self((share < BUFFER_BYTES_MAX).then_some(share.max(BUFFER_BYTES_MIN)))
    }

    /// Bounds the buffers of a socket. Before it is connected, so that its window is announced accordingly.
    pub(crate) fn bound(self, socket: impl AsFd) {
        let Some(bytes) = self.0 else { return };
        // Without the privilege for more the system's own bound holds, which is less.
        if setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &bytes);
        }
        if setsockopt(&socket, sockopt::SndBufForce, &bytes).is_err() {
            let _ = setsockopt(&socket, sockopt::SndBuf, &bytes);
        }
    }

    /// How many bytes the kernel may hold for a direction in which nothing moves.
    pub(crate) fn stalled_bytes(self) -> usize {
        self.0.map_or(CHOSEN_BY_KERNEL_BYTES, |bytes| FULL_BUFFERS * bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_connections_have_the_buffers_that_the_kernel_chooses_and_many_have_small_ones() {
        const MEMORY: usize = 64 << 20;
        assert_eq!(BufferSize::of(MEMORY, 0), BufferSize(None));
        assert_eq!(BufferSize::of(MEMORY, 15), BufferSize(Some(256 << 10)));
        assert_eq!(BufferSize::of(MEMORY, 100_000), BufferSize(Some(BUFFER_BYTES_MIN)));
    }

    #[test]
    fn a_pod_has_a_share_of_the_nodes_connections_and_at_least_some() {
        let share = |connections_max| {
            let options = Options { workers: 1, port: 1, connections_max, buffer_bytes_max: 0 };
            Limits::new(&options).pod_connections_max
        };
        assert_eq!([10, 100, 1_000].map(share), [10, 64, 250]);
    }
}

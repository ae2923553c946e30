//! `Limits`: the connections and buffer memory of the relay, the share of one pod, and the count of refusals.
//!
//! The kernel charges sockets to the memory cgroup of this process, so its memory limit determines all others: each
//! connection costs some kilobytes, and its socket buffers hold the bytes that its two ends have not read.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nix::sys::socket::{setsockopt, sockopt};

use crate::permit::Permit;
use crate::pod_relay::PodRelay;
use crate::relay::Options;
use crate::report::RefusalCounts;
use crate::stall::Stalls;

/// One pod can have at most a quarter of the connections of its node,
const POD_SHARE: usize = 4;
/// but at least this number, unless the node has fewer.
const POD_CONNECTIONS_MIN: usize = 64;
/// The buffers of a new connection get a sixteenth of the memory for buffers, divided by the number of connections.
const BUFFER_SHARE: usize = 16;
/// The smallest buffer size, about the initial size of the kernel's buffers. Smaller ones make connections slow.
const BUFFER_BYTES_MIN: usize = 64 << 10;
/// From this size on, the kernel's autotuning chooses the size.
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// The memory of a connection with autotuned buffers whose backend reads nothing: about 2.8 MB were measured.
const AUTOTUNED_BYTES: usize = 3 << 20;
/// A connection that stalls in one direction has two full buffers, and the kernel doubles the size of each.
const FULL_BUFFERS: usize = 4;

/// The limits and counters that all workers share.
#[derive(Debug)]
pub(crate) struct Limits {
    connections: Arc<AtomicUsize>,
    connections_max: usize,
    pod_connections_max: usize,
    buffer_bytes_max: usize,
    pub(crate) stalls: Arc<Stalls>,
    /// Connections refused by the limit of the node.
    over_node: AtomicU64,
    /// Connections refused by a limit of their pod.
    over_pod: AtomicU64,
    /// Connections refused because no socket could be opened.
    no_socket: AtomicU64,
    /// Connections and datagrams that matched no portal.
    unmatched: AtomicU64,
}

/// The permits of one connection: one of its node and one of its pod.
#[derive(Debug)]
pub(crate) struct ConnectionPermits {
    _node: Permit,
    _pod: Permit,
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
            unmatched: AtomicU64::default(),
        }
    }

    /// Acquires the permits of a new connection, or counts it as refused.
    pub(crate) fn acquire(&self, pod: &PodRelay) -> Option<ConnectionPermits> {
        let Some(pod) = Permit::try_acquire(&pod.connections, self.pod_connections_max) else {
            self.over_pod.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let Some(node) = Permit::try_acquire(&self.connections, self.connections_max) else {
            self.over_node.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(ConnectionPermits { _node: node, _pod: pod })
    }

    /// Counts a connection that was refused by a limit of its pod.
    pub(crate) fn count_over_pod(&self) {
        self.over_pod.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection that was refused because no socket could be opened.
    pub(crate) fn count_no_socket(&self) {
        self.no_socket.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection or datagram that matched no portal.
    pub(crate) fn count_unmatched(&self) {
        self.unmatched.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of open connections and flows.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the number of refused connections and flows, by limit.
    pub(crate) fn refused(&self) -> RefusalCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RefusalCounts {
            node: load(&self.over_node),
            pod: load(&self.over_pod),
            sockets: load(&self.no_socket),
        }
    }

    /// Returns the number of connections and datagrams that matched no portal.
    pub(crate) fn unmatched(&self) -> u64 {
        self.unmatched.load(Ordering::Relaxed)
    }

    /// Returns the size of the buffers of a new connection.
    pub(crate) fn buffers(&self) -> BufferSize {
        BufferSize::of(self.buffer_bytes_max, self.connections())
    }
}

/// The size of each socket buffer of a connection; `None` leaves it to the kernel's autotuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BufferSize(Option<usize>);

impl BufferSize {
    fn of(bytes_max: usize, connections: usize) -> Self {
        let share = bytes_max / BUFFER_SHARE / (connections + 1);
        Self((share < BUFFER_BYTES_MAX).then_some(share.max(BUFFER_BYTES_MIN)))
    }

    /// Limits the buffers of a socket. Call it before a socket connects: the TCP handshake announces the window.
    pub(crate) fn apply(self, socket: impl AsFd) {
        let Some(bytes) = self.0 else { return };
        // Without CAP_NET_ADMIN, net.core.rmem_max and wmem_max limit the size further.
        if setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &bytes);
        }
        if setsockopt(&socket, sockopt::SndBufForce, &bytes).is_err() {
            let _ = setsockopt(&socket, sockopt::SndBuf, &bytes);
        }
    }

    /// Returns the number of bytes that the kernel can hold for a connection that stalls in one direction.
    pub(crate) fn stalled_bytes(self) -> usize {
        self.0.map_or(AUTOTUNED_BYTES, |bytes| FULL_BUFFERS * bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_autotuned_for_few_connections_and_small_for_many() {
        const MEMORY: usize = 64 << 20;
        assert_eq!(BufferSize::of(MEMORY, 0), BufferSize(None));
        assert_eq!(BufferSize::of(MEMORY, 15), BufferSize(Some(256 << 10)));
        assert_eq!(BufferSize::of(MEMORY, 100_000), BufferSize(Some(BUFFER_BYTES_MIN)));
    }

    #[test]
    fn pod_limit_is_a_quarter_of_the_node_limit_and_at_least_64() {
        let share = |connections_max| {
            let options = Options { workers: 1, port: 1, connections_max, buffer_bytes_max: 0 };
            Limits::new(&options).pod_connections_max
        };
        assert_eq!([10, 100, 1_000].map(share), [10, 64, 250]);
    }
}

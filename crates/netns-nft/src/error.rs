//! Errors of programming and reading network namespaces.
//!
//! An error names the failed operation; the cause is its source.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;

use crate::netlink::batch::BatchOp;

/// Why a network namespace was not programmed or read.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be opened, or the thread may not enter the network namespace.
    #[error("failed to enter network namespace")]
    Enter(#[source] io::Error),
    /// The file is something else.
    #[error("not a network namespace")]
    NotNetns,
    /// The network namespace is that of this process, which must not get portals.
    #[error("refusing to program this process's own network namespace")]
    OwnNetns,
    /// The kernel does not support the netlink protocol, or no file descriptor is available.
    #[error("failed to open netlink socket")]
    Open(#[source] io::Error),
    /// The transaction did not reach the kernel.
    #[error("failed to send transaction ({bytes} bytes)")]
    Send {
        /// The size of the transaction. Without CAP_NET_ADMIN the socket's buffer limits it.
        bytes: usize,
        /// The error of the socket.
        #[source]
        source: io::Error,
    },
    /// The kernel sent no reply.
    #[error("failed to receive netlink reply")]
    Receive(#[source] io::Error),
    /// The kernel rejected an operation, and thereby the whole transaction.
    #[error("kernel rejected {}", op.map_or_else(|| "the transaction".to_owned(), |op| op.to_string()))]
    Rejected {
        /// The first operation of the rejected message, if known.
        op: Option<BatchOp>,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The kernel has no tables that are owned by a socket and persist without it (before Linux 6.9).
    #[error("kernel does not support the anchor table (Linux 6.9 and later)")]
    AnchorUnsupported(#[source] io::Error),
    /// A socket of another process owns the anchor: the agent that this one replaces.
    #[error("anchor table is owned by another process")]
    AnchorOwned,
    /// The kernel has no tables that are owned by a socket (before Linux 5.12).
    #[error("kernel does not support the DNS table (Linux 5.12 and later)")]
    DnsTableUnsupported(#[source] io::Error),
    /// Another socket owns the DNS table: that of an agent that still runs.
    #[error("DNS table is owned by another socket")]
    DnsTableOwned,
    /// The socket does not own a DNS table.
    #[error("socket owns no DNS table")]
    DnsTableMissing,
    /// The rules of kube-proxy cannot be removed; nothing was removed.
    #[error("kube-proxy's rules cannot be removed here: {0}")]
    KubeProxyInUse(String),
    /// The kernel did not report a part of its state.
    #[error("failed to read {what}")]
    Read {
        /// The requested part.
        what: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The table has no counters.
    #[error("failed to read counters: {0}")]
    NoCounters(String),
    /// The network namespace has no interface of this name.
    #[error("interface {name} not found")]
    NoInterface {
        /// The name of the interface.
        name: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The kernel did not report whether there is a route.
    #[error("failed to look up route to {to}")]
    LookUpRoute {
        /// The destination.
        to: IpAddr,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The kernel rejected a route.
    #[error("failed to add route to {to} dev {interface} src {from}")]
    AddRoute {
        /// The destination.
        to: IpNet,
        /// The output interface.
        interface: String,
        /// The source address.
        from: IpAddr,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The kernel did not delete a conntrack entry.
    #[error("failed to delete conntrack entry for {portal}")]
    DeleteFlow {
        /// The portal to which the flow was sent.
        portal: SocketAddr,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether a retry can succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let source = match self {
            Self::AnchorOwned | Self::DnsTableOwned => return true,
            Self::NotNetns
            | Self::OwnNetns
            | Self::DnsTableMissing
            | Self::KubeProxyInUse(_)
            | Self::NoCounters(_)
            | Self::NoInterface { .. } => return false,
            Self::Enter(source)
            | Self::Open(source)
            | Self::Receive(source)
            | Self::Send { source, .. }
            | Self::Rejected { source, .. }
            | Self::AnchorUnsupported(source)
            | Self::DnsTableUnsupported(source)
            | Self::Read { source, .. }
            | Self::LookUpRoute { source, .. }
            | Self::AddRoute { source, .. }
            | Self::DeleteFlow { source, .. } => source,
        };
        use io::ErrorKind::{Interrupted, OutOfMemory, ResourceBusy, TimedOut, WouldBlock};
        matches!(source.kind(), Interrupted | OutOfMemory | ResourceBusy | TimedOut | WouldBlock)
    }
}

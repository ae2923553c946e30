//! What can go wrong between a plan and the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_core::plan::Op;
use thiserror::Error;

/// Why a network namespace does not hold what it should.
#[derive(Debug, Error)]
pub enum Error {
    /// The thread could not enter the network namespace.
    #[error("enter the network namespace")]
    Enter(#[source] io::Error),
    /// What was given is no network namespace.
    #[error("enter the network namespace: it is none")]
    NoNetns,
    /// It is the network namespace of this process.
    #[error("enter the network namespace: it is this process's own, which has no portals")]
    Own,
    /// No netlink socket could be had.
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    /// The transaction did not reach the kernel.
    #[error("send a transaction of {bytes} bytes")]
    Send {
        /// How large it is; without privilege over the socket's buffer this is bounded.
        bytes: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer came.
    #[error("receive the kernel's answer")]
    Receive(#[source] io::Error),
    /// The kernel refused an operation, and so the whole transaction.
    #[error("apply {op:?}")]
    Refused {
        /// The operation that the message began with; none: the transaction as such.
        op: Option<Op>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel could not tell what it holds.
    #[error("read back {what}")]
    Read {
        /// What was asked for.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What stands there counts nothing.
    #[error("read what came to portals: {0}")]
    NoCounters(String),
    /// The network namespace has no such interface.
    #[error("find the interface {name}")]
    NoInterface {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel could not tell whether there is a route.
    #[error("look up the route to {to}")]
    LookUpRoute {
        /// Where to.
        to: IpAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a route.
    #[error("add a route to {to} over {interface} from {from}")]
    AddRoute {
        /// Where to.
        to: IpNet,
        /// Over which interface.
        interface: String,
        /// The source address.
        from: IpAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel did not forget a flow.
    #[error("forget a UDP flow to {portal}")]
    Forget {
        /// The portal that it leads to.
        portal: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether trying again as it is may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let source = match self {
            Self::NoNetns | Self::Own | Self::NoCounters(_) | Self::NoInterface { .. } => return false,
            Self::Enter(source)
            | Self::Open(source)
            | Self::Receive(source)
            | Self::Send { source, .. }
            | Self::Refused { source, .. }
            | Self::Read { source, .. }
            | Self::LookUpRoute { source, .. }
            | Self::AddRoute { source, .. }
            | Self::Forget { source, .. } => source,
        };
        use io::ErrorKind::{Interrupted, OutOfMemory, ResourceBusy, TimedOut, WouldBlock};
        matches!(source.kind(), Interrupted | OutOfMemory | ResourceBusy | TimedOut | WouldBlock)
    }
}

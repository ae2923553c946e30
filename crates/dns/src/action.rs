//! `Action`: what the resolver asks of the server, which owns the sockets.

use std::net::SocketAddr;

use crate::message::Transport;
use crate::query_log::AnswerSource;

/// An opaque value with which the server finds the socket and peer of a pending query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

/// One query to one upstream, over a socket of its own. The ids of one resolver are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// Where the socket of an exchange is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// In the network namespace of the client with this id.
    Client(u64),
    /// In the network namespace of the node.
    Node,
}

/// A request to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a socket and send this message to the upstream. Each exchange has its own socket, so that the kernel
    /// selects a random port. A UDP socket is connected, so that the kernel discards datagrams of other senders.
    Send {
        /// The exchange, for `Resolver::receive` and `Resolver::fail`.
        exchange: ExchangeId,
        /// The network namespace of the socket.
        from: Source,
        /// The destination.
        upstream: SocketAddr,
        /// The protocol. A TCP message is passed without its length prefix, in both directions.
        transport: Transport,
        /// The message.
        message: Vec<u8>,
    },
    /// Close the socket of an exchange. Each exchange is closed once, also after a failure.
    Close {
        /// The exchange.
        exchange: ExchangeId,
    },
    /// Send this response to the client. Each pending query has one response, unless its client is removed.
    Respond {
        /// The query's origin.
        origin: Origin,
        /// The message.
        message: Vec<u8>,
        /// What answered.
        source: AnswerSource,
    },
}

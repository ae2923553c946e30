//! `PacketOutcome`: what a proxy does with the first packet of a connection, for all random numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

/// The source address that a backend sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// The address of the client. The node's own connections to itself have it in any case.
    Client,
    /// An address of the node: the connection is masqueraded.
    Node,
}

/// What happens to a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketOutcome {
    /// It reaches one of these backends.
    Forward {
        backends: BTreeMap<SocketAddr, Seen>,
        /// The timeout of session affinity, in seconds.
        affinity_s: Option<u32>,
    },
    /// The client gets an error at once.
    Reject,
    /// The client gets no reply.
    Drop,
    /// The destination is not translated.
    Pass,
}

/// The form in recordings and messages. A star marks a backend whose clients are masqueraded.
impl fmt::Display for PacketOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject => f.write_str("reject"),
            Self::Drop => f.write_str("drop"),
            Self::Pass => f.write_str("pass"),
            Self::Forward { backends, affinity_s } => {
                for (number, (backend, seen)) in backends.iter().enumerate() {
                    let space = if number > 0 { " " } else { "" };
                    let star = if *seen == Seen::Node { "*" } else { "" };
                    write!(f, "{space}{backend}{star}")?;
                }
                affinity_s.map_or(Ok(()), |seconds| write!(f, " for {seconds}s"))
            }
        }
    }
}

impl PacketOutcome {
    /// Parses the form in recordings.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "reject" => return Some(Self::Reject),
            "drop" => return Some(Self::Drop),
            "pass" => return Some(Self::Pass),
            _ => {}
        }
        let (backends, timeout) =
            text.split_once(" for ").map_or((text, None), |(rest, time)| (rest, Some(time)));
        let affinity_s = match timeout {
            Some(timeout) => Some(timeout.strip_suffix('s')?.parse().ok()?),
            None => None,
        };
        let backend = |text: &str| match text.strip_suffix('*') {
            Some(backend) => Some((backend.parse().ok()?, Seen::Node)),
            None => Some((text.parse().ok()?, Seen::Client)),
        };
        let backends = backends.split(' ').map(backend).collect::<Option<_>>()?;
        Some(Self::Forward { backends, affinity_s })
    }
}

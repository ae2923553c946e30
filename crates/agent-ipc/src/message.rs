//! `Request` and `Reply`: the messages of a connection, one in each direction.
//!
//! The versions of plugin and agent can differ by one, because the two are not replaced at the same moment.

use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, AttachmentKey};

/// The version of the protocol.
pub const VERSION: u32 = 2;

/// The first version whose agents share their DNS sockets at a handover.
pub(crate) const DNS_VERSION: u32 = 2;

/// Whether messages of a peer with this version are accepted.
#[must_use]
pub const fn is_supported_version(version: u32) -> bool {
    version.abs_diff(VERSION) <= 1
}

/// A request or a reply, with the sender's version of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<T> {
    /// The sender's version.
    pub version: u32,
    /// The request or the reply.
    #[serde(flatten)]
    pub body: T,
}

/// A request to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Request {
    /// Programs the network namespace whose file descriptor is sent along, and maintains its portals.
    Attach(Attachment),
    /// Removes an attachment.
    Detach {
        /// The attachment.
        key: AttachmentKey,
    },
    /// Checks whether the network namespace whose file descriptor is sent along is in the desired state.
    Check(Attachment),
    /// Removes all attachments of a network except these.
    Gc {
        /// The name of the network.
        network: String,
        /// The attachments that still exist.
        valid: Vec<AttachmentKey>,
    },
    /// As `Gc`, with the attachments in a file whose descriptor is sent along, because they exceed the size of a
    /// message. An agent of version 0.1.0 rejects this request.
    GcList {
        /// The name of the network.
        network: String,
    },
    /// Checks whether the agent can program attachments now.
    Ready,
    /// Requests the state of the agent; the reply is in a file whose descriptor is sent along.
    Status {
        /// Whether to add the traffic of portals, which is read from the network namespaces for this request.
        #[serde(default)]
        hits: bool,
        /// Only this pod: namespace/name, or a prefix of its container id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<String>,
    },
    /// Explains the answer to a DNS query; the reply is in a file whose descriptor is sent along. An agent of protocol
    /// version 1 does not know this request.
    Dns {
        /// The pod that asks, as in `Status`: its resolver answers, too. Without it, only the names of the cluster are
        /// explained.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<String>,
        /// The name.
        name: String,
        /// The type of the records.
        kind: String,
    },
    /// Requests the DNS queries of a pod since the last such request, and records them from then on, until there is no
    /// request for 5 s. The reply is in a file.
    DnsLog {
        /// The pod, as in `Status`.
        pod: String,
    },
    /// Hands over to a new agent: stops all changes, and releases the socket. The old agent continues to relay until
    /// the new one closes the connection.
    #[serde(rename = "retire")]
    Handover,
    /// Only after `Handover`, on the same connection: sends the DNS sockets of all pods over the socket that is sent
    /// along. An agent of protocol version 1 does not know this request.
    ShareDns,
}

impl Request {
    /// A request for the status without traffic.
    #[must_use]
    pub const fn status() -> Self {
        Self::Status { hits: false, pod: None }
    }

    /// Whether the file descriptor of a network namespace must be sent along.
    #[must_use]
    pub fn needs_netns(&self) -> bool {
        match self {
            Self::Attach(_) | Self::Check(_) => true,
            Self::Detach { .. }
            | Self::Gc { .. }
            | Self::GcList { .. }
            | Self::Ready
            | Self::Status { .. }
            | Self::Dns { .. }
            | Self::DnsLog { .. }
            | Self::Handover
            | Self::ShareDns => false,
        }
    }
}

/// The agent's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Reply {
    /// The request succeeded, or the checked condition holds.
    Done,
    /// The request failed, or the checked condition does not hold.
    Refused {
        /// What is wrong, where, and what to do.
        message: String,
        /// Whether the same request can succeed later.
        transient: bool,
    },
    /// The reply to `Status`, `Dns` or `DnsLog` is in the file whose descriptor is sent along.
    File,
}

//! `Request` and `Reply`: one message each way on a connection.
//!
//! The versions of plugin and agent may be one apart, since the two are never replaced at the same instant.
//! What must not go in here: sockets.

use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, AttachmentKey};

/// The version of the messages.
pub const VERSION: u32 = 1;

/// Whether a peer of this version is understood.
#[must_use]
pub const fn speaks(version: u32) -> bool {
    version.abs_diff(VERSION) <= 1
}

/// A request or a reply with the version of whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<T> {
    /// The version.
    pub version: u32,
    /// What is said.
    #[serde(flatten)]
    pub body: T,
}

/// What the agent is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Request {
    /// Program the network namespace whose descriptor comes along, and keep it right.
    Attach(Attachment),
    /// Forget it.
    Detach {
        /// Which.
        key: AttachmentKey,
    },
    /// Say whether the network namespace whose descriptor comes along holds what it should.
    Check(Attachment),
    /// Forget all attachments of a network but these.
    Gc {
        /// The network.
        network: String,
        /// What is still there.
        valid: Vec<AttachmentKey>,
    },
    /// The same; what is still there is in a file whose descriptor comes along, since it is more than a message holds.
    /// An agent of 0.1.0 does not know this, and refuses it.
    GcList {
        /// The network.
        network: String,
    },
    /// Say whether an attachment would be programmed now.
    Ready,
    /// Tell everything; the answer is in a file whose descriptor comes along.
    Status {
        /// Also what came to portals, which is read from network namespaces for whoever asks.
        #[serde(default)]
        hits: bool,
        /// That of one pod alone: namespace/name, or how the id of its container begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<String>,
    },
    /// Leave the node to whoever asks: change nothing any more, and let its socket be taken. Connections that come
    /// are still relayed until whoever asked ends the conversation.
    #[serde(rename = "retire")]
    Handover,
}

impl Request {
    /// The status without what came to portals.
    #[must_use]
    pub const fn status() -> Self {
        Self::Status { hits: false, pod: None }
    }

    /// Whether the descriptor of a network namespace has to come along.
    #[must_use]
    pub fn needs_netns(&self) -> bool {
        match self {
            Self::Attach(_) | Self::Check(_) => true,
            Self::Detach { .. }
            | Self::Gc { .. }
            | Self::GcList { .. }
            | Self::Ready
            | Self::Status { .. }
            | Self::Handover => false,
        }
    }
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Reply {
    /// It is so, or done.
    Done,
    /// It is not, and why.
    Refused {
        /// What is wrong, where, and what to do.
        message: String,
        /// Whether trying again as it is may help.
        transient: bool,
    },
    /// The answer to `Status` is in the file whose descriptor comes along.
    File,
}

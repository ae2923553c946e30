//! An attachment: one interface of one pod, as the CNI plugin and the node agent speak of it.
//!
//! ```text
//! portico-cni ── Request + descriptor of the netns ──► agent ── Record ──► state directory
//!             ◄───────────── Reply ─────────────────
//! ```
//! The plugin must stay tiny, so nothing here needs tokio, and nothing here decides anything about services.

mod attachment;
mod connection;
mod entry;
mod list;
mod message;
mod packet;
mod record;

pub use attachment::{Attachment, AttachmentKey, PORTALS_ALL, PodName, Programmer, Record};
pub use connection::{
    AskError, Claim, Connection, Listener, Predecessor, ReceiveError, RetireError, SOCKET_DEFAULT, ask,
    collect, retire,
};
pub use entry::{
    Key, ON_AGENT_DOWN, OURS, OnAgentDown, PLUGIN_TYPE, POD_ANNOTATIONS, SOCKET, STATE_DIR, is_known_key,
};
pub use message::{Message, Reply, Request, VERSION, speaks};
pub use packet::{BYTES_MAX, MessageError, with_causes};
pub use record::{BrokenRecord, Records, STATE_DIR_DEFAULT, VIEW_DEFAULT, ruleset_path};

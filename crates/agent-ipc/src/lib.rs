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

pub use attachment::{Attachment, AttachmentKey, PORTALS_ALL, PodName, ProgrammedBy, Record};
pub use connection::{
    Connection, HandoverError, Listener, OutgoingAgent, ReceiveError, RequestError, SOCKET_DEFAULT,
    SocketOwnership, request_gc, request_handover, send_request,
};
pub use entry::{
    ConfigKey, ON_AGENT_DOWN, OnAgentDown, PLUGIN_KEYS, PLUGIN_TYPE, POD_ANNOTATIONS, SOCKET, STATE_DIR,
    is_known_key,
};
pub use message::{Message, Reply, Request, VERSION, speaks};
pub use packet::{BYTES_MAX, MessageError, with_causes};
pub use record::{CorruptRecord, Records, STATE_DIR_DEFAULT, VIEW_DEFAULT, ruleset_path};

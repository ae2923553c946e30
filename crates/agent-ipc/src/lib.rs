//! The protocol between the CNI plugin and the node agent: requests about attachments over a Unix socket, and the
//! records of attachments on disk.
//!
//! ```text
//! portico-cni ── Request + file descriptor of the netns ──► agent ── Record ──► state directory
//!             ◄────────────────── Reply ────────────────────
//! ```
//! The crate does not depend on tokio, because the plugin must stay small, and it makes no decisions about services.

mod attachment;
mod cni_entry;
mod connection;
mod handover;
mod list;
mod message;
mod packet;
mod pod_dns;
mod record;

pub use attachment::{Attachment, AttachmentKey, PodName, ProgrammedBy, Record};
pub use cni_entry::{
    ConfigKey, DNS_CAPABILITY, ON_AGENT_DOWN, OnAgentDown, PLUGIN_KEYS, PLUGIN_TYPE, POD_ANNOTATIONS, SOCKET,
    STATE_DIR, is_cni_name, is_known_key,
};
pub use connection::{
    Connection, Listener, ReceiveError, RequestError, SOCKET_DEFAULT, SocketOwnership, request_gc,
    send_request,
};
pub use handover::{HandoverError, OutgoingAgent, request_handover};
pub use message::{Message, Reply, Request, VERSION, is_supported_version};
pub use packet::{MESSAGE_BYTES_MAX, MessageError};
pub use pod_dns::{PodDns, RuntimeDns};
pub use record::{CorruptRecord, Records, STATE_DIR_DEFAULT, VIEW_DEFAULT, ruleset_path};

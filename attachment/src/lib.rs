//! An attachment: one interface of one pod, as the CNI plugin and the node agent speak of it.
//!
//! ```text
//! portico-cni ── Request + descriptor of the netns ──► agent ── Record ──► state directory
//!             ◄───────────── Reply ─────────────────
//! ```
//! The plugin must stay tiny, so nothing here needs tokio, and nothing here decides anything about services.

mod attachment;
mod message;

pub use attachment::{Attachment, AttachmentKey, PodName, Programmer, Record};
pub use message::{Message, Reply, Request, VERSION, speaks};

//! Kubernetes objects in, the core's services and endpoints out.
//!
//! ```text
//! files, folders, stdin ─ source ─► text ─ yaml | json ─► JSON values ─ reader ─► Objects + Report
//!        (IO)                     (streamed by document)     (pure: one function per kind)
//! ```
//! Input is never trusted: what an API server would refuse is refused here with the field and the reason,
//! what it would accept is defaulted as it would default it, and one bad object never loses another.
//! What must not go in here: portals, rules, anything that decides where a connection goes.

mod addresses;
mod allocate;
mod cluster;
mod document;
mod endpoints;
mod event;
mod field;
mod files;
mod finish;
mod json;
mod legacy;
mod manifest;
mod manner;
mod metadata;
mod node;
mod objects;
mod options;
mod pods;
mod ports;
mod reader;
mod report;
mod service;
mod slice;
mod source;
mod stream;
mod validate;
mod yaml;

#[cfg(test)]
mod tests;

pub use cluster::{
    ClientError, Limits, MetadataEvent, MetadataSelection, ObjectKey, ObjectMeta, OwnerReference, ProbeError,
    Refused, Watched, client, probe, watch_cluster, watch_cluster_within, watch_metadata,
};
pub use event::Event;
pub use files::{FileWatch, FilesError, watch_files, watch_paths};
pub use manifest::manifest;
pub use objects::Objects;
pub use options::ReadOptions;
pub use report::{MAX_PROBLEMS, Problem, Report, Severity};
pub use slice::{Defaults, Sliced, endpoint_slice};
pub use source::Source;
pub use stream::{read, read_str};

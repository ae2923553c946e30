//! Converts Kubernetes objects to proxy-core's services and endpoints.
//!
//! ```text
//! files, directories, stdin ─ source ─► text ─ yaml | json ─► JSON values ─ object_reader ─► Objects + Report
//!        (IO)                         (streamed by document)     (pure: one function per kind)
//! ```
//! Input is untrusted. An object that an API server would reject is rejected here, with the field and the reason.
//! Other objects get the API server's defaults. An invalid object does not affect the rest of the input. Portals and
//! rules do not belong here: proxy-core derives them.

mod addresses;
mod allocate;
mod cluster;
mod document;
mod endpoints;
mod event;
mod field;
mod files;
mod json;
mod legacy;
mod manifest;
mod manifest_reader;
mod metadata;
mod node;
mod object_reader;
mod objects;
mod options;
mod pods;
mod ports;
mod report;
mod resolve;
mod service;
mod service_annotations;
mod slice;
mod source;
mod validate;
mod yaml;

#[cfg(test)]
mod tests;

pub use cluster::{
    ClientError, MetadataEvent, MetadataSelection, ObjectKey, ObjectMeta, OwnerReference, ProbeError,
    RejectedObjects, WatchOptions, WatchScope, client, probe, watch_cluster, watch_cluster_with,
    watch_metadata,
};
pub use event::Event;
pub use files::{FileWatch, FilesError, watch_files, watch_paths};
pub use manifest::parse_manifest;
pub use manifest_reader::{read, read_str};
pub use objects::Objects;
pub use options::ReadOptions;
pub use report::{MAX_PROBLEMS, Problem, Report, Severity};
pub use slice::{Defaults, ParsedSlice, endpoint_slice};
pub use source::Source;

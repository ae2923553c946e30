//! Converts Kubernetes objects to proxy-core's services and endpoints.
//!
//! ```text
//! manifest files ─ files ─► manifests ─┐
//!                                      ├─► objects (one parser per kind) ─► core types ─► Event
//! API server ─ cluster ────────────────┘
//! ```
//! Input is untrusted. An object that an API server would reject is rejected here, with the field and the reason.
//! Other objects get the API server's defaults. An invalid object does not affect the rest of the input. Portals and
//! rules do not belong here: proxy-core derives them.

mod cluster;
mod event;
mod files;
mod manifests;
mod objects;

#[cfg(test)]
mod tests;

pub use cluster::{
    ClientError, MetadataEvent, MetadataSelection, ObjectClient, ObjectError, ObjectKey, ObjectMeta,
    OwnerReference, ProbeError, WatchOptions, WatchScope, client, probe, watch_cluster, watch_cluster_with,
    watch_metadata,
};
pub use event::{Event, RejectedObjects};
pub use files::{FileWatch, FilesError, watch_files, watch_paths};
pub use manifests::{Objects, Problem, ReadOptions, Report, Source, parse_manifest, read, read_str};
pub use objects::finding::{MAX_PROBLEMS, Severity};
pub use objects::slice::{Defaults, ParsedSlice, endpoint_slice};

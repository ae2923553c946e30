//! Reads manifests from files, directories and standard input.
//!
//! ```text
//! source ─► text ─ yaml | json ─► JSON values ─ object_reader ─► drafts ─ resolve ─► Objects + Report
//!  (IO)          (streamed by document)        (one function per kind)  (rules that involve several objects)
//! ```

pub(crate) mod allocate;
mod document;
mod json;
mod manifest;
pub(crate) mod manifest_reader;
pub(crate) mod object_reader;
pub(crate) mod object_set;
pub(crate) mod options;
pub(crate) mod report;
pub(crate) mod resolve;
pub(crate) mod source;
mod yaml;

pub use manifest::parse_manifest;
pub use manifest_reader::{read, read_str};
pub use object_set::Objects;
pub use options::ReadOptions;
pub use report::{Problem, Report};
pub use source::Source;

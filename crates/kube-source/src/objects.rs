//! Parses and validates single objects: one file per kind.
//!
//! ```text
//! JSON value ─ field (path, type) ─ validate (rules) ─► draft or core type, plus findings
//! ```
//! The kinds depend on `field`, `finding`, `validate`, `metadata` and `draft`. Rules that involve several objects belong
//! to `manifests::resolve`.

pub(crate) mod addresses;
pub(crate) mod draft;
pub(crate) mod endpoints;
pub(crate) mod field;
pub(crate) mod finding;
pub(crate) mod legacy;
pub(crate) mod metadata;
pub(crate) mod node;
pub(crate) mod pods;
pub(crate) mod ports;
pub(crate) mod service;
pub(crate) mod service_annotations;
pub(crate) mod slice;
pub(crate) mod validate;

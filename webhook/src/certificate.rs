//! The serving certificate, and its sources.
//!
//! ```text
//! files ───────┐
//! Secret ── CA ┼─► CertResolver ─► each new connection
//! memory ── CA ┘
//! ```
//! A new certificate applies to new connections; established ones continue.

pub(crate) mod ca;
pub(crate) mod cert_resolver;
pub(crate) mod files;
pub(crate) mod secret;

pub(crate) use ca::{CertLifetimes, CertificateAuthority};
pub(crate) use cert_resolver::CertResolver;

//! The certificate that the server shows, wherever it comes from.
//!
//! ```text
//! files ──────────────┐
//! Secret ── authority ┼─► CertResolver ─► each new connection
//! memory ── authority ┘
//! ```
//! A new one is shown to new connections; those that are there go on. What must not go in here: HTTP.

pub(crate) mod ca;
pub(crate) mod cert_resolver;
pub(crate) mod files;
pub(crate) mod secret;

pub(crate) use ca::{CertLifetimes, CertificateAuthority};
pub(crate) use cert_resolver::CertResolver;

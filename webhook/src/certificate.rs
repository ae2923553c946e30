//! The certificate that the server shows, wherever it comes from.
//!
//! ```text
//! files ──────────────┐
//! Secret ── authority ┼─► Shown ─► each new connection
//! memory ── authority ┘
//! ```
//! A new one is shown to new connections; those that are there go on. What must not go in here: HTTP.

pub(crate) mod authority;
pub(crate) mod files;
pub(crate) mod secret;
pub(crate) mod shown;

pub(crate) use authority::{Authority, Lives};
pub(crate) use shown::Shown;

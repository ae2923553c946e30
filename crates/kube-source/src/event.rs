//! `Event`: what a source of objects tells while it is watched.
//!
//! Files and API servers tell the same, so that whoever keeps portals up to date knows nothing of either. What must
//! not go in here: how a source is watched.

use proxy_core::node::Node;
use proxy_core::snapshot::Change;

use crate::cluster::RejectedObjects;

/// What a source tells, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Objects came, changed or went (never empty).
    Changes(Vec<Change>),
    /// The own node came or changed.
    Node(Node),
    /// All that there was at first has been told.
    Synced,
    /// The source cannot be read; all that was told stays in force. Text: what, where, why (one line).
    Outage(String),
    /// It can be read again.
    Recovered,
    /// How many objects cannot be used has changed, or there is one to name. What was told of such an object stays in
    /// force until it can be used again or is gone.
    Rejected(RejectedObjects),
}

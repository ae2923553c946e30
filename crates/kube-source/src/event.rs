//! `Event`: a change that a source of services and endpoints reports.
//!
//! Manifest files and API servers send the same events, so a receiver does not depend on the kind of source.

use proxy_core::node::Node;
use proxy_core::snapshot::Change;

/// A change that a source reports. Events are sent in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Objects were added, changed or removed. The list is never empty.
    Changes(Vec<Change>),
    /// The watched node was added or changed.
    Node(Node),
    /// The initial sync is complete: all objects that existed at the start have been sent.
    Synced,
    /// The source cannot be read; the objects that were sent stay in force. The text is one line with the operation, the
    /// object and the cause.
    Outage(String),
    /// The source can be read again.
    Recovered,
    /// The number of rejected objects changed, or an object is rejected for the first time. The last valid state of a
    /// rejected object stays in force until the object is valid again or deleted.
    Rejected(RejectedObjects),
}

/// The number of rejected objects, and the reason for a newly rejected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedObjects {
    /// The number of objects that are rejected now.
    pub count: usize,
    /// The name of an object that was not reported before, and the reason for its rejection, in one line.
    pub reason: Option<String>,
}

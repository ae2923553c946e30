//! `Said`: what a follower of a resource says of it.
//!
//! What must not go in here: what a consumer is told.

use crate::cluster::fault::Fault;
use crate::cluster::object::{Content, Object, ObjectKey};

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said<C = Content> {
    /// A list begins.
    Begin,
    /// The list has this object.
    Listed(Object<C>),
    /// The list is complete.
    End,
    /// This object came or changed.
    Changed(Object<C>),
    /// This object went.
    Gone(Option<ObjectKey>),
    /// The source cannot be read.
    Lost(Fault),
    /// The source may not be read, and can be done without.
    Denied(String),
    /// The server does not know the resource.
    Absent,
    /// The source can be read.
    Found,
}

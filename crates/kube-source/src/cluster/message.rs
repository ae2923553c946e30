//! `WatchMessage`: what a `ListWatch` sends about its resource.
//!
//! The aggregator of a consumer turns messages into events.

use crate::cluster::content::Content;
use crate::cluster::object::{Object, ObjectKey};
use crate::cluster::watch_error::WatchError;

/// A message about one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WatchMessage<C = Content> {
    /// A list begins.
    ListStarted,
    /// An object of the list.
    Listed(Object<C>),
    /// The list is complete.
    ListDone,
    /// An object was added or modified.
    Applied(Object<C>),
    /// An object was deleted, without a key if the API server sent no name.
    Deleted(Option<ObjectKey>),
    /// The list or the watch failed.
    Failed(WatchError),
    /// Access to an optional resource is denied.
    Denied(String),
    /// The API server does not have the optional resource.
    Unsupported,
    /// The resource can be read.
    Healthy,
}

//! `WatchError`: why a list or a watch failed.
//!
//! The kind decides how the next attempt is made, and whether the error is one of an outage that was reported already
//! (`outage_tracker`).

use std::error::Error;
use std::time::Duration;

use support::with_causes;

use crate::cluster::resource::Resource;
use crate::objects::finding::excerpt;

/// The kind of an error. Each kind is reported once per outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ErrorKind {
    /// The connection could not be established, or was lost.
    Connection,
    /// The API server did not respond in time.
    Timeout,
    /// The API server responded with this HTTP status.
    Status(u16),
    /// The response is not one of an API server.
    InvalidResponse,
}

/// Why a list or a watch failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WatchError {
    pub(super) kind: ErrorKind,
    /// One line with the operation, the resource and the cause.
    pub(super) text: String,
    /// The value of the header `Retry-After`.
    pub(super) retry_after: Option<Duration>,
}

impl WatchError {
    pub(super) fn new(kind: ErrorKind, verb: &str, resource: &Resource, cause: &str) -> Self {
        let text = format!("failed to {verb} {}: {}", resource.name, excerpt(cause));
        Self { kind, text, retry_after: None }
    }

    /// An error of the connection, with its causes.
    pub(super) fn connection(verb: &str, resource: &Resource, error: &(dyn Error + 'static)) -> Self {
        Self::new(ErrorKind::Connection, verb, resource, &with_causes(error))
    }

    /// An HTTP status with the message of its `Status` object.
    pub(super) fn status(verb: &str, resource: &Resource, code: u16, message: &str) -> Self {
        let mut cause = format!("API server returned {code}");
        if !message.is_empty() {
            cause = format!("{cause}: {message}");
        }
        let mut error = Self::new(ErrorKind::Status(code), verb, resource, &cause);
        if code == 403 {
            error.text.push_str(&format!(
                "; a ClusterRole needs the rule apiGroups: [\"{}\"], resources: [\"{}\"], verbs: [\"list\", \"watch\"]",
                resource.group, resource.name
            ));
        }
        if code == 401 {
            error.text.push_str("; the credentials were rejected");
        }
        error
    }

    pub(super) fn is_status(&self, code: u16) -> bool {
        self.kind == ErrorKind::Status(code)
    }
}

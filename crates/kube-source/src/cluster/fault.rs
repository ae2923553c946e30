//! `Fault`: why a server could not be listed or watched, and what that asks for.
//!
//! What must not go in here: what is told of it, which depends on what was told before.

use std::error::Error;
use std::time::Duration;

use crate::cluster::resource::Resource;
use crate::objects::finding::excerpt;

/// What sort of fault it is: one sort is told once in an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// There is no connection, or it broke.
    Connection,
    /// Nothing comes.
    Silence,
    /// The server refuses with this status.
    Status(u16),
    /// What comes is not what an API server says.
    Content,
}

/// Why a server could not be listed or watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    /// One line: what was tried, and why it failed.
    pub(super) text: String,
    /// How long the server asks to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl Fault {
    pub(super) fn new(cause: Cause, verb: &str, resource: &Resource, why: &str) -> Self {
        let text = format!("{verb} {}: {}", resource.name, excerpt(why));
        Self { cause, text, retry_after: None }
    }

    /// The connection failed; the causes below the error say more than itself.
    pub(super) fn connection(verb: &str, resource: &Resource, error: &(dyn Error + 'static)) -> Self {
        let mut why = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !why.contains(&text) {
                why = format!("{why}: {text}");
            }
            cause = error.source();
        }
        Self::new(Cause::Connection, verb, resource, &why)
    }

    /// The server has answered with a status.
    pub(super) fn status(verb: &str, resource: &Resource, code: u16, message: &str) -> Self {
        let mut why = format!("the API server answers {code}");
        if !message.is_empty() {
            why = format!("{why}, {message}");
        }
        let mut fault = Self::new(Cause::Status(code), verb, resource, &why);
        if code == 403 {
            fault.text.push_str(&format!(
                "; a ClusterRole needs the rule apiGroups: [\"{}\"], resources: [\"{}\"], verbs: [\"list\", \"watch\"]",
                resource.group, resource.name
            ));
        }
        if code == 401 {
            fault.text.push_str("; the credentials are not accepted");
        }
        fault
    }

    pub(super) fn is(&self, code: u16) -> bool {
        self.cause == Cause::Status(code)
    }
}

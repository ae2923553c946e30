//! `Failure`: why the plugin does not do what it was asked, as CNI writes it on standard output.
//!
//! The runtime shows the message to whoever waits for the pod, so it says what, where and what to do. What
//! must not go in here: a failure of DEL, which has none.

use std::fmt::Display;

use serde::Serialize;

use crate::version::Version;

/// What the runtime can tell apart. Those from 100 on are our own, those below the specification's; 8 and
/// 999 are the reference implementation's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    InputOutput = 5,
    Undecodable = 6,
    InvalidConfiguration = 7,
    InvalidNetns = 8,
    TryAgainLater = 11,
    NotAvailable = 50,
    LimitedConnectivity = 51,
    /// The agent does not want it, and will not.
    Refused = 100,
    /// Agent and plugin do not understand each other.
    NotUnderstood = 101,
    /// The pod's network namespace does not hold what it should.
    Missing = 102,
    /// The kernel does not want it.
    NotProgrammed = 103,
    /// What the agent has to know does not fit into a message.
    TooLarge = 104,
    Internal = 999,
}

/// Why it is not done.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Display) -> Self {
        Self { code, message: message.to_string(), details: String::new() }
    }

    /// With a way out.
    pub(crate) fn hint(self, details: impl Display) -> Self {
        Self { details: details.to_string(), ..self }
    }

    /// As the runtime reads it.
    pub(crate) fn json(&self, version: Version) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            cni_version: &'static str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let written = Written {
            cni_version: version.name(),
            code: self.code as u32,
            msg: &self.message,
            details: &self.details,
        };
        serde_json::to_string(&written).unwrap_or_default()
    }
}

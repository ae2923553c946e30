//! `CniError`: an error in the form of the CNI specification.
//!
//! The runtime shows the message in the events of the pod, so it says what is wrong, where, and what to do.

use std::fmt::Display;

use serde::Serialize;

/// The error codes. Codes below 100 are from the specification, those from 100 on are specific to this plugin; 8 and
/// 999 are from the reference implementation.
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
    /// The agent refused the request, and a retry will not help.
    Refused = 100,
    /// Agent and plugin do not support each other's messages.
    NotUnderstood = 101,
    /// The pod's network namespace is not in the desired state.
    Missing = 102,
    /// The kernel rejected the rules.
    NotProgrammed = 103,
    /// The request exceeds the size of a message.
    TooLarge = 104,
    Internal = 999,
}

/// An error in the form of the CNI specification.
#[derive(Debug)]
pub(crate) struct CniError {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, message: impl Display) -> Self {
        Self { code, message: message.to_string(), details: String::new() }
    }

    /// Adds a hint how to solve the problem.
    pub(crate) fn hint(self, details: impl Display) -> Self {
        Self { details: details.to_string(), ..self }
    }

    /// Encodes the error for the runtime.
    pub(crate) fn json(&self, cni_version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct ErrorResult<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let result =
            ErrorResult { cni_version, code: self.code as u32, msg: &self.message, details: &self.details };
        serde_json::to_string(&result).expect("strings and a number are valid JSON")
    }
}

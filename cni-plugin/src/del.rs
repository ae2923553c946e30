//! DEL: removes the attachment. The rules are deleted with the network namespace.
//!
//! `main` writes errors of DEL to standard error only and succeeds, so every step is tried.

use std::time::Duration;

use agent_ipc::Request;

use crate::agent::{Agent, AgentOutcome, refused};
use crate::attachment::attachment_key;
use crate::cni_args::CniArgs;
use crate::conf::Conf;
use crate::error::{CniError, Code};

/// The agent also detects deleted network namespaces by itself, so a long wait is not worthwhile.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn del(args: &CniArgs, conf: &Conf<'_>) -> Result<String, CniError> {
    // The configuration may have become invalid since ADD.
    let agent = Agent::new(conf).unwrap_or_default();
    let key = attachment_key(args, conf)?;
    let outcome = agent.request(&Request::Detach { key: key.clone() }, None, TIMEOUT);
    agent.records().remove(&key).map_err(|error| {
        CniError::new(Code::InputOutput, format!("failed to remove the record of {key}: {error}"))
    })?;
    match outcome? {
        AgentOutcome::Done | AgentOutcome::Down(_) => Ok(String::new()),
        AgentOutcome::Refused(message, is_transient) => Err(refused(&message, is_transient)),
    }
}

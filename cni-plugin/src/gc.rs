//! GC: removes the attachments of this network that the runtime no longer knows.
//!
//! Their network namespaces, and the rules in them, no longer exist; what remains are the agent's state and records.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use agent_ipc::{AttachmentKey, Request};

use crate::agent::{Agent, AgentOutcome, refused};
use crate::conf::Conf;
use crate::error::{CniError, Code};
use crate::version::Version;

/// CRI-O waits 30 seconds for all plugins of the chain.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A part of the message with which an agent of version 0.1.0 refuses an unknown request.
const UNKNOWN_REQUEST: &str = "cannot be understood";

pub(crate) fn gc(conf: &Conf<'_>, version: Version) -> Result<String, CniError> {
    version.require("GC", Version::V1_1_0)?;
    let (agent, network) = (Agent::new(conf)?, conf.network()?);
    // A missing list does not mean that no attachment is valid.
    let Some(valid) = conf.valid_attachments()? else { return Ok(String::new()) };
    match agent.request_gc(&network, &valid, TIMEOUT)? {
        AgentOutcome::Done => Ok(String::new()),
        AgentOutcome::Down(_) => prune(&agent, &network, &valid),
        // An agent of version 0.1.0 accepts no list beyond the size of a message; the removed attachments are few.
        AgentOutcome::Refused(message, false) if message.contains(UNKNOWN_REQUEST) => {
            prune(&agent, &network, &valid)
        }
        AgentOutcome::Refused(message, is_transient) => Err(refused(&message, is_transient)),
    }
}

/// Removes the recorded attachments that are not valid, one by one, also from the agent if it is running.
fn prune(agent: &Agent, network: &str, valid: &[AttachmentKey]) -> Result<String, CniError> {
    let failed = |error: io::Error| {
        let dir = agent.state_dir.display();
        CniError::new(Code::InputOutput, format!("failed to clean up the records in {dir}: {error}"))
    };
    let (records, _) = agent.records().read_all().map_err(failed)?;
    let valid: BTreeSet<&AttachmentKey> = valid.iter().collect();
    for key in records.into_iter().map(|record| record.attachment.key) {
        if key.network == network && !valid.contains(&key) {
            agent.request(&Request::Detach { key: key.clone() }, None, TIMEOUT)?;
            agent.records().remove(&key).map_err(failed)?;
        }
    }
    Ok(String::new())
}

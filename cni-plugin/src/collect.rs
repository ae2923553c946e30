//! GC: forget the attachments of this network that the runtime does not know any more.
//!
//! What must not go in here: network namespaces; those of forgotten attachments are gone already.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use agent_ipc::{AttachmentKey, Request};

use crate::agent::{Agent, Answer, refused};
use crate::conf::Conf;
use crate::failure::{Code, Failure};
use crate::version::Version;

/// CRI-O waits half a minute for the whole chain.
const PATIENCE: Duration = Duration::from_secs(10);

/// How an agent refuses a request that it does not know.
const NOT_UNDERSTOOD: &str = "cannot be understood";

pub(crate) fn gc(conf: &Conf<'_>, version: Version) -> Result<String, Failure> {
    version.needs("GC", Version::V1_1_0)?;
    let (agent, network) = (Agent::of(conf)?, conf.name()?);
    // No word about what is valid is no word about what is not.
    let Some(valid) = conf.valid_attachments()? else { return Ok(String::new()) };
    match agent.collect(&network, &valid, PATIENCE)? {
        Answer::Done => Ok(String::new()),
        Answer::Down(_) => prune(&agent, &network, &valid),
        // An agent of 0.1.0 takes no list that is larger than a message; those that are gone are few.
        Answer::Refused(message, false) if message.contains(NOT_UNDERSTOOD) => {
            prune(&agent, &network, &valid)
        }
        Answer::Refused(message, transient) => Err(refused(&message, transient)),
    }
}

/// Forgets one by one what is written down and not valid, the agent's part included where it is there.
fn prune(agent: &Agent, network: &str, valid: &[AttachmentKey]) -> Result<String, Failure> {
    let failed = |why: io::Error| {
        let path = agent.state_dir.display();
        Failure::new(Code::InputOutput, format!("clear the records in {path}: {why}"))
    };
    let (records, _) = agent.records().read_all().map_err(failed)?;
    let valid: BTreeSet<&AttachmentKey> = valid.iter().collect();
    for key in records.into_iter().map(|record| record.attachment.key) {
        if key.network == network && !valid.contains(&key) {
            agent.ask(&Request::Detach { key: key.clone() }, None, PATIENCE)?;
            agent.records().remove(&key).map_err(failed)?;
        }
    }
    Ok(String::new())
}

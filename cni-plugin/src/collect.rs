//! GC: forget the attachments of this network that the runtime does not know any more.
//!
//! What must not go in here: network namespaces; those of forgotten attachments are gone already.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use attachment::{AttachmentKey, Request};

use crate::agent::{Agent, Answer, refused};
use crate::conf::Conf;
use crate::failure::{Code, Failure};
use crate::version::Version;

/// CRI-O waits half a minute for the whole chain.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn gc(conf: &Conf<'_>, version: Version) -> Result<String, Failure> {
    version.needs("GC", Version::V1_1_0)?;
    let (agent, network) = (Agent::of(conf)?, conf.name()?);
    // No word about what is valid is no word about what is not.
    let Some(valid) = conf.valid_attachments()? else { return Ok(String::new()) };
    let request = Request::Gc { network: network.clone(), valid: valid.clone() };
    match agent.ask(&request, None, PATIENCE) {
        Ok(Answer::Done) => Ok(String::new()),
        Ok(Answer::Refused(message, transient)) => Err(refused(&message, transient)),
        Ok(Answer::Down(_)) => prune(&agent, &network, &valid),
        // Some hundred pods fill a message; those that are gone are few.
        Err(failure) if failure.code == Code::TooLarge => prune(&agent, &network, &valid),
        Err(failure) => Err(failure),
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

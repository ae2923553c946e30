//! DEL: forget the attachment. The network namespace goes by itself, and its rules with it.
//!
//! Whatever is wrong is said on standard error and nowhere else, and every step is taken. What must not go
//! in here: a reason to fail.

use std::time::Duration;

use agent_ipc::Request;

use crate::agent::{Agent, Answer, key, refused};
use crate::conf::Conf;
use crate::container::Container;
use crate::failure::{Code, Failure};

/// The agent drops those that are gone by itself, too; nobody should wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn del(container: &Container, conf: &Conf<'_>) -> Result<String, Failure> {
    // The configuration may have been changed since ADD, and not for the better.
    let agent = Agent::of(conf).unwrap_or_default();
    let key = key(container, conf)?;
    let answer = agent.ask(&Request::Detach { key: key.clone() }, None, PATIENCE);
    let removed = agent.records().remove(&key);
    removed.map_err(|why| Failure::new(Code::InputOutput, format!("remove the record of {key}: {why}")))?;
    match answer? {
        Answer::Done | Answer::Down(_) => Ok(String::new()),
        Answer::Refused(message, transient) => Err(refused(&message, transient)),
    }
}

//! STATUS: whether ADD would be served now.
//!
//! Runtimes take any failure for a node that is not ready, so a pod that would start is a success, even
//! without the agent. What must not go in here: whether single pods are well.

use std::time::Duration;

use agent_ipc::{OnAgentDown, Request};

use crate::agent::{Agent, Answer};
use crate::conf::Conf;
use crate::failure::{Code, Failure};
use crate::snapshot;
use crate::version::Version;

/// Runtimes ask every few seconds.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn status(conf: &Conf<'_>, version: Version) -> Result<String, Failure> {
    version.needs("STATUS", Version::V1_1_0)?;
    let (agent, on_agent_down) = (Agent::of(conf)?, conf.on_agent_down()?);
    match agent.ask(&Request::Ready, None, PATIENCE) {
        Ok(Answer::Done) => Ok(String::new()),
        Ok(Answer::Refused(message, true)) => Err(Failure::new(Code::NotAvailable, message)),
        // It will not get better by itself, so those that run are not kept right either.
        Ok(Answer::Refused(message, false)) => Err(Failure::new(Code::LimitedConnectivity, message)),
        Ok(Answer::Down(why)) => without_agent(&agent, on_agent_down, &why),
        Err(failure) => Err(Failure { code: Code::NotAvailable, ..failure }),
    }
}

fn without_agent(agent: &Agent, on_agent_down: OnAgentDown, why: &str) -> Result<String, Failure> {
    match on_agent_down {
        OnAgentDown::Ignore => Ok(String::new()),
        OnAgentDown::Fail => Err(Failure::new(Code::NotAvailable, why)),
        OnAgentDown::Snapshot => match snapshot::usable(&agent.state_dir, None) {
            Ok(_) => Ok(String::new()),
            Err(unusable) => {
                Err(Failure::new(Code::NotAvailable, format!("{why}; and there is no snapshot: {unusable}")))
            }
        },
    }
}

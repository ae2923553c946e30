//! STATUS: whether ADD can succeed now.
//!
//! Runtimes mark the node as not ready after any error, so STATUS succeeds if ADD would, even without an agent. The
//! state of single pods has no influence.

use std::time::Duration;

use agent_ipc::{OnAgentDown, Request};

use crate::agent::{Agent, AgentOutcome};
use crate::conf::Conf;
use crate::error::{CniError, Code};
use crate::snapshot;
use crate::version::Version;

/// Runtimes request the status every few seconds.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn status(conf: &Conf<'_>, version: Version) -> Result<String, CniError> {
    version.require("STATUS", Version::V1_1_0)?;
    let (agent, on_agent_down) = (Agent::new(conf)?, conf.on_agent_down()?);
    match agent.request(&Request::Ready, None, TIMEOUT) {
        Ok(AgentOutcome::Done) => Ok(String::new()),
        Ok(AgentOutcome::Refused(message, true)) => Err(CniError::new(Code::NotAvailable, message)),
        // The condition is permanent, so running pods are not maintained either.
        Ok(AgentOutcome::Refused(message, false)) => Err(CniError::new(Code::LimitedConnectivity, message)),
        Ok(AgentOutcome::Down(why)) => status_without_agent(&agent, on_agent_down, &why),
        Err(error) => Err(CniError { code: Code::NotAvailable, ..error }),
    }
}

fn status_without_agent(agent: &Agent, on_agent_down: OnAgentDown, why: &str) -> Result<String, CniError> {
    match on_agent_down {
        OnAgentDown::Ignore => Ok(String::new()),
        OnAgentDown::Fail => Err(CniError::new(Code::NotAvailable, why)),
        OnAgentDown::Snapshot => match snapshot::read(&agent.state_dir) {
            Ok(_) => Ok(String::new()),
            Err(unusable) => {
                Err(CniError::new(Code::NotAvailable, format!("{why}; no usable snapshot: {unusable}")))
            }
        },
    }
}

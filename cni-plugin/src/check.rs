//! CHECK: verifies that the pod's network namespace is in the desired state.
//!
//! The agent knows the desired state. Without an agent, CHECK verifies that the table is complete. It repairs nothing;
//! the agent does. A pod that is off has no desired state.

use std::time::{Duration, Instant};

use agent_ipc::{OnAgentDown, Request};
use netns_nft::{Limits, Netns, TableState};
use support::with_causes;

use crate::agent::{Agent, AgentOutcome, refused};
use crate::attachment::{attachment, open_netns};
use crate::cni_args::CniArgs;
use crate::conf::Conf;
use crate::error::{CniError, Code};
use crate::version::Version;

/// CRI-O checks after each ADD, and each time it reads the state of the pod.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn check(args: &CniArgs, conf: &Conf<'_>, version: Version) -> Result<String, CniError> {
    version.require("CHECK", Version::V0_4_0)?;
    let agent = Agent::new(conf)?;
    let on_agent_down = conf.on_agent_down()?;
    let attachment = attachment(args, conf)?;
    let netns = open_netns(&args.netns)?;
    if attachment.is_off() {
        return Ok(String::new());
    }
    match agent.request(&Request::Check(attachment), Some(&netns), TIMEOUT)? {
        AgentOutcome::Done => Ok(String::new()),
        AgentOutcome::Refused(message, is_transient) => Err(refused(&message, is_transient)),
        // ADD guarantees nothing in this mode.
        AgentOutcome::Down(_) if on_agent_down == OnAgentDown::Ignore => Ok(String::new()),
        AgentOutcome::Down(_) => check_table(&netns, args),
    }
}

/// Checks that the table is complete. Only the agent knows which portals it must contain.
fn check_table(netns: &Netns, args: &CniArgs) -> Result<String, CniError> {
    let path = args.netns.display();
    let deadline = Some(Instant::now() + TIMEOUT);
    let state = netns.socket().and_then(|socket| socket.read_table_within(&Limits::default(), deadline));
    let state = state.map_err(|error| {
        let code = if error.is_transient() { Code::TryAgainLater } else { Code::Missing };
        CniError::new(code, format!("failed to read the rules in {path}: {}", with_causes(&error)))
    })?;
    let message = match state {
        TableState::Intact(_) => return Ok(String::new()),
        TableState::Missing => format!("table inet portico is missing in {path}"),
        TableState::Drifted(why) => format!("table inet portico in {path} has drifted: {why}"),
    };
    Err(CniError::new(Code::Missing, message)
        .hint("no agent is running; it repairs the table when it starts"))
}

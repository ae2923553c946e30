//! ADD: programs the pod's portals before it succeeds, unless the configuration allows the pod to start without them.
//!
//! The agent programs the pod. If none is running, the plugin does what `onAgentDown` requires, and writes a record
//! from which the agent recovers the attachment. A pod that is off (`portico.dev/portals: off`) only becomes known to
//! the agent, and does not depend on it.

use std::time::Duration;

use agent_ipc::{Attachment, OnAgentDown, ProgrammedBy, Record, Request};
use netns_nft::Netns;

use crate::agent::{Agent, AgentOutcome, refused};
use crate::attachment::{attachment, open_netns};
use crate::cni_args::CniArgs;
use crate::conf::Conf;
use crate::error::{CniError, Code};
use crate::snapshot;
use crate::version::Version;

/// An agent that is starting lists the whole cluster first. Runtimes wait at least four minutes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The agent replies at once if a pod is off, so an agent that does not reply is not worth a long wait.
const OFF_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn add(args: &CniArgs, conf: &Conf<'_>, version: Version) -> Result<String, CniError> {
    let agent = Agent::new(conf)?;
    let on_agent_down = conf.on_agent_down()?;
    let attachment = attachment(args, conf)?;
    let result = conf.prev_result()?.in_version(version);
    let netns = open_netns(&args.netns)?;
    if attachment.is_off() {
        return leave_alone(&agent, attachment, &netns).map(|()| result);
    }
    let request = Request::Attach(attachment.clone());
    let mut outcome = agent.request(&request, Some(&netns), TIMEOUT)?;
    if let AgentOutcome::Down(why) = &outcome {
        let programmed_by = program_without_agent(&agent, &attachment, &netns, on_agent_down, why)?;
        write_record(&agent, attachment, &netns, programmed_by)?;
        // An agent that has started meanwhile may have read the records before this one was written. It listens before
        // it reads them, so an agent that still does not listen will read this one.
        outcome = agent.request(&request, Some(&netns), TIMEOUT)?;
    }
    match outcome {
        AgentOutcome::Done | AgentOutcome::Down(_) => Ok(result),
        AgentOutcome::Refused(message, is_transient) => Err(refused(&message, is_transient)),
    }
}

/// Does what the configuration requires if no agent is running.
fn program_without_agent(
    agent: &Agent,
    attachment: &Attachment,
    netns: &Netns,
    on_agent_down: OnAgentDown,
    why: &str,
) -> Result<ProgrammedBy, CniError> {
    match on_agent_down {
        OnAgentDown::Snapshot => {
            let snapshot = snapshot::read_for(&agent.state_dir, attachment).map_err(|unusable| {
                CniError::new(Code::TryAgainLater, format!("{why}; no usable snapshot: {unusable}"))
            })?;
            snapshot::program(netns, attachment, &snapshot)?;
            Ok(ProgrammedBy::Plugin)
        }
        OnAgentDown::Fail => {
            Err(CniError::new(Code::TryAgainLater, why)
                .hint("onAgentDown is \"fail\": pods wait for the agent"))
        }
        OnAgentDown::Ignore => Ok(ProgrammedBy::NotYet),
    }
}

/// Leaves a pod to other service proxies. The agent only lists it. If it does not confirm that, for any reason, it finds
/// the record at its start or at its next audit.
fn leave_alone(agent: &Agent, attachment: Attachment, netns: &Netns) -> Result<(), CniError> {
    let request = Request::Attach(attachment.clone());
    match agent.request(&request, Some(netns), OFF_TIMEOUT) {
        Ok(AgentOutcome::Done) => Ok(()),
        Ok(AgentOutcome::Down(_) | AgentOutcome::Refused(..)) | Err(_) => {
            write_record(agent, attachment, netns, ProgrammedBy::NotYet)
        }
    }
}

fn write_record(
    agent: &Agent,
    attachment: Attachment,
    netns: &Netns,
    programmed_by: ProgrammedBy,
) -> Result<(), CniError> {
    let record = Record { attachment, netns_id: netns.id(), programmed_by };
    agent.records().write(&record).map_err(|error| {
        let (key, dir) = (&record.attachment.key, agent.state_dir.display());
        CniError::new(Code::InputOutput, format!("failed to write record of {key} to {dir}: {error}"))
    })
}

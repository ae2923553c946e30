//! ADD: the pod's portals stand when it succeeds, or the configuration says that it may start without.
//!
//! What must not go in here: how a network namespace is programmed.

use std::time::Duration;

use agent_ipc::{Attachment, OnAgentDown, ProgrammedBy, Record, Request};
use netns_nft::Netns;

use crate::agent::{Agent, Answer, attachment, netns, refused};
use crate::conf::Conf;
use crate::container::Container;
use crate::failure::{Code, Failure};
use crate::snapshot;
use crate::version::Version;

/// An agent that is starting reads the whole cluster first. The runtimes wait four minutes or more.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn add(container: &Container, conf: &Conf<'_>, version: Version) -> Result<String, Failure> {
    let agent = Agent::of(conf)?;
    let on_agent_down = conf.on_agent_down()?;
    let attachment = attachment(container, conf)?;
    let result = conf.previous()?.in_version(version);
    let netns = netns(&container.netns)?;
    let request = Request::Attach(attachment.clone());
    let mut answer = agent.ask(&request, Some(&netns), PATIENCE)?;
    if let Answer::Down(why) = &answer {
        let programmer = stand_in(&agent, &attachment, &netns, on_agent_down, why)?;
        write_down(&agent, attachment, &netns, programmer)?;
        // An agent that came meanwhile may have read the records before this one was there. It listens before
        // it reads them, so one that still does not listen will see it.
        answer = agent.ask(&request, Some(&netns), PATIENCE)?;
    }
    match answer {
        Answer::Done | Answer::Down(_) => Ok(result),
        Answer::Refused(message, transient) => Err(refused(&message, transient)),
    }
}

/// Does what is to be done while there is no agent.
fn stand_in(
    agent: &Agent,
    attachment: &Attachment,
    netns: &Netns,
    on_agent_down: OnAgentDown,
    why: &str,
) -> Result<ProgrammedBy, Failure> {
    match on_agent_down {
        OnAgentDown::Snapshot => {
            let stored = snapshot::usable(&agent.state_dir, attachment.selection()).map_err(|unusable| {
                Failure::new(Code::TryAgainLater, format!("{why}; and there is no snapshot: {unusable}"))
            })?;
            snapshot::program(netns, attachment, &stored)?;
            Ok(ProgrammedBy::Plugin)
        }
        OnAgentDown::Fail => {
            Err(Failure::new(Code::TryAgainLater, why)
                .hint("onAgentDown is \"fail\": pods wait for the agent"))
        }
        OnAgentDown::Ignore => Ok(ProgrammedBy::NotYet),
    }
}

fn write_down(
    agent: &Agent,
    attachment: Attachment,
    netns: &Netns,
    programmer: ProgrammedBy,
) -> Result<(), Failure> {
    let record = Record { attachment, netns_id: netns.id(), programmed_by: programmer };
    agent.records().write(&record).map_err(|why| {
        let path = agent.state_dir.display();
        Failure::new(
            Code::InputOutput,
            format!("write a record of {} in {path}: {why}", record.attachment.key),
        )
    })
}

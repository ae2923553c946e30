//! CHECK: the pod's network namespace holds what it should, by the agent's word, or by what can be seen.
//!
//! What must not go in here: repairs; the agent does them.

use std::time::{Duration, Instant};

use agent_ipc::{OnAgentDown, Request, with_causes};
use netns_nft::{Limits, Netns, TableState};

use crate::agent::{Agent, Answer, attachment, netns, refused};
use crate::conf::Conf;
use crate::container::Container;
use crate::failure::{Code, Failure};
use crate::version::Version;

/// CRI-O checks right after each ADD and whenever it looks at the pod again.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn check(container: &Container, conf: &Conf<'_>, version: Version) -> Result<String, Failure> {
    version.needs("CHECK", Version::V0_4_0)?;
    let agent = Agent::of(conf)?;
    let on_agent_down = conf.on_agent_down()?;
    let attachment = attachment(container, conf)?;
    let netns = netns(&container.netns)?;
    match agent.ask(&Request::Check(attachment), Some(&netns), PATIENCE)? {
        Answer::Done => Ok(String::new()),
        Answer::Refused(message, transient) => Err(refused(&message, transient)),
        // ADD promised nothing.
        Answer::Down(_) if on_agent_down == OnAgentDown::Ignore => Ok(String::new()),
        Answer::Down(_) => look(&netns, container),
    }
}

/// Without the agent nobody knows which portals there should be; but a whole table must stand there.
fn look(netns: &Netns, container: &Container) -> Result<String, Failure> {
    let path = container.netns.display();
    let until = Some(Instant::now() + PATIENCE);
    let found = netns
        .socket()
        .and_then(|socket| socket.read_table_within(&Limits::default(), until))
        .map_err(|error| {
            let code = if error.is_transient() { Code::TryAgainLater } else { Code::Missing };
            Failure::new(code, format!("read the rules in {path}: {}", with_causes(&error)))
        })?;
    let flaw = match found {
        TableState::Intact(_) => return Ok(String::new()),
        TableState::Missing => format!("the table inet portico is missing in {path}"),
        TableState::Drifted(why) => format!("the table inet portico in {path} is not as it should be: {why}"),
    };
    Err(Failure::new(Code::Missing, flaw).hint("the agent is not there; it puts the table right when it is"))
}

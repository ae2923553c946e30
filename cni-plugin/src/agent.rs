//! `Agent`: a client of the node's agent, which maps its replies to CNI errors.
//!
//! That no agent is running is an outcome, not an error: each verb handles it differently.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use agent_ipc::{
    AttachmentKey, Records, Reply, Request, RequestError, SOCKET_DEFAULT, STATE_DIR_DEFAULT, request_gc,
    send_request,
};
use netns_nft::Netns;
use support::with_causes;

use crate::conf::Conf;
use crate::error::{CniError, Code};

/// The agent of this node, which may not be running.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
    pub(crate) state_dir: PathBuf,
}

/// The outcome of a request to the agent.
#[derive(Debug)]
pub(crate) enum AgentOutcome {
    Done,
    /// The agent's message, and whether a retry can succeed.
    Refused(String, bool),
    /// No agent is running; holds the reason.
    Down(String),
}

impl Default for Agent {
    fn default() -> Self {
        Self { socket: SOCKET_DEFAULT.into(), state_dir: STATE_DIR_DEFAULT.into() }
    }
}

impl Agent {
    pub(crate) fn new(conf: &Conf<'_>) -> Result<Self, CniError> {
        Ok(Self { socket: conf.socket()?, state_dir: conf.state_dir()? })
    }

    /// Sends a request, and waits for the reply until the timeout.
    pub(crate) fn request(
        &self,
        request: &Request,
        netns: Option<&Netns>,
        timeout: Duration,
    ) -> Result<AgentOutcome, CniError> {
        let reply = send_request(&self.socket, request, netns.map(AsFd::as_fd), timeout);
        outcome(reply.map(|(reply, _)| reply))
    }

    /// Requests the removal of all attachments of a network except these.
    pub(crate) fn request_gc(
        &self,
        network: &str,
        valid: &[AttachmentKey],
        timeout: Duration,
    ) -> Result<AgentOutcome, CniError> {
        outcome(request_gc(&self.socket, network, valid, timeout))
    }

    /// The records of attachments, which the plugin maintains if no agent is running.
    pub(crate) fn records(&self) -> Records {
        Records::new(&self.state_dir)
    }
}

fn outcome(reply: Result<Reply, RequestError>) -> Result<AgentOutcome, CniError> {
    match reply {
        Ok(Reply::Done) => Ok(AgentOutcome::Done),
        Ok(Reply::Refused { message, transient }) => Ok(AgentOutcome::Refused(message, transient)),
        Ok(Reply::File) => Err(CniError::new(Code::NotUnderstood, "unexpected reply from the agent: a file")),
        Err(error) if error.is_agent_down() => Ok(AgentOutcome::Down(with_causes(&error))),
        Err(error) if error.is_transient() => Err(CniError::new(Code::TryAgainLater, with_causes(&error))),
        Err(error) if error.is_too_large() => Err(CniError::new(Code::TooLarge, with_causes(&error))),
        Err(error) => Err(CniError::new(Code::NotUnderstood, with_causes(&error))
            .hint("portico-cni and the agent of this node may be of different releases")),
    }
}

/// The CNI error for a refused request.
pub(crate) fn refused(message: &str, is_transient: bool) -> CniError {
    let code = if is_transient { Code::TryAgainLater } else { Code::Refused };
    CniError::new(code, format!("the agent: {message}"))
}

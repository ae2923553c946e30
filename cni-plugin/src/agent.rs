//! `Agent`: where the node's agent is to be found, and what its answers mean to a runtime.
//!
//! What must not go in here: what to do while it is not there.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_ipc::{
    Attachment, AttachmentKey, Records, Reply, Request, RequestError, SOCKET_DEFAULT, STATE_DIR_DEFAULT,
    request_gc, send_request, with_causes,
};
use netns_nft::Netns;

use crate::conf::Conf;
use crate::container::Container;
use crate::failure::{Code, Failure};

/// The agent of this node, whether it is there or not.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
    pub(crate) state_dir: PathBuf,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    /// Not done, why, and whether trying again may help.
    Refused(String, bool),
    /// Nobody was asked, and how that is known.
    Down(String),
}

impl Default for Agent {
    fn default() -> Self {
        Self { socket: SOCKET_DEFAULT.into(), state_dir: STATE_DIR_DEFAULT.into() }
    }
}

impl Agent {
    pub(crate) fn of(conf: &Conf<'_>) -> Result<Self, Failure> {
        Ok(Self { socket: conf.socket()?, state_dir: conf.state_dir()? })
    }

    pub(crate) fn ask(
        &self,
        request: &Request,
        netns: Option<&Netns>,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let answer = send_request(&self.socket, request, netns.map(AsFd::as_fd), patience);
        Self::answer(answer.map(|(reply, _)| reply))
    }

    /// Has it forget all attachments of a network but these.
    pub(crate) fn collect(
        &self,
        network: &str,
        valid: &[AttachmentKey],
        patience: Duration,
    ) -> Result<Answer, Failure> {
        Self::answer(request_gc(&self.socket, network, valid, patience))
    }

    fn answer(reply: Result<Reply, RequestError>) -> Result<Answer, Failure> {
        match reply {
            Ok(Reply::Done) => Ok(Answer::Done),
            Ok(Reply::Refused { message, transient }) => Ok(Answer::Refused(message, transient)),
            Ok(Reply::File) => {
                Err(Failure::new(Code::NotUnderstood, "the agent answers with a file that was not asked for"))
            }
            Err(error) if error.is_agent_down() => Ok(Answer::Down(with_causes(&error))),
            Err(error) if error.is_transient() => Err(Failure::new(Code::TryAgainLater, with_causes(&error))),
            Err(error) if error.is_too_large() => Err(Failure::new(Code::TooLarge, with_causes(&error))),
            Err(error) => Err(Failure::new(Code::NotUnderstood, with_causes(&error))
                .hint("portico-cni and the agent of this node may be of different releases")),
        }
    }

    /// What was written down, for whoever does the agent's work while it is not there.
    pub(crate) fn records(&self) -> Records {
        Records::new(&self.state_dir)
    }
}

/// What a refusal means to the runtime.
pub(crate) fn refused(message: &str, transient: bool) -> Failure {
    Failure::new(if transient { Code::TryAgainLater } else { Code::Refused }, format!("the agent: {message}"))
}

pub(crate) fn key(container: &Container, conf: &Conf<'_>) -> Result<AttachmentKey, Failure> {
    Ok(AttachmentKey {
        network: conf.name()?,
        container_id: container.id.clone(),
        interface: container.interface.clone(),
    })
}

/// Everything that is known of the attachment.
pub(crate) fn attachment(container: &Container, conf: &Conf<'_>) -> Result<Attachment, Failure> {
    let (addresses, mut notes) = conf.previous()?.addresses(&container.interface)?;
    notes.extend(conf.notes());
    Ok(Attachment {
        key: key(container, conf)?,
        netns: container.netns.clone(),
        pod: container.pod(),
        addresses,
        annotations: conf.annotations()?,
        notes,
    })
}

/// The pod's network namespace; our own one is refused before anything is done in it.
pub(crate) fn netns(path: &Path) -> Result<Netns, Failure> {
    Netns::open(path).map_err(|error| {
        let code = if error.is_transient() { Code::TryAgainLater } else { Code::InvalidNetns };
        Failure::new(code, format!("CNI_NETNS {}: {}", path.display(), with_causes(&error)))
    })
}

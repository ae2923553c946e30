//! The handover between agents, from the side of the new one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use thiserror::Error;

use crate::connection::{RequestError, exchange};
use crate::message::{DNS_VERSION, Message, Reply, Request};
use crate::packet::{MessageError, send};

/// An agent that handed over. It continues to relay until this is dropped.
#[derive(Debug)]
pub struct OutgoingAgent {
    connection: OwnedFd,
    /// Its version of the protocol.
    version: u32,
}

impl OutgoingAgent {
    /// Requests duplicates of the DNS sockets of all pods. Returns the socket over which the agent sends them, unless
    /// the agent is too old to have any.
    ///
    /// # Errors
    /// If the request cannot be sent.
    pub fn request_dns(&self, timeout: Duration) -> Result<Option<OwnedFd>, MessageError> {
        if self.version < DNS_VERSION {
            return Ok(None);
        }
        let (own, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for socket in [&own, &other] {
            set_socket_timeout(socket, Timeout::Recv, Some(timeout))?;
            set_socket_timeout(socket, Timeout::Send, Some(timeout))?;
        }
        send(self.connection.as_fd(), &Request::ShareDns, Some(other.as_fd()))?;
        Ok(Some(own))
    }
}

/// Requests that the running agent hands over. Returns none if no agent is running.
///
/// # Errors
/// If the agent refuses, or does not reply in time.
pub fn request_handover(path: &Path, timeout: Duration) -> Result<Option<OutgoingAgent>, HandoverError> {
    match exchange(path, &Request::Handover, None, timeout) {
        Ok((Message { body: Reply::Done, version }, _, connection)) => {
            Ok(Some(OutgoingAgent { connection, version }))
        }
        Ok((Message { body: Reply::Refused { message, .. }, .. }, ..)) => {
            Err(HandoverError::Refused(message))
        }
        Ok((Message { body: Reply::File, .. }, ..)) => {
            Err(HandoverError::Refused("unexpected reply".to_owned()))
        }
        Err(RequestError::Absent { .. }) => Ok(None),
        Err(error) => Err(HandoverError::Request(error)),
    }
}

/// Why an agent did not hand over.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The agent refused, or does not support it.
    #[error("running agent refused to hand over: {0}; stop it first")]
    Refused(String),
    /// The request failed.
    #[error("failed to request handover from the running agent")]
    Request(#[source] RequestError),
}

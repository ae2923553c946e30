//! `Asked`: the answer to a query of the agent itself, on behalf of a pod.

use std::net::IpAddr;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use dns::{AnswerSource, CachedAnswer};
use netns_nft::NetnsId;

/// The answer that a pod gets.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The DNS address of the pod that was asked.
    pub server: IpAddr,
    /// The response.
    pub message: Vec<u8>,
    /// What answered.
    pub source: AnswerSource,
    /// The stored response to the same question, before the query.
    pub cached: Option<CachedAnswer>,
    /// The time from the query to the response.
    pub duration: Duration,
}

/// A query that waits for its answer.
#[derive(Debug)]
pub(crate) struct AskedQuery {
    pub(crate) netns: NetnsId,
    pub(crate) server: IpAddr,
    pub(crate) cached: Option<CachedAnswer>,
    pub(crate) started: Instant,
    pub(crate) reply: SyncSender<Asked>,
}

impl AskedQuery {
    /// Sends the answer. The receiver may have timed out.
    pub(crate) fn respond(self, message: &[u8], source: AnswerSource) {
        let Self { netns: _, server, cached, started, reply } = self;
        let duration = started.elapsed();
        let _ = reply.send(Asked { server, message: message.to_vec(), source, cached, duration });
    }
}

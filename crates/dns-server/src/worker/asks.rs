//! Queries of the agent itself, on behalf of a pod: for an explanation of the answer that the pod gets, and the query
//! log of a pod.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use dns::{Handling, Name, Origin, QueryLogBatch, RecordType, Transport, encode_query};
use netns_nft::NetnsId;

use super::{PendingReply, Worker};
use crate::asked::{Asked, AskedQuery};

/// The time after which the log of a pod ends if no command reads it.
const LOG_TIMEOUT: Duration = Duration::from_secs(5);

impl Worker {
    /// Answers a query as if the pod had sent it over UDP to its first DNS address. Without the pod the reply is
    /// dropped.
    pub(super) fn ask(&mut self, netns: NetnsId, name: &Name, kind: RecordType, reply: SyncSender<Asked>) {
        let Some(pod) = self.pods.get(&netns) else { return };
        let Some(server) = pod.addresses.first().map(|address| address.server) else { return };
        let client = Arc::clone(&pod.client);
        let now = Instant::now();
        let cached = self.resolver.cached_answer(now, client.id, server, name, kind);
        let query = AskedQuery { netns, server, cached, started: now, reply };
        let key = self.pending.insert(PendingReply::Command(Box::new(query)));
        let (message, mut response) = (encode_query(fastrand::u16(..), name, kind), Vec::new());
        let origin = Origin(key.number());
        let handling =
            self.resolver.query(now, &client, server, Transport::Udp, origin, &message, &mut response);
        match handling {
            Handling::Respond(source) => self.respond(origin, &response, source, now),
            Handling::Drop => drop(self.pending.remove(key)),
            Handling::Pending => {}
        }
    }

    /// Returns the queries of a pod since the last call, and records them from now on until `LOG_TIMEOUT` after the
    /// last call.
    pub(super) fn take_queries(&mut self, netns: NetnsId, now: Instant) -> QueryLogBatch {
        let Some(client) = self.pods.get(&netns).map(|pod| pod.client.id) else {
            return QueryLogBatch::default();
        };
        self.resolver.set_query_log(client, true);
        self.logged.insert(client, now);
        self.resolver.take_query_log(client)
    }

    /// Ends the logs that no command reads.
    pub(super) fn end_unread_logs(&mut self, now: Instant) {
        let Self { logged, resolver, .. } = self;
        logged.retain(|client, read_at| {
            let is_read = now.saturating_duration_since(*read_at) < LOG_TIMEOUT;
            if !is_read {
                resolver.set_query_log(*client, false);
            }
            is_read
        });
    }
}

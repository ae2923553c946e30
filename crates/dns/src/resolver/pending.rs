//! `Pending`: a query that waits for upstreams.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::action::Origin;
use crate::answer::External;
use crate::client::Client;
use crate::message::{Name, RecordType, Transport};
use crate::request::Request;
use crate::search::SearchWalk;

/// What is done with the responses of upstreams.
#[derive(Debug)]
pub(super) enum Goal {
    /// The response is relayed.
    Relay,
    /// The asked name is an alias, and its target is looked up.
    External(Box<External>),
    /// The asked name does not exist, and the client would ask these names next. If the walk fails, the client gets
    /// the response of the zone.
    Search(SearchWalk, Vec<u8>),
}

/// A query that waits.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) origin: Origin,
    pub(super) client: Arc<Client>,
    /// The DNS address that the client asked.
    pub(super) server: IpAddr,
    pub(super) transport: Transport,
    /// The query as it arrived.
    pub(super) message: Vec<u8>,
    pub(super) name: Name,
    pub(super) record_type: RecordType,
    pub(super) request: Request,
    pub(super) received_at: Instant,
    pub(super) goal: Goal,
}

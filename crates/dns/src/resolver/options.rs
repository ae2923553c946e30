//! `ResolverOptions`: where queries that the zone does not answer go, and the limits.

use std::net::{IpAddr, SocketAddr};

use crate::limits::Rate;
use crate::message::Name;
use crate::request::Request;
use crate::zone::Zone;

/// The memory for responses of upstreams in each thread.
const CACHE_BYTES_MAX: usize = 4 << 20;
/// The queries to upstreams of one client: a busy mail server or crawler stays below it.
const CLIENT_RATE: Rate = Rate { per_second: 5_000, burst: 10_000 };
const CLIENT_IN_FLIGHT_MAX: usize = 1_000;
const IN_FLIGHT_MAX: usize = 10_000;

/// The upstreams of names that are not in the zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Upstreams {
    /// The endpoints of the cluster DNS that the client asked, from the client's own network namespace. Each client has
    /// its own cache and lookups, because the upstream can distinguish clients.
    #[default]
    Cluster,
    /// These servers, from the node. All clients share the cache and the lookups.
    Node {
        /// The servers for all names without a stub.
        upstreams: Vec<SocketAddr>,
        /// Servers for the names within a domain; the longest domain applies.
        stubs: Vec<(Name, Vec<SocketAddr>)>,
    },
}

impl Upstreams {
    /// Returns the servers for a query of a client that asked the DNS address `server`. Node upstreams whose queries
    /// would come back to the agent are omitted.
    pub(super) fn servers(&self, zone: Option<&Zone>, server: IpAddr, request: &Request) -> Vec<SocketAddr> {
        let Some(zone) = zone else { return Vec::new() };
        let Self::Node { upstreams, stubs } = self else { return zone.upstreams_of(server) };
        let name = Name::read(request.name()).map_or(Name::ROOT, |(name, _)| name);
        let stub = stubs.iter().filter(|(domain, _)| name.is_within(domain));
        let stub = stub.max_by_key(|(domain, _)| domain.as_bytes().len());
        let servers = stub.map_or(upstreams, |(_, servers)| servers);
        let captured = zone.dns_addresses();
        servers.iter().filter(|server| !captured.contains(&server.ip())).copied().collect()
    }
}

/// The options of a resolver.
#[derive(Clone, Debug)]
pub struct ResolverOptions {
    /// Where other names are resolved.
    pub upstreams: Upstreams,
    /// Whether the walk of a search list is answered in one step.
    pub is_search_collapsed: bool,
    /// The memory for responses of upstreams.
    pub cache_bytes_max: usize,
    /// The rate of queries to upstreams of one client.
    pub client_rate: Rate,
    /// The number of queries to upstreams of one client that can be in progress.
    pub client_in_flight_max: usize,
    /// The number of queries to upstreams that can be in progress.
    pub in_flight_max: usize,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            upstreams: Upstreams::default(),
            is_search_collapsed: true,
            cache_bytes_max: CACHE_BYTES_MAX,
            client_rate: CLIENT_RATE,
            client_in_flight_max: CLIENT_IN_FLIGHT_MAX,
            in_flight_max: IN_FLIGHT_MAX,
        }
    }
}

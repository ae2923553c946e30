//! `Zone`: the names of the cluster at one revision of the snapshot.
//!
//! A clone takes constant time and never changes, so each thread that answers queries has one of its own. A refresh
//! costs what the changed services cost.

mod bucket_map;
mod config;
mod host;
mod index;
mod service_entry;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proxy_core::address::Family;
use proxy_core::service::Protocol;
use proxy_core::snapshot::{ChangedServices, Snapshot};

pub use config::{TTL_DEFAULT_S, ZoneConfig};
pub(crate) use host::{HostLabel, HostQuery, parse_dashed};
pub(crate) use index::Index;
pub(crate) use service_entry::{ServiceEntry, ServiceKind};

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// The names of a cluster. Before the first refresh it responds to each query for a name of the cluster with SERVFAIL.
#[derive(Debug, Clone)]
pub struct Zone {
    pub(crate) config: Arc<ZoneConfig>,
    pub(crate) index: Index,
    /// None: the initial sync is not complete.
    pub(crate) snapshot: Option<Snapshot>,
}

impl Zone {
    /// Returns a zone before its initial sync.
    #[must_use]
    pub fn new(config: ZoneConfig) -> Self {
        Self { config: Arc::new(config), index: Index::default(), snapshot: None }
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &ZoneConfig {
        &self.config
    }

    /// Whether the zone was refreshed from a snapshot.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Adopts a snapshot. `changed` contains the services that differ from those at the last refresh; `None`: all can
    /// differ.
    pub fn refresh(&mut self, snapshot: &Snapshot, changed: Option<&ChangedServices>) {
        match changed.filter(|_| self.is_synced()) {
            Some(changed) => {
                for key in changed {
                    let entry = snapshot.service(key).map(|s| ServiceEntry::new(s, snapshot, &self.config));
                    self.index.set(key, entry);
                }
            }
            None => {
                self.index = Index::default();
                for service in snapshot.services() {
                    let entry = ServiceEntry::new(service, snapshot, &self.config);
                    self.index.set(&service.key, Some(entry));
                }
            }
        }
        self.snapshot = Some(snapshot.clone());
    }

    /// Returns the servers behind an address of the cluster's DNS: the ready endpoints of port 53 over UDP of the
    /// service with this cluster address. Without such endpoints, the address itself.
    #[must_use]
    pub fn upstreams_of(&self, server: IpAddr) -> Vec<SocketAddr> {
        let mut upstreams = self.dns_endpoints_of(server);
        if upstreams.is_empty() {
            upstreams.push(SocketAddr::new(server, DNS_PORT));
        }
        upstreams
    }

    fn dns_endpoints_of(&self, server: IpAddr) -> Vec<SocketAddr> {
        let Some(snapshot) = &self.snapshot else { return Vec::new() };
        let owners = self.index.services_at(server).into_iter();
        let mut owners = owners.filter(|entry| entry.has_cluster_ip(server)).map(|entry| &entry.service);
        let Some(service) = owners.next() else { return Vec::new() };
        let is_dns = |protocol: Protocol, port: u16| (protocol, port) == (Protocol::Udp, DNS_PORT);
        let Some(port) = service.ports.iter().find(|port| is_dns(port.protocol, port.port)) else {
            return Vec::new();
        };
        let endpoints_of = |family| {
            let found = snapshot.endpoints_of(&service.key, &port.name, port.protocol, family);
            let ready = found.iter().filter(|found| found.endpoint.conditions.ready);
            ready.map(|found| found.backend).collect::<Vec<_>>()
        };
        // The servers respond the same in both families.
        let of_family = endpoints_of(Family::of(server));
        if of_family.is_empty() {
            Family::BOTH.into_iter().flat_map(endpoints_of).collect()
        } else {
            of_family
        }
    }

    /// Returns the addresses of the cluster's DNS: those of the settings, otherwise those of its service.
    #[must_use]
    pub fn dns_addresses(&self) -> Vec<IpAddr> {
        if !self.config.dns_addresses.is_empty() {
            return self.config.dns_addresses.clone();
        }
        let service = self.index.service_with_key(&self.config.dns_service);
        service.map(|entry| entry.service.cluster_ips.iter().collect()).unwrap_or_default()
    }
}

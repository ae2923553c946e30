//! `ZoneConfig`: the settings of a zone, which do not change while the agent runs.

use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::service::ServiceKey;

use crate::message::Name;

/// The default TTL of answers, in seconds.
pub const TTL_DEFAULT_S: u32 = 5;

/// The settings of a zone.
#[derive(Debug, Clone)]
pub struct ZoneConfig {
    /// The domain of the cluster.
    pub domain: Name,
    /// The TTL of answers, in seconds.
    pub ttl_s: u32,
    /// Whether `A-B-C-D.NAMESPACE.pod.DOMAIN` is the address A.B.C.D, for any address.
    pub has_pod_records: bool,
    /// Whether names of the zone that do not exist are forwarded, instead of denied.
    pub has_fallthrough: bool,
    /// The service of the cluster's DNS servers.
    pub dns_service: ServiceKey,
    /// The addresses of the cluster's DNS, if they are not those of `dns_service`.
    pub dns_addresses: Vec<IpAddr>,
    /// The name of the node.
    pub node: Arc<str>,
    /// The zone of the node.
    pub node_zone: Arc<str>,
}

impl Default for ZoneConfig {
    fn default() -> Self {
        Self {
            domain: Name::parse("cluster.local").unwrap_or(Name::ROOT),
            ttl_s: TTL_DEFAULT_S,
            has_pod_records: false,
            has_fallthrough: false,
            dns_service: ServiceKey::new("kube-system", "kube-dns"),
            dns_addresses: Vec::new(),
            node: Arc::default(),
            node_zone: Arc::default(),
        }
    }
}

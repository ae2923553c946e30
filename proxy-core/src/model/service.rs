//! `Service`: the validated content of a Kubernetes Service that Portico needs.
//!
//! `kube-source` builds these values from API objects and rejects what an API server would reject, so later code needs
//! no validation. Invalid states cannot be represented: a headless service has no address, and a dual-stack service has
//! one address of each family.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::address::Family;
use crate::model::dns::DnsEndpoints;

/// The default timeout of session affinity, in seconds (core/v1 defaults.go).
pub const AFFINITY_S_DEFAULT: u32 = 10_800;
/// The maximum timeout of session affinity in the API, in seconds: one day.
pub const AFFINITY_S_MAX: u32 = 86_400;
/// The maximum time for which a connection waits for a first backend, in milliseconds.
pub const HOLD_MS_MAX: u32 = 300_000;
/// The maximum length of the name of a service or a namespace (RFC 1123 label).
const NAME_BYTES_MAX: usize = 63;

/// The namespace and name of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in the namespace.
    pub name: Arc<str>,
}

impl ServiceKey {
    /// Returns the key of service `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// By namespace, then by name. Maps compare keys very often, and most keys share their strings.
impl Ord for ServiceKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_shared(&self.namespace, &other.namespace)
            .then_with(|| compare_shared(&self.name, &other.name))
    }
}

impl PartialOrd for ServiceKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether a text has the form of a name or namespace of a service: 1 to 63 lower-case letters, digits and dashes.
#[must_use]
pub fn is_service_name(text: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_valid)
}

/// Compares two strings; strings that share their memory are equal without a comparison.
pub(crate) fn compare_shared(left: &Arc<str>, right: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(left, right) { Ordering::Equal } else { left.cmp(right) }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol. The same port number with two protocols is two portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocols that a service can have.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The name in lower case, as in nftables, iptables and the values of variables.
    #[must_use]
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The name in upper case, as in the API and the names of variables.
    #[must_use]
    pub const fn upper(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Parses the name in the API, which is in upper case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.upper() == text)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.upper())
    }
}

/// The cluster addresses of a service: at most one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ClusterIps {
    /// `clusterIP: None` or an external name: the service has neither portals nor variables.
    Headless,
    /// One address.
    One(IpAddr),
    /// One address of each family.
    Dual(Ipv4Addr, Ipv6Addr),
}

impl ClusterIps {
    /// Returns the address of a family.
    #[must_use]
    pub const fn of(self, family: Family) -> Option<IpAddr> {
        match (self, family) {
            (Self::One(IpAddr::V4(v4)), Family::V4) | (Self::Dual(v4, _), Family::V4) => Some(IpAddr::V4(v4)),
            (Self::One(IpAddr::V6(v6)), Family::V6) | (Self::Dual(_, v6), Family::V6) => Some(IpAddr::V6(v6)),
            _ => None,
        }
    }

    /// Returns the addresses, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        Family::BOTH.into_iter().filter_map(move |family| self.of(family))
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// The name; empty if the service has one port without a name.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the portal.
    pub port: u16,
    /// The port on every node, for services of type `NodePort` and `LoadBalancer`.
    pub node_port: Option<u16>,
}

/// A traffic policy: whether endpoints on other nodes are eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum TrafficPolicy {
    /// Endpoints anywhere in the cluster.
    #[default]
    Cluster,
    /// Endpoints on the client's own node only.
    Local,
}

/// How connections to a service reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The kernel translates the address of each connection (the default).
    #[default]
    Kernel,
    /// The relay in the pod's network namespace proxies the connection in user space.
    Relay,
}

/// The network namespace from which the relay connects to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dial {
    /// From the pod's: the backend sees the pod's address (the default).
    #[default]
    Pod,
    /// From the node's: for backends that the pod's interface cannot reach.
    Node,
    /// From the pod's, and if that fails, from the node's.
    Auto,
}

impl Dial {
    /// All values with their names in annotations.
    pub const NAMES: [(&'static str, Self); 3] =
        [("pod", Self::Pod), ("node", Self::Node), ("auto", Self::Auto)];
}

/// How a portal selects the backend of a connection, with the names of IPVS. The default is `Random` in the kernel and
/// `RoundRobin` in the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Scheduler {
    /// At random, with equal probability.
    Random,
    /// One after another.
    RoundRobin,
    /// The backend with the fewest connections.
    LeastConnection,
    /// By the destination address.
    DestinationHashing,
    /// By the source address.
    SourceHashing,
    /// The backend with the shortest expected delay.
    ShortestExpectedDelay,
    /// A backend without connections, otherwise as `ShortestExpectedDelay`.
    NeverQueue,
}

impl Scheduler {
    /// All schedulers.
    pub const ALL: [Self; 7] = [
        Self::Random,
        Self::RoundRobin,
        Self::LeastConnection,
        Self::DestinationHashing,
        Self::SourceHashing,
        Self::ShortestExpectedDelay,
        Self::NeverQueue,
    ];

    /// The name in annotations and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "rr",
            Self::LeastConnection => "lc",
            Self::DestinationHashing => "dh",
            Self::SourceHashing => "sh",
            Self::ShortestExpectedDelay => "sed",
            Self::NeverQueue => "nq",
        }
    }

    /// Whether only the relay implements it: nftables has no count of connections by backend.
    #[must_use]
    pub const fn needs_relay(self) -> bool {
        !matches!(self, Self::Random | Self::RoundRobin)
    }
}

/// The other namespaces whose pods can get a service's variables: annotation `portico.dev/export`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub enum Export {
    /// No other namespace (the default).
    #[default]
    Nowhere,
    /// All namespaces.
    Everywhere,
    /// These namespaces.
    To(Vec<Arc<str>>),
}

/// The creation time of a service. Earlier times are first, and an unknown time is last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Created(u64);

impl Created {
    /// Sorts before every service.
    pub(crate) const FIRST: Self = Self(0);

    /// Parses the time in an object's metadata, such as 2026-01-31T23:59:59Z. An invalid time is unknown.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let is_form = |(at, byte): (usize, u8)| match at {
            4 | 7 => byte == b'-',
            10 => byte == b'T',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        };
        let Some(seconds) = text.get(..19).filter(|text| text.bytes().enumerate().all(is_form)) else {
            return Self::default();
        };
        // The digits in their order form a number that increases with time.
        let digits = seconds.bytes().filter(u8::is_ascii_digit);
        Self(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }
}

impl Default for Created {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

/// A validated service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// The namespace and name.
    pub key: ServiceKey,
    /// The creation time.
    #[serde(skip)]
    pub created: Created,
    /// The cluster addresses.
    pub cluster_ips: ClusterIps,
    /// The text of `spec.clusterIP`: variables contain the text, not the parsed address.
    pub cluster_ip_text: Option<Arc<str>>,
    /// The ports in the order of the object: the short variables describe the first.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy`: which endpoints are eligible at the cluster address.
    pub internal_policy: TrafficPolicy,
    /// `externalTrafficPolicy`: which endpoints are eligible at external addresses, for clients outside the cluster.
    pub external_policy: TrafficPolicy,
    /// `spec.externalIPs`, sorted.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses in mode `VIP`, sorted.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Source ranges with access to the load-balancer addresses; empty means all.
    pub source_ranges: Vec<IpNet>,
    /// The port at which each node reports the number of its endpoints to load balancers: only for type `LoadBalancer`
    /// with `externalTrafficPolicy: Local`.
    pub health_check_node_port: Option<u16>,
    /// The timeout of `sessionAffinity: ClientIP`, in seconds.
    pub affinity_s: Option<u32>,
    /// Whether Portico is responsible: false for services of another proxy (label
    /// `service.kubernetes.io/service-proxy-name`), for services that no proxy serves (label
    /// `service.kubernetes.io/headless`) and for external names. They have variables and names, but no portals.
    pub has_portals: bool,
    /// Whether no proxy serves the addresses: label `service.kubernetes.io/headless` without another proxy's label.
    /// kube-proxy does not watch such a service, so it has no effect on the portals of other services.
    pub is_unproxied: bool,
    /// The name to which `spec.externalName` refers, in lower case and without a trailing dot: only for type
    /// `ExternalName`.
    pub external_name: Option<Arc<str>>,
    /// Annotation `portico.dev/mode`; `None`: the default of the `NodeContext`.
    pub mode: Option<Mode>,
    /// Annotation `portico.dev/scheduler`. A scheduler that the kernel lacks takes precedence over the mode, except for
    /// SCTP, which is not relayed: its backends are selected at random.
    pub scheduler: Option<Scheduler>,
    /// Annotation `portico.dev/dial`.
    pub dial: Dial,
    /// Annotation `portico.dev/hold`: how long a connection waits in the relay for a first backend.
    pub hold_ms: Option<u32>,
    /// Annotation `portico.dev/export`.
    pub export: Export,
    /// Annotation `portico.dev/dns-endpoints`.
    pub dns_endpoints: DnsEndpoints,
}

impl Service {
    /// Whether pods in `namespace` can get the service's variables.
    #[must_use]
    pub fn is_offered_to(&self, namespace: &str) -> bool {
        let is_named = match &self.export {
            Export::Nowhere => false,
            Export::Everywhere => true,
            Export::To(namespaces) => namespaces.iter().any(|name| **name == *namespace),
        };
        is_named || *self.key.namespace == *namespace
    }

    /// Returns the mode for ports of this protocol; `default` applies to services without a mode.
    #[must_use]
    pub fn mode_of(&self, protocol: Protocol, default: Mode) -> Mode {
        match protocol {
            Protocol::Sctp => Mode::Kernel, // the relay does not support SCTP
            _ if self.scheduler.is_some_and(Scheduler::needs_relay) => Mode::Relay,
            Protocol::Tcp | Protocol::Udp => self.mode.unwrap_or(default),
        }
    }

    /// Returns the source ranges of a family. `None` means no restriction; a range of length 0 removes it.
    #[must_use]
    pub fn source_ranges_of(&self, family: Family) -> Option<Vec<IpNet>> {
        let ranges: Vec<IpNet> =
            self.source_ranges.iter().copied().filter(|net| Family::of_net(net) == family).collect();
        (!ranges.is_empty() && ranges.iter().all(|net| net.prefix_len() > 0)).then_some(ranges)
    }
}

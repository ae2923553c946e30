//! `Service`: what Portico needs of a Kubernetes Service, already checked.
//!
//! `kube-source` makes these from API objects and refuses what no API server would accept, so that
//! nothing below has to ask whether a field is there. What cannot be true cannot be written: a headless
//! service has no address, a dual-stack service has one of each family.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::address::Family;

/// How long a client stays with its backend where an object does not say it (core/v1 defaults.go).
pub const AFFINITY_S_DEFAULT: u32 = 10_800;
/// The longest that `sessionAffinityConfig` may keep a client with its backend: a day.
pub const AFFINITY_S_MAX: u32 = 86_400;
/// The longest that a connection may be held while there is no backend.
pub const HOLD_MS_MAX: u32 = 300_000;

/// The identity of a service, and of everything that belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl ServiceKey {
    /// The key of service `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// By namespace, then by name. Maps compare keys all the time, and most keys share their texts.
impl Ord for ServiceKey {
    fn cmp(&self, other: &Self) -> Ordering {
        text_order(&self.namespace, &other.namespace).then_with(|| text_order(&self.name, &other.name))
    }
}

impl PartialOrd for ServiceKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of two texts; one and the same text is not compared with itself.
pub(crate) fn text_order(one: &Arc<str>, other: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(one, other) { Ordering::Equal } else { one.cmp(other) }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol; the same port number of two protocols makes two portals.
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
    /// All protocols that a service may name.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The name in lower case, as nftables, iptables and the values of variables write it.
    #[must_use]
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The name in upper case, as the API and the names of variables write it.
    #[must_use]
    pub const fn upper(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The protocol that the API calls `text`; the API knows upper case only.
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
    /// `clusterIP: None`, or an external name: no portal, no variables.
    Headless,
    /// One address.
    One(IpAddr),
    /// One address of each family.
    Dual(Ipv4Addr, Ipv6Addr),
}

impl ClusterIps {
    /// The address of this family, if the service has one.
    #[must_use]
    pub const fn of(self, family: Family) -> Option<IpAddr> {
        match (self, family) {
            (Self::One(IpAddr::V4(v4)), Family::V4) | (Self::Dual(v4, _), Family::V4) => Some(IpAddr::V4(v4)),
            (Self::One(IpAddr::V6(v6)), Family::V6) | (Self::Dual(_, v6), Family::V6) => Some(IpAddr::V6(v6)),
            _ => None,
        }
    }

    /// All addresses, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        Family::BOTH.into_iter().filter_map(move |family| self.of(family))
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// The name; empty where the service has one port and did not name it.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the portal.
    pub port: u16,
    /// The port on every node, for services of type `NodePort` and `LoadBalancer`.
    pub node_port: Option<u16>,
}

/// A traffic policy: whether endpoints on other nodes may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum TrafficPolicy {
    /// Endpoints anywhere in the cluster.
    #[default]
    Cluster,
    /// Endpoints on the client's own node only.
    Local,
}

/// How the portals of a service reach a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The kernel translates the address of each connection (the default).
    #[default]
    Kernel,
    /// A user-space proxy inside the pod's network namespace takes the connection.
    Relay,
}

/// From where the relay opens its connection to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dial {
    /// From the pod's network namespace: the backend includes the pod's address (the default).
    #[default]
    Pod,
    /// From the node: for backends that the pod's own interface cannot reach.
    Node,
    /// From the pod, and where that leads nowhere, from the node.
    Auto,
}

impl Dial {
    /// All of them, by the names in annotations.
    pub const NAMES: [(&'static str, Self); 3] =
        [("pod", Self::Pod), ("node", Self::Node), ("auto", Self::Auto)];
}

/// How a portal chooses a backend for a connection, under the names that IPVS gave them. A service that does
/// not say it has its backends at random in the kernel, and in turn in the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Scheduler {
    /// Each with the same chance.
    Random,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest connections.
    LeastConnection,
    /// By the destination address.
    DestinationHashing,
    /// By the source address.
    SourceHashing,
    /// The one that answers soonest.
    ShortestExpectedDelay,
    /// One without connections, or else the one that answers soonest.
    NeverQueue,
}

impl Scheduler {
    /// All of them.
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

    /// Whether only the relay knows it: the kernel counts no connections for us.
    #[must_use]
    pub const fn needs_relay(self) -> bool {
        !matches!(self, Self::Random | Self::RoundRobin)
    }
}

/// Which other namespaces may take a service's variables: annotation `portico.dev/export`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub enum Export {
    /// None (the default).
    #[default]
    Nowhere,
    /// All.
    Everywhere,
    /// These.
    To(Vec<Arc<str>>),
}

/// When a service was created: the earlier one sorts first, and one of an unknown time last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Created(u64);

impl Created {
    /// Before every service.
    pub(crate) const FIRST: Self = Self(0);

    /// The time in an object's metadata, as 2026-01-31T23:59:59Z; one that cannot be read is unknown.
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
        // The digits in their order are a number that grows with time.
        let digits = seconds.bytes().filter(u8::is_ascii_digit);
        Self(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
    }
}

impl Default for Created {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

/// A service, already checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its identity.
    pub key: ServiceKey,
    /// When it was created.
    #[serde(skip)]
    pub created: Created,
    /// Its cluster addresses.
    pub cluster_ips: ClusterIps,
    /// `spec.clusterIP` as it was written: variables carry the text, not the parsed address.
    pub cluster_ip_text: Option<Arc<str>>,
    /// Its ports in the order of the object: the first gives the short variables.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy`: which endpoints the cluster address leads to.
    pub internal_policy: TrafficPolicy,
    /// `externalTrafficPolicy`: which endpoints external addresses lead to, for traffic from outside.
    pub external_policy: TrafficPolicy,
    /// External addresses, sorted.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses that traffic is sent to as they stand, sorted.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load-balancer addresses; empty: everyone.
    pub source_ranges: Vec<IpNet>,
    /// `sessionAffinity: ClientIP`: for how many seconds a client stays with its backend.
    pub affinity_s: Option<u32>,
    /// False where another proxy is responsible (label `service.kubernetes.io/service-proxy-name`), and
    /// for external names: the service has variables but no portals.
    pub has_portals: bool,
    /// Annotation `portico.dev/mode`; none: the default of whoever makes the rules.
    pub mode: Option<Mode>,
    /// Annotation `portico.dev/scheduler`. One that needs the relay takes it, whatever the mode; but nothing
    /// relays SCTP, whose backends are then drawn at random.
    pub scheduler: Option<Scheduler>,
    /// Annotation `portico.dev/dial`: from where the relay opens connections.
    pub dial: Dial,
    /// Annotation `portico.dev/hold`: for so many milliseconds a connection waits in the relay for a first backend.
    pub hold_ms: Option<u32>,
    /// Annotation `portico.dev/export`: whose pods may have its variables, besides those of its own namespace.
    pub export: Export,
}

impl Service {
    /// Whether pods in `namespace` may have its variables.
    #[must_use]
    pub fn is_offered_to(&self, namespace: &str) -> bool {
        let is_named = match &self.export {
            Export::Nowhere => false,
            Export::Everywhere => true,
            Export::To(namespaces) => namespaces.iter().any(|name| **name == *namespace),
        };
        is_named || *self.key.namespace == *namespace
    }

    /// Whether traffic from outside the cluster can reach it.
    #[must_use]
    pub fn is_externally_accessible(&self) -> bool {
        !self.external_ips.is_empty()
            || !self.load_balancer_ips.is_empty()
            || self.ports.iter().any(|port| port.node_port.is_some())
    }

    /// How its portals of this protocol reach a backend, where `default` is for those that do not say it.
    #[must_use]
    pub fn mode_of(&self, protocol: Protocol, default: Mode) -> Mode {
        match protocol {
            Protocol::Sctp => Mode::Kernel, // nothing in user space relays SCTP
            _ if self.scheduler.is_some_and(Scheduler::needs_relay) => Mode::Relay,
            Protocol::Tcp | Protocol::Udp => self.mode.unwrap_or(default),
        }
    }

    /// The source ranges of one family; none: no restriction. A range that covers everything lifts it.
    #[must_use]
    pub fn source_ranges_of(&self, family: Family) -> Option<Vec<IpNet>> {
        let ranges: Vec<IpNet> =
            self.source_ranges.iter().copied().filter(|net| Family::of_net(net) == family).collect();
        (!ranges.is_empty() && ranges.iter().all(|net| net.prefix_len() > 0)).then_some(ranges)
    }
}

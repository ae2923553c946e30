//! A small cluster with many conflicts: generates services, slices and node contexts from bytes.
//!
//! All names, addresses and ports come from short lists, so that two services claim one portal, endpoints have the
//! address of a service, and slices move from one service to another. The checks are in `incremental`.

use std::net::IpAddr;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use ipnet::IpNet;
use proxy_core::address::{Family, forbidden};
use proxy_core::dns::DnsEndpoints;
use proxy_core::endpoint::{Conditions, Endpoint, EndpointPort, EndpointSlice, SliceKey};
use proxy_core::node::Node;
use proxy_core::portal::{ExternalPolicy, NodeContext, ServiceFilter};
use proxy_core::ruleset::Settings;
use proxy_core::service::{
    ClusterIps, Created, Dial, Export, Mode, Protocol, Scheduler, Service, ServiceKey, ServicePort,
    TrafficPolicy,
};
use proxy_core::snapshot::Change;

const NAMESPACES: [&str; 2] = ["default", "other"];
const NAMES: [&str; 4] = ["a", "b", "kubernetes", "a-service"];
const SLICES: [&str; 4] = ["s1", "s2", "s3", "s4"];
const NODES: [&str; 3] = ["", "n1", "n2"];
const ZONES: [&str; 3] = ["", "za", "zb"];
const PORT_NAMES: [&str; 3] = ["", "http", "dns"];
const PORTS: [u16; 4] = [80, 443, 53, 30_080];
const NODE_PORTS: [Option<u16>; 4] = [None, None, Some(30_080), Some(80)];
const AFFINITIES: [Option<u32>; 4] = [None, Some(1), Some(10_800), Some(86_400)];
const MODES: [Option<Mode>; 3] = [None, Some(Mode::Kernel), Some(Mode::Relay)];
const POLICIES: [TrafficPolicy; 2] = [TrafficPolicy::Cluster, TrafficPolicy::Local];
/// The addresses of services, nodes and endpoints: some adjacent, some in other networks.
const V4: [&str; 8] =
    ["10.96.0.1", "10.96.0.2", "10.96.16.3", "10.240.0.5", "10.1.0.1", "10.1.0.2", "10.1.0.3", "192.0.2.1"];
const V6: [&str; 4] = ["fd00::1", "fd00::2", "fd00:1::1", "2001:db8:f::5"];
const NETS: [&str; 9] = [
    "10.0.0.0/8",
    "10.240.0.0/16",
    "10.240.0.5/32",
    "10.96.0.0/17",
    "10.96.128.0/17",
    "0.0.0.0/0",
    "fd00::/16",
    "2001:db8:f::/48",
    "::/0",
];

/// The maximum number of batches of a scenario. Each is compared with a computation from the start.
const BATCHES_MAX: usize = 32;
/// The maximum number of changes in a batch.
const CHANGES_MAX: usize = 4;

/// A byte of the input, which selects an element of a list.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Choice(u8);

impl Choice {
    fn of<T: Clone>(self, all: &[T]) -> T {
        all[usize::from(self.0) % all.len()].clone()
    }

    fn v4(self) -> IpAddr {
        self.of(&V4).parse().expect("the list holds addresses")
    }

    fn v6(self) -> IpAddr {
        self.of(&V6).parse().expect("the list holds addresses")
    }

    /// An address of either family.
    fn ip(self) -> IpAddr {
        let half = Self(self.0 / 2);
        if self.0.is_multiple_of(2) { half.v4() } else { half.v6() }
    }

    fn net(self) -> IpNet {
        self.of(&NETS).parse().expect("the list holds networks")
    }

    fn service(self) -> ServiceKey {
        ServiceKey::new(Self(self.0 / 16).of(&NAMESPACES), self.of(&NAMES))
    }

    fn slice(self) -> SliceKey {
        SliceKey::new(Self(self.0 / 16).of(&NAMESPACES), self.of(&SLICES))
    }
}

#[derive(Debug, Arbitrary)]
enum ClusterIpsSeed {
    Headless,
    V4(Choice),
    V6(Choice),
    Both(Choice, Choice),
}

#[derive(Debug, Arbitrary)]
struct PortSeed {
    name: Choice,
    protocol: Choice,
    port: Choice,
    node_port: Choice,
}

#[derive(Debug, Arbitrary)]
struct ServiceSeed {
    key: Choice,
    cluster_ips: ClusterIpsSeed,
    ports: Vec<PortSeed>,
    policies: [Choice; 2],
    external_ips: Vec<Choice>,
    load_balancer_ips: Vec<Choice>,
    source_ranges: Vec<Choice>,
    affinity: Choice,
    mode: Choice,
    scheduler: Choice,
    has_other_proxy: bool,
}

impl ServiceSeed {
    fn service(&self) -> Service {
        let cluster_ips = match self.cluster_ips {
            ClusterIpsSeed::Headless => ClusterIps::Headless,
            ClusterIpsSeed::V4(choice) => ClusterIps::One(choice.v4()),
            ClusterIpsSeed::V6(choice) => ClusterIps::One(choice.v6()),
            ClusterIpsSeed::Both(first, second) => match (first.v4(), second.v6()) {
                (IpAddr::V4(v4), IpAddr::V6(v6)) => ClusterIps::Dual(v4, v6),
                (other, _) => ClusterIps::One(other),
            },
        };
        let mut ports: Vec<ServicePort> = Vec::new();
        for seed in &self.ports {
            let port = ServicePort {
                name: seed.name.of(&PORT_NAMES).into(),
                protocol: seed.protocol.of(&Protocol::ALL),
                port: seed.port.of(&PORTS),
                node_port: seed.node_port.of(&NODE_PORTS),
            };
            // An API server rejects ports that conflict.
            let conflicts = |other: &ServicePort| {
                let same_node_port = other.node_port.is_some() && other.node_port == port.node_port;
                other.name == port.name
                    || other.protocol == port.protocol && (other.port == port.port || same_node_port)
            };
            if !ports.iter().any(conflicts) {
                ports.push(port);
            }
        }
        let sorted = |choices: &[Choice]| {
            let mut addresses: Vec<IpAddr> = choices.iter().map(|choice| choice.ip()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        };
        Service {
            key: self.key.service(),
            created: Created::default(),
            cluster_ip_text: cluster_ips.iter().next().map(|address| address.to_string().into()),
            cluster_ips,
            ports,
            internal_policy: self.policies[0].of(&POLICIES),
            external_policy: self.policies[1].of(&POLICIES),
            external_ips: sorted(&self.external_ips),
            load_balancer_ips: sorted(&self.load_balancer_ips),
            source_ranges: self.source_ranges.iter().map(|choice| choice.net()).collect(),
            health_check_node_port: None,
            affinity_s: self.affinity.of(&AFFINITIES),
            has_portals: !self.has_other_proxy,
            is_unproxied: false,
            external_name: None,
            mode: self.mode.of(&MODES),
            scheduler: Some(self.scheduler.of(&Scheduler::ALL)),
            dial: Dial::Pod,
            hold_ms: None,
            export: Export::Nowhere,
            dns_endpoints: DnsEndpoints::All,
        }
    }
}

#[derive(Debug, Arbitrary)]
struct EndpointSeed {
    address: Choice,
    /// Ready, serving, terminating.
    conditions: [bool; 3],
    node: Choice,
    zone_hints: Vec<Choice>,
    node_hints: Vec<Choice>,
}

impl EndpointSeed {
    fn endpoint(&self, family: Family) -> Option<Endpoint> {
        let address = if family == Family::V4 { self.address.v4() } else { self.address.v6() };
        let [ready, serving, terminating] = self.conditions;
        let texts = |choices: &[Choice], all: &[&'static str]| -> Vec<Arc<str>> {
            choices.iter().map(|choice| choice.of(all).into()).collect()
        };
        let node = self.node.of(&NODES);
        Some(Endpoint {
            address,
            conditions: Conditions { ready, serving, terminating },
            node: (!node.is_empty()).then(|| node.into()),
            zone: None,
            hostname: None,
            zone_hints: texts(&self.zone_hints, &ZONES[1..]),
            node_hints: texts(&self.node_hints, &NODES[1..]),
        })
        .filter(|endpoint| forbidden(endpoint.address).is_none())
    }
}

#[derive(Debug, Arbitrary)]
struct SliceSeed {
    key: Choice,
    service: Choice,
    is_v6: bool,
    has_names_only: bool,
    ports: Vec<[Choice; 3]>,
    endpoints: Vec<EndpointSeed>,
}

impl SliceSeed {
    fn slice(&self) -> EndpointSlice {
        let key = self.key.slice();
        let service = ServiceKey { namespace: key.namespace.clone(), ..self.service.service() };
        let family = if self.is_v6 { Family::V6 } else { Family::V4 };
        let ports = self.ports.iter().map(|[name, protocol, port]| EndpointPort {
            name: name.of(&PORT_NAMES).into(),
            protocol: protocol.of(&Protocol::ALL),
            port: port.of(&PORTS),
        });
        let ports = ports.collect();
        let endpoints = self.endpoints.iter().filter_map(|seed| seed.endpoint(family)).collect();
        EndpointSlice { key, service, has_portals: !self.has_names_only, ports, endpoints }
    }
}

#[derive(Debug, Arbitrary)]
enum ChangeSeed {
    Service(ServiceSeed),
    ServiceDeleted(Choice),
    Slice(SliceSeed),
    SliceDeleted(Choice),
    Ranges(Vec<Choice>),
}

impl ChangeSeed {
    fn change(&self) -> Change {
        match self {
            Self::Service(seed) => Change::Service(seed.service()),
            Self::ServiceDeleted(key) => Change::ServiceDeleted(key.service()),
            Self::Slice(seed) => Change::Slice(seed.slice()),
            Self::SliceDeleted(key) => Change::SliceDeleted(key.slice()),
            Self::Ranges(nets) => Change::ServiceRanges(nets.iter().map(|net| net.net()).collect()),
        }
    }
}

#[derive(Debug)]
struct BatchSeed {
    changes: Vec<ChangeSeed>,
    /// Whether the kernel accepts the plan. Otherwise the applied rules and the touched portals are kept.
    is_applied: bool,
}

/// A sequence of changes of a cluster, and a node context.
#[derive(Debug)]
pub struct Scenario {
    node: Choice,
    zone: Choice,
    addresses: Vec<Choice>,
    only: Option<Vec<Choice>>,
    mode: Choice,
    settings: [bool; 2],
    batches: Vec<BatchSeed>,
}

/// The length of a scenario depends on the number of bytes. A derived list would end after each element with a
/// probability of one half.
impl<'a> Arbitrary<'a> for Scenario {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut scenario = Self {
            node: bytes.arbitrary()?,
            zone: bytes.arbitrary()?,
            addresses: bytes.arbitrary()?,
            only: if bytes.ratio(1, 8)? { Some(bytes.arbitrary()?) } else { None },
            mode: bytes.arbitrary()?,
            settings: bytes.arbitrary()?,
            batches: Vec::new(),
        };
        while !bytes.is_empty() && scenario.batches.len() < BATCHES_MAX {
            let count = bytes.int_in_range(1..=CHANGES_MAX)?;
            let changes = (0..count).map(|_| bytes.arbitrary()).collect::<Result<_, _>>()?;
            scenario.batches.push(BatchSeed { changes, is_applied: bytes.arbitrary()? });
        }
        Ok(scenario)
    }
}

/// Changes in one batch, and whether the plan for them is applied.
#[derive(Debug)]
pub struct Batch {
    /// The changes.
    pub changes: Vec<Change>,
    /// Whether the plan is applied.
    pub is_applied: bool,
}

impl Scenario {
    /// The node context.
    #[must_use]
    pub fn node_context(&self) -> NodeContext {
        let node = Node {
            name: self.node.of(&NODES).into(),
            zone: self.zone.of(&ZONES).into(),
            addresses: self.addresses.iter().map(|choice| choice.ip()).collect(),
            ..Node::default()
        };
        let only = |choices: &Vec<Choice>| {
            ServiceFilter::Only(choices.iter().map(|choice| choice.service()).collect())
        };
        let filter = self.only.as_ref().map_or(ServiceFilter::All, only);
        let mode = self.mode.of(&MODES).unwrap_or_default();
        NodeContext { node, filter, mode, external: ExternalPolicy::all(), ..NodeContext::default() }
    }

    /// The settings before and after.
    #[must_use]
    pub fn settings(&self) -> [Settings; 2] {
        self.settings.map(|other| {
            let settings = Settings::default();
            Settings { nat_priority: settings.nat_priority - i32::from(other), ..settings }
        })
    }

    /// The batches of changes.
    pub fn batches(&self) -> impl Iterator<Item = Batch> {
        self.batches.iter().map(|seed| Batch {
            changes: seed.changes.iter().map(ChangeSeed::change).collect(),
            is_applied: seed.is_applied,
        })
    }
}

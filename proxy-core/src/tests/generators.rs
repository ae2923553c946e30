//! Random clusters with few names and addresses: addresses collide, services are recreated, and endpoints have the
//! addresses of services.
//!
//! `IncrementalCluster` applies changes incrementally, as an agent does, and keeps the objects, from which everything
//! can be computed again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::model::dns::{DnsEndpoints, Namespace};
use crate::model::endpoint::{Conditions, Endpoint, EndpointPort, EndpointSlice, SliceKey};
use crate::model::node::Node;
use crate::model::service::{
    ClusterIps, Created, Dial, Export, Mode, Protocol, Scheduler, Service, ServiceKey, ServicePort,
    TrafficPolicy,
};
use crate::model::snapshot::{Change, Snapshot};
use crate::routing::portal::{
    ChangedPortals, ExternalPolicy, NodeContext, PortalKey, Portals, ServiceFilter, portals,
};
use crate::ruleset::{Ruleset, Settings};
use crate::sample::ip;

const SERVICES: [&str; 4] = ["s0", "s1", "s2", "s3"];
const SLICES: [&str; 5] = ["e0", "e1", "e2", "e3", "e4"];
/// Cluster addresses. 10.96.0.4 is only an external address or unassigned.
const SERVICE_ADDRESSES: [&str; 5] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd00::1", "fd00::2"];
const OUTER_ADDRESSES: [&str; 6] =
    ["10.96.0.1", "10.96.0.4", "192.0.2.1", "192.0.2.2", "2001:db8::1", "10.240.0.5"];
const ENDPOINT_ADDRESSES: [&str; 9] = [
    "10.1.0.1",
    "10.1.0.2",
    "10.1.0.3",
    "10.1.0.4",
    "10.1.0.5",
    "fd01::1",
    "fd01::2",
    "10.96.0.1",
    "10.96.0.3",
];
const PORTS: [(&str, Protocol, u16); 4] =
    [("a", Protocol::Tcp, 80), ("a", Protocol::Udp, 80), ("b", Protocol::Tcp, 81), ("c", Protocol::Sctp, 80)];
const SOURCE_RANGES: [&str; 5] = ["10.1.0.0/16", "10.240.0.0/24", "10.1.0.0/24", "0.0.0.0/0", "fd01::/16"];
const SERVICE_RANGES: [&str; 4] = ["10.96.0.0/16", "10.96.0.0/30", "fd00::/112", "10.96.128.0/17"];
const NODES: [&str; 2] = ["n1", "n2"];
const ZONES: [&str; 2] = ["a", "b"];

fn nets(texts: Vec<&str>) -> Vec<IpNet> {
    texts.into_iter().map(|text| text.parse().unwrap()).collect()
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    select(SERVICES.to_vec()).prop_map(|name| ServiceKey::new("default", name))
}

fn slice_key() -> impl Strategy<Value = SliceKey> {
    select(SLICES.to_vec()).prop_map(|name| SliceKey::new("default", name))
}

fn cluster_ips() -> impl Strategy<Value = ClusterIps> {
    let one = select(SERVICE_ADDRESSES.to_vec()).prop_map(|text| ClusterIps::One(ip(text)));
    let dual = (1_u8..3, 1_u16..3)
        .prop_map(|(v4, v6)| ClusterIps::Dual([10, 96, 0, v4].into(), [0xfd00, 0, 0, 0, 0, 0, 0, v6].into()));
    prop_oneof![1 => Just(ClusterIps::Headless), 6 => one, 3 => dual]
}

fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let node_ports = vec(prop::bool::weighted(0.3), PORTS.len());
    (subsequence(PORTS.to_vec(), 1..=PORTS.len()), node_ports).prop_map(|(ports, node_ports)| {
        let with_node_ports = ports.into_iter().zip(node_ports);
        with_node_ports
            .map(|((name, protocol, port), has)| ServicePort {
                name: name.into(),
                protocol,
                port,
                node_port: has.then_some(30_000 + port),
            })
            .collect()
    })
}

fn addresses() -> impl Strategy<Value = Vec<std::net::IpAddr>> {
    let none = Just(Vec::new());
    let some = subsequence(OUTER_ADDRESSES.to_vec(), 1..=3)
        .prop_map(|texts| texts.into_iter().map(ip).collect::<BTreeSet<_>>().into_iter().collect());
    prop_oneof![2 => none, 1 => some]
}

fn service() -> impl Strategy<Value = Service> {
    let mode = prop_oneof![4 => Just(None), 1 => Just(Some(Mode::Relay)), 1 => Just(Some(Mode::Kernel))];
    let affinity = prop_oneof![3 => Just(None), 1 => Just(Some(10)), 1 => Just(Some(10_800))];
    let ranges = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(SOURCE_RANGES.to_vec(), 1..=2)];
    let scheduler = prop_oneof![2 => Just(None), 2 => Just(Some(Scheduler::RoundRobin)), 1 => select(Scheduler::ALL.to_vec()).prop_map(Some)];
    let hold_ms = prop_oneof![4 => Just(None), 1 => Just(Some(10_000))];
    let manner = (mode, scheduler, hold_ms);
    let created = select(vec!["", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]).prop_map(Created::parse);
    let proxied = select(
        vec![(true, false); 18].into_iter().chain([(false, false), (false, true)]).collect::<Vec<_>>(),
    );
    let identity = ((service_key(), created), cluster_ips(), ports(), proxied, manner);
    (identity, policy(), policy(), addresses(), addresses(), ranges, affinity).prop_map(
        |(
            ((key, created), cluster_ips, ports, (has_portals, is_unproxied), (mode, scheduler, hold_ms)),
            internal,
            external,
            ips,
            balanced,
            ranges,
            affinity,
        )| {
            Service {
                key,
                created,
                cluster_ips,
                cluster_ip_text: None,
                ports,
                internal_policy: internal,
                external_policy: external,
                external_ips: ips,
                load_balancer_ips: balanced,
                source_ranges: nets(ranges),
                health_check_node_port: None,
                affinity_s: affinity,
                has_portals,
                is_unproxied,
                external_name: None,
                mode,
                scheduler,
                dial: Dial::Pod,
                hold_ms,
                export: Export::Nowhere,
                dns_endpoints: DnsEndpoints::All,
            }
        },
    )
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let any = (any::<bool>(), any::<bool>(), any::<bool>());
    let any = any.prop_map(|(ready, serving, terminating)| Conditions { ready, serving, terminating });
    prop_oneof![Just(Conditions::default()), any]
}

fn hints(names: [&'static str; 2], hinted: bool) -> impl Strategy<Value = Vec<Arc<str>>> {
    let least = usize::from(hinted);
    let texts = subsequence(names.to_vec(), least..=2);
    texts.prop_map(|texts| texts.into_iter().map(Arc::from).collect())
}

fn endpoint(hinted: bool) -> impl Strategy<Value = Endpoint> {
    let place = (select(ENDPOINT_ADDRESSES.to_vec()), option::of(select(NODES.to_vec())));
    (place, conditions(), hints(ZONES, hinted), hints(NODES, hinted)).prop_map(
        |((address, node), conditions, zone_hints, node_hints)| Endpoint {
            address: ip(address),
            conditions,
            node: node.map(Arc::from),
            zone: None,
            hostname: None,
            zone_hints,
            node_hints,
        },
    )
}

/// Ports with the names and protocols of the services. The numbers differ between slices.
fn slice() -> impl Strategy<Value = EndpointSlice> {
    let ports = subsequence(PORTS.to_vec(), 1..=PORTS.len());
    let endpoints = any::<bool>().prop_flat_map(|hinted| vec(endpoint(hinted), 0..5));
    let keys = (slice_key(), service_key(), prop::bool::weighted(0.9));
    (keys, ports, select(vec![8080, 9090]), endpoints).prop_map(
        |((key, service, has_portals), ports, port, endpoints)| {
            let port_of = |(name, protocol, _): (&str, Protocol, u16)| EndpointPort {
                name: name.into(),
                protocol,
                port,
            };
            let ports = ports.into_iter().map(port_of).collect();
            EndpointSlice { key, service, has_portals, ports, endpoints }
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let ranges = subsequence(SERVICE_RANGES.to_vec(), 0..=3);
    prop_oneof![
        6 => service().prop_map(Change::Service),
        8 => slice().prop_map(Change::Slice),
        1 => service_key().prop_map(Change::ServiceDeleted),
        2 => slice_key().prop_map(Change::SliceDeleted),
        1 => ranges.prop_map(|texts| Change::ServiceRanges(nets(texts))),
        1 => any::<bool>().prop_map(|is_dns_off| Change::Namespace(Namespace { name: "default".into(), is_dns_off })),
    ]
}

pub(super) fn changes() -> impl Strategy<Value = Vec<Change>> {
    vec(change(), 1..24)
}

/// Mostly the node context of `sample`; sometimes a part is unknown, or not all services are visible.
pub(super) fn any_node_context() -> impl Strategy<Value = NodeContext> {
    let known = prop::bool::weighted(0.85);
    let filter = btree_set(service_key(), 0..4)
        .prop_map(|services| ServiceFilter::Only(services.into_iter().collect()));
    let filter = prop_oneof![4 => Just(ServiceFilter::All), 1 => filter];
    let mode = prop_oneof![5 => Just(Mode::Kernel), 1 => Just(Mode::Relay)];
    (known, known, known, filter, mode).prop_map(|(name, zone, addresses, filter, mode)| {
        let all = crate::sample::node_context().node;
        let node = Node {
            name: if name { all.name } else { Arc::default() },
            zone: if zone { all.zone } else { Arc::default() },
            addresses: if addresses { all.addresses } else { Vec::new() },
            ..Node::default()
        };
        NodeContext { node, filter, mode, external: ExternalPolicy::all(), ..NodeContext::default() }
    })
}

/// Every possible address of a portal, and similar ones, with every protocol and port.
pub(super) fn destinations() -> Vec<PortalKey> {
    let others = ["10.96.0.9", "2001:db8:f::5", "10.1.0.1", "203.0.113.1", "fd00::9"];
    let addresses: BTreeSet<&str> =
        SERVICE_ADDRESSES.into_iter().chain(OUTER_ADDRESSES).chain(others).collect();
    let ports = [80, 81, 30_080, 30_081];
    let of = |address: &str| {
        let address = ip(address);
        let all = Protocol::ALL.into_iter().flat_map(move |p| ports.map(|port| (p, port)));
        all.map(move |(protocol, port)| PortalKey { address, protocol, port })
    };
    addresses.into_iter().flat_map(of).collect()
}

/// The last state of each object, without derived state.
#[derive(Debug, Clone, Default)]
pub(super) struct ObjectModel {
    pub(super) services: BTreeMap<ServiceKey, Service>,
    pub(super) slices: BTreeMap<SliceKey, EndpointSlice>,
    pub(super) ranges: Vec<IpNet>,
}

impl ObjectModel {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Service(service) => {
                self.services.insert(service.key.clone(), service);
            }
            Change::ServiceDeleted(key) => {
                self.services.remove(&key);
            }
            Change::Slice(slice) => {
                self.slices.insert(slice.key.clone(), slice);
            }
            Change::SliceDeleted(key) => {
                self.slices.remove(&key);
            }
            Change::ServiceRanges(ranges) => self.ranges = ranges,
            Change::Namespace(_) | Change::NamespaceDeleted(_) => {}
        }
    }

    /// Returns the objects that kube-proxy watches: the others have names only.
    pub(super) fn proxied(&self) -> Self {
        let mut proxied = self.clone();
        proxied.services.retain(|_, service| !service.is_unproxied);
        proxied.slices.retain(|_, slice| slice.has_portals);
        proxied
    }

    /// Returns a snapshot of these objects, built from slices before services, in reverse order of names.
    pub(super) fn snapshot(&self) -> Snapshot {
        let slices = self.slices.values().rev().cloned().map(Change::Slice);
        let services = self.services.values().rev().cloned().map(Change::Service);
        slices.chain(services).chain([Change::ServiceRanges(self.ranges.clone())]).collect()
    }
}

/// A ruleset, and the portals that changed since the previous one.
#[derive(Debug, Clone)]
pub(super) struct Revision {
    pub(super) ruleset: Ruleset,
    pub(super) touched: ChangedPortals,
}

/// A cluster that was updated change by change.
#[derive(Debug)]
pub(super) struct IncrementalCluster {
    pub(super) objects: ObjectModel,
    pub(super) snapshot: Snapshot,
    pub(super) portals: Portals,
    pub(super) revisions: Vec<Revision>,
}

impl IncrementalCluster {
    pub(super) fn after(changes: Vec<Change>, node_context: &NodeContext) -> Self {
        let (mut objects, mut snapshot) = (ObjectModel::default(), Snapshot::new());
        let mut portals = portals(&snapshot, node_context);
        let mut ruleset = Ruleset::new(&portals, Settings::default());
        let mut revisions = vec![Revision { ruleset: ruleset.clone(), touched: ChangedPortals::new() }];
        for change in changes {
            objects.apply(change.clone());
            let changed = snapshot.apply(change);
            let touched = portals.refresh(&snapshot, node_context, &changed);
            ruleset.refresh(&portals, &touched);
            revisions.push(Revision { ruleset: ruleset.clone(), touched });
        }
        Self { objects, snapshot, portals, revisions }
    }

    pub(super) fn ruleset(&self) -> &Ruleset {
        &self.revisions.last().unwrap().ruleset
    }
}

//! Builders for tests and benchmarks: a service or a slice in one line.
//!
//! `svc("db").ip("10.96.0.7").tcp("sql", 5432)` with `slice("db").tcp("sql", 5432).at("10.1.0.9")`. The feature
//! `sample` enables them for other crates. Invalid input panics.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use crate::model::dns::DnsEndpoints;
use crate::model::endpoint::{Conditions, Endpoint, EndpointPort, EndpointSlice, SliceKey};
use crate::model::node::Node;
use crate::model::service::{
    ClusterIps, Created, Dial, Export, Mode, Protocol, Scheduler, Service, ServiceKey, ServicePort,
    TrafficPolicy,
};
use crate::model::snapshot::{Change, Snapshot};
use crate::routing::portal::{ExternalPolicy, NodeContext, PortalKey};

/// Parses an address.
#[must_use]
#[allow(clippy::missing_panics_doc, clippy::expect_used)]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("the test names an address")
}

/// Parses a backend such as `10.1.0.9:80`.
#[must_use]
#[allow(clippy::missing_panics_doc, clippy::expect_used)]
pub fn backend(text: &str) -> SocketAddr {
    text.parse().expect("the test names a socket address")
}

/// Parses the key of a TCP portal such as `10.96.0.7:5432`.
#[must_use]
pub fn tcp(text: &str) -> PortalKey {
    portal_key(Protocol::Tcp, text)
}

/// Parses the key of a UDP portal.
#[must_use]
pub fn udp(text: &str) -> PortalKey {
    portal_key(Protocol::Udp, text)
}

fn portal_key(protocol: Protocol, text: &str) -> PortalKey {
    let socket = backend(text);
    PortalKey { address: socket.ip(), protocol, port: socket.port() }
}

/// Returns a snapshot with changes applied.
#[must_use]
pub fn snapshot(changes: impl IntoIterator<Item = Change>) -> Snapshot {
    changes.into_iter().collect()
}

/// Returns the context of node `n1` in zone `a` with address 10.240.0.5. All external addresses are allowed.
#[must_use]
pub fn node_context() -> NodeContext {
    let node = Node {
        name: "n1".into(),
        zone: "a".into(),
        addresses: vec![ip("10.240.0.5"), ip("2001:db8:f::5")],
        ..Node::default()
    };
    NodeContext { node, external: ExternalPolicy::all(), ..NodeContext::default() }
}

/// Returns the namespace `default`, which is shared as in `kube-source`.
fn namespace() -> Arc<str> {
    static NAMESPACE: LazyLock<Arc<str>> = LazyLock::new(|| "default".into());
    Arc::clone(&NAMESPACE)
}

/// Returns a service in namespace `default`, headless until it gets an address.
#[must_use]
pub fn svc(name: &str) -> Service {
    Service {
        key: ServiceKey::new(namespace(), name),
        created: Created::default(),
        cluster_ips: ClusterIps::Headless,
        cluster_ip_text: None,
        ports: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_node_port: None,
        affinity_s: None,
        has_portals: true,
        is_unproxied: false,
        external_name: None,
        mode: None,
        scheduler: None,
        dial: Dial::Pod,
        hold_ms: None,
        export: Export::Nowhere,
        dns_endpoints: DnsEndpoints::All,
    }
}

impl Service {
    /// Sets the namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.key.namespace = namespace.into();
        self
    }

    /// Sets the creation time.
    #[must_use]
    pub fn created(mut self, text: &str) -> Self {
        self.created = Created::parse(text);
        self
    }

    /// Adds a cluster address; a second one of the other family makes the service dual-stack.
    #[must_use]
    pub fn ip(mut self, text: &str) -> Self {
        self.cluster_ips = match (self.cluster_ips, ip(text)) {
            (ClusterIps::One(IpAddr::V4(v4)), IpAddr::V6(v6))
            | (ClusterIps::One(IpAddr::V6(v6)), IpAddr::V4(v4)) => ClusterIps::Dual(v4, v6),
            (_, address) => ClusterIps::One(address),
        };
        self.cluster_ip_text.get_or_insert_with(|| text.into());
        self
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, protocol: Protocol, name: &str, port: u16) -> Self {
        self.ports.push(ServicePort { name: name.into(), protocol, port, node_port: None });
        self
    }

    /// Adds a TCP port.
    #[must_use]
    pub fn tcp(self, name: &str, port: u16) -> Self {
        self.port(Protocol::Tcp, name, port)
    }

    /// Adds a UDP port.
    #[must_use]
    pub fn udp(self, name: &str, port: u16) -> Self {
        self.port(Protocol::Udp, name, port)
    }

    /// Sets the node port of the last port.
    #[must_use]
    pub fn node_port(mut self, node_port: u16) -> Self {
        if let Some(port) = self.ports.last_mut() {
            port.node_port = Some(node_port);
        }
        self
    }

    /// Sets the health-check node port.
    #[must_use]
    pub fn health_check(mut self, port: u16) -> Self {
        self.health_check_node_port = Some(port);
        self
    }

    /// Adds an external address.
    #[must_use]
    pub fn external(mut self, text: &str) -> Self {
        self.external_ips.push(ip(text));
        self
    }

    /// Adds a load-balancer address.
    #[must_use]
    pub fn balanced(mut self, text: &str) -> Self {
        self.load_balancer_ips.push(ip(text));
        self
    }

    /// Adds a source range of the load-balancer addresses.
    #[must_use]
    #[allow(clippy::missing_panics_doc, clippy::expect_used)]
    pub fn only_from(mut self, text: &str) -> Self {
        self.source_ranges.push(text.parse().expect("the test names a network"));
        self
    }

    /// Sets session affinity.
    #[must_use]
    pub fn sticky(mut self, affinity_s: u32) -> Self {
        self.affinity_s = Some(affinity_s);
        self
    }

    /// Sets `internalTrafficPolicy: Local`.
    #[must_use]
    pub fn internal_local(mut self) -> Self {
        self.internal_policy = TrafficPolicy::Local;
        self
    }

    /// Sets `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn external_local(mut self) -> Self {
        self.external_policy = TrafficPolicy::Local;
        self
    }

    /// Sets the scheduler.
    #[must_use]
    pub fn scheduler(mut self, scheduler: Scheduler) -> Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// Sets the time for which connections wait for a first backend.
    #[must_use]
    pub fn hold_ms(mut self, hold_ms: u32) -> Self {
        self.hold_ms = Some(hold_ms);
        self
    }

    /// Sets the network namespace from which the relay connects.
    #[must_use]
    pub fn dial(mut self, dial: Dial) -> Self {
        self.dial = dial;
        self
    }

    /// Exports the variables.
    #[must_use]
    pub fn export(mut self, export: Export) -> Self {
        self.export = export;
        self
    }

    /// Sets the mode.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }
}

impl From<Service> for Change {
    fn from(service: Service) -> Self {
        Self::Service(service)
    }
}

/// Returns the slice `name-1` of service `default/name`.
#[must_use]
pub fn slice(name: &str) -> EndpointSlice {
    EndpointSlice {
        key: SliceKey::new(namespace(), format!("{name}-1")),
        service: ServiceKey::new(namespace(), name),
        ports: Vec::new(),
        has_portals: true,
        endpoints: Vec::new(),
    }
}

impl EndpointSlice {
    /// Sets the name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.key.name = name.into();
        self
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, protocol: Protocol, name: &str, port: u16) -> Self {
        self.ports.push(EndpointPort { name: name.into(), protocol, port });
        self
    }

    /// Adds a TCP port.
    #[must_use]
    pub fn tcp(self, name: &str, port: u16) -> Self {
        self.port(Protocol::Tcp, name, port)
    }

    /// Adds a UDP port.
    #[must_use]
    pub fn udp(self, name: &str, port: u16) -> Self {
        self.port(Protocol::Udp, name, port)
    }

    /// Adds a ready endpoint.
    #[must_use]
    pub fn at(mut self, address: &str) -> Self {
        self.endpoints.push(Endpoint {
            address: ip(address),
            conditions: Conditions::default(),
            node: None,
            zone: None,
            hostname: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        });
        self
    }

    fn last(mut self, change: impl FnMut(&mut Endpoint)) -> Self {
        self.endpoints.last_mut().into_iter().for_each(change);
        self
    }

    /// Sets the node of the last endpoint.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        self.last(|endpoint| endpoint.node = Some(node.into()))
    }

    /// Sets the zone of the last endpoint.
    #[must_use]
    pub fn in_zone(self, zone: &str) -> Self {
        self.last(|endpoint| endpoint.zone = Some(zone.into()))
    }

    /// Sets the host name of the last endpoint.
    #[must_use]
    pub fn hostname(self, hostname: &str) -> Self {
        self.last(|endpoint| endpoint.hostname = Some(hostname.into()))
    }

    /// Makes the last endpoint unready.
    #[must_use]
    pub fn unready(self) -> Self {
        self.last(|endpoint| endpoint.conditions.ready = false)
    }

    /// Makes the last endpoint terminating and serving.
    #[must_use]
    pub fn terminating(self) -> Self {
        let conditions = Conditions { ready: false, serving: true, terminating: true };
        self.last(|endpoint| endpoint.conditions = conditions)
    }

    /// Makes the last endpoint terminating and not serving.
    #[must_use]
    pub fn finished(self) -> Self {
        let conditions = Conditions { ready: false, serving: false, terminating: true };
        self.last(|endpoint| endpoint.conditions = conditions)
    }

    /// Adds a zone hint to the last endpoint.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        self.last(|endpoint| endpoint.zone_hints.push(zone.into()))
    }

    /// Adds a node hint to the last endpoint.
    #[must_use]
    pub fn for_node(self, node: &str) -> Self {
        self.last(|endpoint| endpoint.node_hints.push(node.into()))
    }
}

impl From<EndpointSlice> for Change {
    fn from(slice: EndpointSlice) -> Self {
        Self::Slice(slice)
    }
}

/// Returns the address of service `index` of `cluster`.
#[must_use]
pub fn cluster_ip(index: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + index + 1))
}

/// Returns slice `index` of `cluster` with a number of endpoints, the last of which depends on `version`.
#[must_use]
pub fn cluster_slice(index: u32, endpoints: u32, version: u32) -> EndpointSlice {
    let mut slice = slice(&format!("svc-{index}")).tcp("http", 8080);
    for number in 0..endpoints {
        let shift = if number + 1 == endpoints { version * 0x0010_0000 } else { 0 };
        let address = Ipv4Addr::from(0x0b00_0000 + index * endpoints + number + shift);
        slice = slice.at(&address.to_string()).on(&format!("node-{}", (index + number) % 100));
    }
    slice
}

/// Returns the changes that create services with one TCP port, and a number of endpoints each.
pub fn cluster(services: u32, endpoints: u32) -> impl Iterator<Item = Change> {
    (0..services).flat_map(move |index| {
        let service = svc(&format!("svc-{index}")).ip(&cluster_ip(index).to_string()).tcp("http", 80);
        [Change::Service(service), Change::Slice(cluster_slice(index, endpoints, 0))]
    })
}

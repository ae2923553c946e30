//! `RandomCluster`: services of every kind with their slices, as an API server stores them.
//!
//! Each field that kube-proxy reads varies. The same seed gives the same objects. Addresses and node ports of different
//! services differ as an API server ensures, but external addresses are sometimes shared, with each other and with the
//! node.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::node_profile::NodeProfile;
use super::random_endpoints::slices;
use crate::node_places::{NODE, REMOTE_POD};
use crate::objects::{HEADLESS, OTHER_PROXY};

/// The first node port of the services.
const FIRST_NODE_PORT: usize = 30_000;
const PORTS_MAX: usize = 4;
const HEALTH_CHECK_NODE_PORT: usize = 31_000;
/// Names, protocols and numbers of ports. Several protocols have the same number.
const PORTS: [(&str, &str, u16); 9] = [
    ("http", "TCP", 80),
    ("dns", "UDP", 53),
    ("dns-tcp", "TCP", 53),
    ("dns-sctp", "SCTP", 53),
    ("quic", "UDP", 443),
    ("https", "TCP", 443),
    ("association", "SCTP", 36_412),
    ("alternative", "TCP", 8_080),
    // The node port of another service.
    ("high", "TCP", 30_004),
];
const SOURCE_RANGES: [&str; 12] = [
    "192.0.2.0/24",
    "  192.0.2.2/32 ",
    "10.1.0.0/16",
    "10.1.3.7/24",
    "10.240.0.0/24",
    "010.001.1.0/24",
    "198.51.100.0/30",
    "0.0.0.0/0",
    "2001:db8:2::/48",
    "2001:db8:10::/60",
    "2001:db8:f::5/64",
    "::/0",
];
const TIMEOUTS_S: [u32; 5] = [1, 10, 3_600, 10_800, 86_400];
const CREATED: [&str; 2] = ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"];
/// A sentinel in each resource shows that a proxy has received a snapshot.
pub const SENTINEL_IPS: [&str; 2] = ["10.96.255.1", "2001:db8:96::ffff"];
const FIRST_SENTINEL_PORT: u16 = 1_000;

/// The services and slices of a snapshot.
pub struct RandomCluster {
    pub services: Vec<Value>,
    pub slices: Vec<Value>,
}

/// A port of a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RandomPort {
    pub name: &'static str,
    pub protocol: &'static str,
    pub number: u16,
}

/// What the slices of a service depend on.
pub(crate) struct Sliced {
    pub name: String,
    pub namespace: &'static str,
    /// 0 is IPv4, 1 is IPv6.
    pub families: &'static [usize],
    pub ports: Vec<RandomPort>,
}

/// The type of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServiceKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    Headless,
    ExternalName,
}

impl ServiceKind {
    fn name(self) -> &'static str {
        match self {
            Self::ClusterIp | Self::Headless => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}

impl RandomCluster {
    /// Returns the cluster of a snapshot.
    pub fn new(snapshot: u16, services: usize, profile: &NodeProfile) -> Self {
        let mut cluster = Self { services: Vec::new(), slices: Vec::new() };
        for index in 0..services {
            let seed = u64::from(snapshot) * 1_000 + u64::try_from(index).expect("a small number");
            let mut random = RandomService { rng: Rng::with_seed(seed), index, profile };
            let (service, sliced) = random.service();
            cluster.slices.extend(slices(&mut random.rng, &sliced));
            cluster.services.push(service);
        }
        let port = FIRST_SENTINEL_PORT + snapshot;
        cluster.services.push(sentinel(port));
        cluster.slices.extend((0..2).map(|family| sentinel_slice(family, port)));
        cluster
    }

    /// Returns all objects. The sentinels are last.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.services.iter().chain(&self.slices)
    }

    /// Returns the port of the sentinel of a snapshot, and of its endpoints.
    pub fn sentinel_port(snapshot: u16) -> u16 {
        FIRST_SENTINEL_PORT + snapshot
    }
}

fn sentinel(port: u16) -> Value {
    json!({"kind": "Service", "metadata": {"name": "sentinel", "namespace": "default"}, "spec": {
        "type": "ClusterIP", "clusterIP": SENTINEL_IPS[0], "clusterIPs": SENTINEL_IPS,
        "ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": port, "protocol": "TCP"}]}})
}

fn sentinel_slice(family: usize, port: u16) -> Value {
    let labels = json!({"kubernetes.io/service-name": "sentinel"});
    json!({"kind": "EndpointSlice", "addressType": family_name(family),
        "metadata": {"name": format!("sentinel-{family}"), "namespace": "default", "labels": labels},
        "endpoints": [{"addresses": [REMOTE_POD[family]]}],
        "ports": [{"name": "", "port": port, "protocol": "TCP"}]})
}

/// Returns the name of a family: 0 is IPv4, 1 is IPv6.
pub(crate) fn family_name(family: usize) -> &'static str {
    ["IPv4", "IPv6"][family]
}

/// Returns one of these values.
pub(crate) fn one_of<T: Copy>(rng: &mut Rng, values: &[T]) -> T {
    values[rng.usize(..values.len())]
}

/// Whether an event with this probability in percent occurs.
pub(crate) fn happens(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

struct RandomService<'a> {
    rng: Rng,
    index: usize,
    profile: &'a NodeProfile,
}

impl RandomService<'_> {
    fn service(&mut self) -> (Value, Sliced) {
        let kind = match self.rng.u8(..100) {
            0..25 => ServiceKind::ClusterIp,
            25..50 => ServiceKind::NodePort,
            50..90 => ServiceKind::LoadBalancer,
            90..95 => ServiceKind::Headless,
            _ => ServiceKind::ExternalName,
        };
        let ports = self.ports();
        let mut spec = Map::new();
        let has_node_ports = match kind {
            ServiceKind::NodePort => true,
            ServiceKind::LoadBalancer => !self.happens(15),
            _ => false,
        };
        spec.insert("ports".to_owned(), self.port_objects(&ports, has_node_ports));
        spec.insert("type".to_owned(), kind.name().into());
        let families = self.addresses(&mut spec, kind);
        self.traffic(&mut spec, kind);
        self.affinity(&mut spec);
        let mut labels = Map::new();
        if self.profile.has_foreign_services && self.happens(5) {
            labels.insert(OTHER_PROXY.to_owned(), "other".into());
        }
        if kind == ServiceKind::Headless {
            labels.insert(HEADLESS.to_owned(), "".into());
        }
        let (name, namespace) = (format!("s{}", self.index), ["default", "shop"][self.index % 2]);
        let mut service = json!({"kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "labels": labels,
                "creationTimestamp": self.one_of(&CREATED)},
            "spec": spec});
        if kind == ServiceKind::LoadBalancer {
            service["status"] = json!({"loadBalancer": {"ingress": self.ingress()}});
        }
        (service, Sliced { name, namespace, families, ports })
    }

    fn happens(&mut self, percent: u8) -> bool {
        happens(&mut self.rng, percent)
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        one_of(&mut self.rng, values)
    }

    fn ports(&mut self) -> Vec<RandomPort> {
        let mut all = PORTS;
        self.rng.shuffle(&mut all);
        let count = 1 + self.rng.usize(..PORTS_MAX);
        let port = |(name, protocol, number)| RandomPort { name, protocol, number };
        let mut ports: Vec<RandomPort> = all.into_iter().take(count).map(port).collect();
        if count == 1 && self.happens(70) {
            ports[0].name = "";
        }
        ports
    }

    fn port_objects(&mut self, ports: &[RandomPort], has_node_ports: bool) -> Value {
        let objects = ports.iter().enumerate().map(|(number, port)| {
            let mut object = json!({"port": port.number, "protocol": port.protocol, "targetPort": 8_080});
            if !port.name.is_empty() {
                object["name"] = port.name.into();
            }
            if has_node_ports {
                object["nodePort"] = (FIRST_NODE_PORT + self.index * PORTS_MAX + number).into();
            }
            object
        });
        objects.collect()
    }

    /// Adds the cluster addresses, and returns their families.
    fn addresses(&mut self, spec: &mut Map<String, Value>, kind: ServiceKind) -> &'static [usize] {
        let families: &'static [usize] = self.one_of(&[&[0][..], &[0], &[1], &[0, 1], &[0, 1], &[1, 0]]);
        let names: Vec<&str> = families.iter().map(|family| family_name(*family)).collect();
        if kind == ServiceKind::ExternalName {
            spec.insert("externalName".to_owned(), "db.example.com".into());
            return families;
        }
        let number = self.index + 1;
        let all = [format!("10.96.0.{number}"), format!("2001:db8:96::{number:x}")];
        let mut ips: Vec<&str> = families.iter().map(|family| &*all[*family]).collect();
        if kind == ServiceKind::Headless {
            ips = vec!["None"];
        }
        spec.insert("clusterIP".to_owned(), ips[0].into());
        // Objects from before dual stack have only `clusterIP`.
        if families.len() > 1 || !self.happens(10) {
            spec.insert("clusterIPs".to_owned(), json!(ips));
            spec.insert("ipFamilies".to_owned(), json!(names));
            let policy = if families.len() > 1 { "PreferDualStack" } else { "SingleStack" };
            spec.insert("ipFamilyPolicy".to_owned(), policy.into());
        }
        families
    }

    fn traffic(&mut self, spec: &mut Map<String, Value>, kind: ServiceKind) {
        let external_ips = if self.happens(35) { self.external_ips() } else { Vec::new() };
        let is_external = matches!(kind, ServiceKind::NodePort | ServiceKind::LoadBalancer)
            || (kind == ServiceKind::ClusterIp && !external_ips.is_empty());
        if !external_ips.is_empty() {
            spec.insert("externalIPs".to_owned(), json!(external_ips));
        }
        if is_external {
            let policy = self.one_of(&["Cluster", "Local"]);
            spec.insert("externalTrafficPolicy".to_owned(), policy.into());
            if kind == ServiceKind::LoadBalancer && policy == "Local" {
                let port = HEALTH_CHECK_NODE_PORT + self.index;
                spec.insert("healthCheckNodePort".to_owned(), port.into());
            }
        }
        if kind != ServiceKind::ExternalName && !self.happens(20) {
            let policy = self.one_of(&["Cluster", "Cluster", "Local"]);
            spec.insert("internalTrafficPolicy".to_owned(), policy.into());
        }
        if kind == ServiceKind::LoadBalancer {
            if self.happens(55) {
                let count = 1 + self.rng.usize(..3);
                let ranges: Vec<&str> = (0..count).map(|_| self.one_of(&SOURCE_RANGES)).collect();
                spec.insert("loadBalancerSourceRanges".to_owned(), json!(ranges));
            }
            if self.happens(20) {
                spec.insert("loadBalancerClass".to_owned(), "example.com/any".into());
            }
        }
        spec.insert("publishNotReadyAddresses".to_owned(), self.happens(20).into());
        if self.happens(30) {
            let distribution = self.one_of(&["PreferClose", "PreferSameZone", "PreferSameNode"]);
            spec.insert("trafficDistribution".to_owned(), distribution.into());
        }
    }

    fn affinity(&mut self, spec: &mut Map<String, Value>) {
        if self.happens(25) {
            spec.insert("sessionAffinity".to_owned(), "ClientIP".into());
            let timeout = self.one_of(&TIMEOUTS_S);
            spec.insert("sessionAffinityConfig".to_owned(), json!({"clientIP": {"timeoutSeconds": timeout}}));
        } else {
            spec.insert("sessionAffinity".to_owned(), "None".into());
        }
    }

    fn external_ips(&mut self) -> Vec<String> {
        let count = 1 + self.rng.usize(..3);
        (0..count).map(|_| self.external_ip("203.0.113", "2001:db8:cb:")).collect()
    }

    /// An address of this service, the node, or several services.
    fn external_ip(&mut self, v4: &str, v6: &str) -> String {
        let own = self.index + 1;
        match self.rng.u8(..100) {
            0..42 => format!("{v4}.{own}"),
            42..84 => format!("{v6}:{own:x}"),
            84..90 => self.one_of(&NODE).to_owned(),
            90..95 => self.one_of(&["203.0.113.251", "203.0.113.252", "2001:db8:cb::fb"]).to_owned(),
            // The same address as a load balancer's.
            95..98 => format!("203.0.113.{}", 101 + self.index),
            // A cluster address of another service, or of none.
            _ => self.one_of(&["10.96.0.7", "2001:db8:96::9", "10.96.77.7"]).to_owned(),
        }
    }

    fn ingress(&mut self) -> Value {
        let count = self.rng.usize(..4);
        let entries = (0..count).map(|_| {
            let number = 101 + self.index;
            match self.rng.u8(..100) {
                0..10 => json!({"hostname": "lb.example.com"}),
                10..15 => json!({"ip": self.one_of(&NODE), "ipMode": "VIP"}),
                15..25 => json!({"ip": self.balanced_ip(number), "ipMode": "Proxy"}),
                25..50 => json!({"ip": self.balanced_ip(number), "ipMode": "VIP",
                    "ports": [{"port": 80, "protocol": "TCP"}]}),
                _ => json!({"ip": self.balanced_ip(number)}),
            }
        });
        entries.collect()
    }

    fn balanced_ip(&mut self, number: usize) -> String {
        match self.rng.u8(..100) {
            0..45 => format!("203.0.113.{number}"),
            45..90 => format!("2001:db8:cb::{number:x}"),
            // An address of the form ::ffff:a.b.c.d is an IPv4 address.
            90..94 => format!("::ffff:203.0.113.{number}"),
            _ => self.one_of(&["203.0.113.253", "2001:db8:cb::fd", "169.254.10.1"]).to_owned(),
        }
    }
}

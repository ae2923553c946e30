//! `Probe`: the first packet of a connection from a client to an address and port.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use proxy_core::address::{Family, parse_ip_sloppy};
use proxy_core::portal::PortalKey;
use proxy_core::sample::ip;
use proxy_core::service::Protocol;
use serde_json::Value;

use super::node_profile::{NodeProfile, SERVICE_RANGES};
use super::random_cluster::RandomCluster;
use crate::node_places::{
    CLIENT_POD, GATEWAY, LOCAL_POD, NODE, NODE_ON_LINK, OTHER_NODE, OUTSIDE, REMOTE_POD,
};

/// A port that no service has.
const UNUSED_PORT: u16 = 9;
/// The range of node ports.
const NODE_PORTS: std::ops::Range<u16> = 30_000..32_768;

/// The client of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    pub name: &'static str,
    pub source: IpAddr,
    /// The interface of the node at which its packets arrive; `None` if the node itself is the client.
    pub interface: Option<&'static str>,
}

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    pub client: Client,
    pub destination: PortalKey,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.client.name, self.destination)
    }
}

/// The destinations that belong to one service.
pub struct Destinations {
    /// The namespace and name.
    pub service: String,
    pub keys: Vec<PortalKey>,
}

impl Client {
    /// Returns the clients of a destination.
    pub fn all(destination: PortalKey) -> Vec<Self> {
        let family = usize::from(Family::of(destination.address) == Family::V6);
        let client =
            |name, addresses: [&str; 2], interface| Self { name, source: ip(addresses[family]), interface };
        let mut all = vec![
            client("outside", OUTSIDE, Some("to-outside")),
            client("other-node", OTHER_NODE, Some("to-remote")),
            client("remote-pod", REMOTE_POD, Some("to-remote")),
            client("pod", CLIENT_POD, Some("to-client")),
            client("endpoint", LOCAL_POD, Some("to-local")),
            client("node", NODE, None),
            client("gateway", GATEWAY, None),
        ];
        // The address of a load balancer can be assigned to the node; a cluster address is not. Node ports at such an address
        // depend on the addresses of the node, which do not change here.
        let is_node_port = NODE_PORTS.contains(&destination.port);
        if !is_node_port && !SERVICE_RANGES.iter().any(|range| net(range).contains(&destination.address)) {
            all.push(Self { name: "virtual-ip", source: destination.address, interface: None });
        }
        all
    }
}

impl Probe {
    /// Returns the probes of a destination.
    pub fn all(destination: PortalKey) -> impl Iterator<Item = Self> {
        Client::all(destination).into_iter().map(move |client| Self { client, destination })
    }

    /// Whether an address is one of the node. A source of the node's own packets is one, for example the address of a
    /// load balancer that is assigned to the node.
    pub fn is_local(&self, address: IpAddr, local: &BTreeSet<IpAddr>) -> bool {
        let is_source = self.client.interface.is_none() && address == self.client.source;
        is_source || address.is_loopback() || local.contains(&address)
    }
}

/// Returns the destinations of each service, then those of no service.
pub fn destinations(cluster: &RandomCluster) -> Vec<Destinations> {
    let mut all: Vec<Destinations> = cluster.services.iter().map(of_service).collect();
    let others = ["10.96.77.7", "10.96.200.1", "2001:db8:96::7777", "203.0.113.199", "198.51.100.7"];
    let keys = others.into_iter().map(ip).flat_map(|address| keys_at(address, UNUSED_PORT)).collect();
    all.push(Destinations { service: "none".to_owned(), keys });
    all
}

fn of_service(service: &Value) -> Destinations {
    let mut keys = frontends(service);
    keys.extend(node_ports(service));
    keys.extend(cluster_ips(service).into_iter().flat_map(|address| keys_at(address, UNUSED_PORT)));
    // Node ports at cluster addresses, and ports of the service at addresses of the node.
    let (ports, node_ports): (Vec<_>, Vec<_>) = ports(service).unzip();
    for (address, numbers) in cluster_ips(service)
        .into_iter()
        .map(|address| (address, node_ports.iter().flatten().collect::<Vec<_>>()))
        .chain(NODE.map(ip).map(|address| (address, ports.iter().collect())))
    {
        keys.extend(numbers.into_iter().map(|(protocol, port)| key(address, *protocol, *port)));
    }
    Destinations { service: name(service), keys: keys.into_iter().collect() }
}

/// Returns the namespace and name of a service.
pub(crate) fn name(service: &Value) -> String {
    let text = |name: &str| service["metadata"][name].as_str().expect("a text");
    format!("{}/{}", text("namespace"), text("name"))
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a CIDR")
}

fn key(address: IpAddr, protocol: Protocol, port: u16) -> PortalKey {
    PortalKey { address, protocol, port }
}

fn keys_at(address: IpAddr, port: u16) -> impl Iterator<Item = PortalKey> {
    [Protocol::Tcp, Protocol::Udp].into_iter().map(move |protocol| key(address, protocol, port))
}

/// Returns the ports of a service with their node ports.
fn ports(service: &Value) -> impl Iterator<Item = ((Protocol, u16), Option<(Protocol, u16)>)> {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    service["spec"]["ports"].as_array().into_iter().flatten().map(move |port| {
        let protocol = port["protocol"].as_str().and_then(Protocol::parse).expect("a protocol");
        let node_port = number(&port["nodePort"]).map(|port| (protocol, port));
        ((protocol, number(&port["port"]).expect("a port")), node_port)
    })
}

/// Returns the cluster addresses of a service.
pub(crate) fn cluster_ips(service: &Value) -> BTreeSet<IpAddr> {
    let spec = &service["spec"];
    let listed = spec["clusterIPs"].as_array().into_iter().flatten();
    listed.chain([&spec["clusterIP"]]).filter_map(|ip| parse_ip_sloppy(ip.as_str()?)).collect()
}

/// Returns the external addresses of a service; those with `ipMode: Proxy` only if requested.
fn external_ips(service: &Value, with_proxy_mode: bool) -> BTreeSet<IpAddr> {
    let ips = service["spec"]["externalIPs"].as_array().into_iter().flatten();
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let ingress = ingress.filter(|entry| with_proxy_mode || entry["ipMode"] != "Proxy");
    let ips = ips.chain(ingress.map(|entry| &entry["ip"]));
    ips.filter_map(|ip| parse_ip_sloppy(ip.as_str()?)).collect()
}

/// Returns the ports of a service at its cluster and external addresses, with those that proxies must ignore.
fn frontends(service: &Value) -> BTreeSet<PortalKey> {
    at_each(service, cluster_ips(service).into_iter().chain(external_ips(service, true)))
}

/// Returns the ports of a service at the addresses that proxies serve.
pub(crate) fn claims(service: &Value) -> BTreeSet<PortalKey> {
    let own = cluster_ips(service);
    let has_family = |address: &IpAddr| own.iter().any(|ip| Family::of(*ip) == Family::of(*address));
    let external = external_ips(service, false).into_iter().filter(has_family);
    at_each(service, own.iter().copied().chain(external))
}

fn at_each(service: &Value, addresses: impl Iterator<Item = IpAddr>) -> BTreeSet<PortalKey> {
    addresses
        .flat_map(|address| ports(service).map(move |((protocol, port), _)| key(address, protocol, port)))
        .collect()
}

/// Returns the node ports of a service, at each address of the node.
pub(crate) fn node_ports(service: &Value) -> BTreeSet<PortalKey> {
    let mut addresses = NodeProfile::local_addresses();
    addresses
        .retain(|address| [NODE, NODE_ON_LINK, GATEWAY].into_iter().flatten().any(|own| ip(own) == *address));
    let node_ports: Vec<_> = ports(service).filter_map(|(_, node_port)| node_port).collect();
    let at = |address: IpAddr| node_ports.iter().map(move |(protocol, port)| key(address, *protocol, *port));
    addresses.into_iter().flat_map(at).collect()
}

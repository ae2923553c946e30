//! `NodeCase`: connections of each client through the node's table, compared with the tracer.
//!
//! A result is the name of the server and the name of the address that it sees, or how the connection fails. A case
//! collects the results of many connections in the kernel, and the results of the tracer for all random numbers.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use proxy_core::node_trace::{NodePacket, NodeTrace, SeenSource, trace_node};
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::node::{NodeRuleset, NodeSettings};
use proxy_core::sample::ip;
use proxy_core::service::Protocol;
use proxy_core::snapshot::Change;
use test_support::backend_server::{DROP_TIMEOUT, REPLY_TIMEOUT, try_backend_of};
use test_support::namespace::load;

use crate::node_network::{
    CLIENT_POD, GATEWAY, LOCAL_POD, NODE, NODE_ON_LINK, NodeNetwork, OUTSIDE, REMOTE_POD, node_ruleset,
    program,
};

/// A multiple of the number of backends in any test.
const DRAWS: u32 = 60;
/// The number of connections after which each of two backends was selected: the probability is 1 - 2^-39.
const CONNECTIONS: usize = 40;

/// The client of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// A host outside the cluster.
    Outside,
    /// A pod on the node that is no endpoint.
    Pod,
    /// The pod on the node that is an endpoint.
    LocalEndpoint,
    /// A process of the node.
    Node,
}

/// A protocol and port at an address of each family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination(pub(crate) Protocol, pub(crate) [&'static str; 2], pub(crate) u16);

impl Destination {
    fn key(self, family: usize) -> PortalKey {
        let Self(protocol, addresses, port) = self;
        PortalKey { address: ip(addresses[family]), protocol, port }
    }
}

/// Returns the destination of TCP connections.
pub(crate) const fn at(addresses: [&'static str; 2], port: u16) -> Destination {
    Destination(Protocol::Tcp, addresses, port)
}

/// Returns the destination of datagrams.
pub(crate) const fn udp_at(addresses: [&'static str; 2], port: u16) -> Destination {
    Destination(Protocol::Udp, addresses, port)
}

/// A node with a table.
pub(crate) struct NodeCase<'a> {
    network: &'a NodeNetwork,
    pub(crate) ruleset: NodeRuleset,
}

impl<'a> NodeCase<'a> {
    /// Programs the node with these services.
    pub(crate) fn new(
        network: &'a NodeNetwork,
        changes: impl IntoIterator<Item = Change>,
        settings: NodeSettings,
    ) -> Self {
        Self::with(network, node_ruleset(changes, settings))
    }

    /// Programs the node with this table.
    pub(crate) fn with(network: &'a NodeNetwork, ruleset: NodeRuleset) -> Self {
        program(&ruleset);
        Self { network, ruleset }
    }

    /// Programs the node with the text of this table.
    pub(crate) fn with_text(network: &'a NodeNetwork, ruleset: NodeRuleset) -> Self {
        load(&ruleset.to_string());
        Self { network, ruleset }
    }

    /// Asserts that connections of the client have these results in both families, in the kernel and in the tracer.
    pub(crate) fn assert(&self, client: Client, destination: Destination, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|result| (*result).to_owned()).collect();
        for family in [0, 1] {
            let key = destination.key(family);
            assert_eq!(self.trace_results(client, key), expected, "the tracer: {client:?} to {key}");
            assert_eq!(
                self.kernel_results(client, key, &expected),
                expected,
                "the kernel: {client:?} to {key}"
            );
        }
    }

    /// Returns the results of the tracer.
    pub(crate) fn trace_results(&self, client: Client, key: PortalKey) -> BTreeSet<String> {
        let family = usize::from(key.address.is_ipv6());
        let (source, interface) = match client {
            Client::Outside => (OUTSIDE[family], Some("to-outside")),
            Client::Pod => (CLIENT_POD[family], Some("to-client")),
            Client::LocalEndpoint => (LOCAL_POD[family], Some("to-local")),
            Client::Node => (NODE[family], None),
        };
        let packet = NodePacket { source: ip(source), interface, destination: key, is_on_loopback: false };
        (0..DRAWS).map(|draw| self.trace(packet, draw)).collect()
    }

    fn trace(&self, packet: NodePacket<'_>, draw: u32) -> String {
        let client = address_name(packet.source);
        match trace_node(&self.ruleset, &packet, draw) {
            NodeTrace::Forward { backend, source } => {
                let server = address_name(backend.ip());
                // The kernel masquerades no connection that ends on the node.
                if server == "node" && !packet.is_on_loopback {
                    return self.trace(NodePacket { is_on_loopback: true, ..packet }, draw);
                }
                let source = if source == SeenSource::Same { client } else { "masqueraded" };
                format!("{server} {source}")
            }
            NodeTrace::Reject | NodeTrace::WrongPort => "refused".to_owned(),
            NodeTrace::Drop(_) => "silent".to_owned(),
            NodeTrace::Pass => format!("node {client}"),
            NodeTrace::Loopback => "loopback".to_owned(),
        }
    }

    /// Returns the results of the kernel.
    fn kernel_results(
        &self,
        client: Client,
        key: PortalKey,
        expected: &BTreeSet<String>,
    ) -> BTreeSet<String> {
        let timeout = if expected.contains("silent") { DROP_TIMEOUT } else { REPLY_TIMEOUT };
        // The kernel limits the rate of ICMP errors, so not every connection gets one.
        let is_served = !expected.contains("silent") && !expected.contains("refused");
        let times = if is_served { CONNECTIONS } else { 1 };
        let connect = || (0..times).map(|_| connection_result(key, timeout)).collect();
        match client {
            Client::Outside => self.network.outside.within(connect),
            Client::Pod => self.network.client.within(connect),
            Client::LocalEndpoint => self.network.local.within(connect),
            Client::Node => connect(),
        }
    }
}

/// Returns the result of one connection.
fn connection_result(key: PortalKey, timeout: Duration) -> String {
    let socket = SocketAddr::new(key.address, key.port);
    let reply = match key.protocol {
        Protocol::Udp => ask_datagram(socket, timeout),
        _ => try_backend_of(&socket.to_string(), timeout),
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => return "refused".to_owned(),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => return "silent".to_owned(),
            _ => panic!("{key}: {error}"),
        },
    };
    let (server, source) = reply.split_once(' ').expect("a name and an address");
    format!("{server} {}", address_name(source.parse().expect("an address")))
}

/// Sends a datagram, and returns the reply.
pub(crate) fn ask_datagram(server: SocketAddr, timeout: Duration) -> std::io::Result<String> {
    let own = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(own)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"ask")?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Returns the name of an address, which is the same in both families.
fn address_name(address: IpAddr) -> &'static str {
    let names = [
        (OUTSIDE, "outside"),
        (CLIENT_POD, "pod"),
        (LOCAL_POD, "local"),
        (REMOTE_POD, "remote"),
        (NODE, "node"),
        (NODE_ON_LINK, "masqueraded"),
        (GATEWAY, "masqueraded"),
    ];
    let found = names.into_iter().find(|(addresses, _)| addresses.iter().any(|known| ip(known) == address));
    found.unwrap_or_else(|| panic!("an unknown address: {address}")).1
}

//! Real connections between the neighbours of a node, compared with expected outcomes.
//!
//! Each server sends its address and that of its client. Connections are in TCP and UDP; this kernel may lack sockets of
//! SCTP.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use proxy_core::address::forbidden_external;
use proxy_core::portal::PortalKey;
use proxy_core::sample::ip;
use proxy_core::service::Protocol;
use test_support::backend_server::{DROP_TIMEOUT, REPLY_TIMEOUT, try_backend_of};
use test_support::differential::node_profile::NodeProfile;
use test_support::differential::outcome::{PacketOutcome, Seen};
use test_support::differential::probe::Probe;
use test_support::differential::random_cluster::SENTINEL_IPS;
use test_support::namespace::run;
use test_support::node_places::{LOCAL_POD, NODE, OTHER_NODE, OUTSIDE, REMOTE_POD};
use test_support::pod::Pod;

use crate::node_case::ask_datagram;
use crate::node_network::NodeNetwork;

const PORTS: [u16; 4] = [8_080, 8_081, 8_082, 5_353];
/// The clients that send packets, with the network namespaces in which they are.
const CLIENTS: [(&str, Place); 5] = [
    ("outside", Place::Outside),
    ("other-node", Place::Remote),
    ("pod", Place::Client),
    ("endpoint", Place::Local),
    ("node", Place::Node),
];
/// Further pods on each node.
const LOCAL_PODS: [&str; 4] = ["10.1.0.3", "10.1.0.4", "2001:db8:10::3", "2001:db8:10::4"];
const REMOTE_PODS: [&str; 4] = ["10.1.1.3", "10.1.1.4", "2001:db8:11::3", "2001:db8:11::4"];
/// The number of refused and of dropped connections of each client. A dropped one takes the time of `DROP_TIMEOUT`, and a
/// refused one a second if the kernel receives the ICMP error while the process still sends the packet.
const UNSERVED_MAX: usize = 12;

/// A network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Remote,
    Client,
    Local,
    Node,
}

impl Place {
    fn pod(self, network: &NodeNetwork) -> Option<&Pod> {
        match self {
            Self::Outside => Some(&network.outside),
            Self::Remote => Some(&network.remote),
            Self::Client => Some(&network.client),
            Self::Local => Some(&network.local),
            Self::Node => None,
        }
    }

    /// Returns the network namespace of a backend.
    fn of(backend: IpAddr) -> Self {
        let is_one_of = |addresses: &[&str]| addresses.iter().any(|address| ip(address) == backend);
        match () {
            () if is_one_of(&NODE) => Self::Node,
            () if is_one_of(&OUTSIDE) => Self::Outside,
            () if is_one_of(&LOCAL_POD) || is_one_of(&LOCAL_PODS) => Self::Local,
            () => Self::Remote,
        }
    }
}

/// Starts a server for each endpoint of random clusters.
pub(crate) fn serve_endpoints(network: &NodeNetwork) {
    for key in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
        set_to_zero(key);
    }
    // The routes to service addresses lead back to this link, so the node sends a redirect for refused connections.
    network.outside.within(|| set_to_zero("ipv6/conf/eth0/accept_redirects"));
    network.local.within(|| LOCAL_PODS.iter().for_each(|address| add_secondary_address(address)));
    network.remote.within(|| REMOTE_PODS.iter().for_each(|address| add_secondary_address(address)));
    serve(&NODE);
    network.outside.within(|| serve(&OUTSIDE));
    network.local.within(|| serve(&[&LOCAL_POD[..], &LOCAL_PODS].concat()));
    network.remote.within(|| serve(&[&REMOTE_POD[..], &REMOTE_PODS, &OTHER_NODE].concat()));
}

fn set_to_zero(key: &str) {
    std::fs::write(format!("/proc/sys/net/{key}"), "0").unwrap_or_else(|why| panic!("{key}: {why}"));
}

/// Adds an address that is not the source of own connections.
fn add_secondary_address(address: &str) {
    let length = if address.contains(':') { 128 } else { 32 };
    let address = format!("{address}/{length}");
    let device =
        if address.starts_with("10.1.0") || address.starts_with("2001:db8:10:") { "eth0" } else { "lo" };
    let add = ["address", "add", &address, "dev", device];
    let is_v6 = address.contains(':');
    let more: &[&str] = if is_v6 { &["nodad", "preferred_lft", "0"] } else { &[] };
    run("ip", &[&add[..], more].concat(), "");
}

fn serve(addresses: &[&str]) {
    for (address, port) in addresses.iter().flat_map(|address| PORTS.map(|port| (ip(address), port))) {
        let own = SocketAddr::new(address, port);
        let (listener, socket) =
            (TcpListener::bind(own).expect("listen"), UdpSocket::bind(own).expect("bind"));
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                let client = connection
                    .peer_addr()
                    .map_or_else(|error| error.to_string(), |peer| peer.ip().to_string());
                let _ = connection.write_all(format!("{own} {client}").as_bytes());
            }
        });
        thread::spawn(move || {
            while let Ok((_, client)) = socket.recv_from(&mut [0; 128]) {
                let _ = socket.send_to(format!("{own} {}", client.ip()).as_bytes(), client);
            }
        });
    }
}

/// Connects for each probe that can be a connection, and asserts its outcome.
pub(crate) fn assert_packets(
    network: &NodeNetwork,
    probes: &[Probe],
    outcome: impl Fn(&Probe) -> PacketOutcome + Sync,
) {
    let results: Vec<Result<&str, String>> = thread::scope(|scope| {
        let outcome = &outcome;
        let clients = CLIENTS.map(|(name, place)| {
            scope.spawn(move || {
                let own = probes.iter().filter(|probe| probe.client.name == name);
                let expected = observable(own.map(|probe| (probe, outcome(probe))), place);
                let observe = || -> Vec<Result<&'static str, String>> {
                    expected.iter().map(|(probe, outcome)| observe(probe, outcome)).collect()
                };
                place.pod(network).map_or_else(observe, |pod| pod.within(observe))
            })
        });
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect::<Vec<_>>()
    });
    let (mut kinds, mut differences) = (BTreeSet::new(), Vec::new());
    for result in results {
        match result {
            Ok(kind) => drop(kinds.insert(kind)),
            Err(difference) => differences.push(difference),
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert_eq!(kinds, BTreeSet::from(["drop", "forward", "masqueraded", "reject"]));
}

/// Returns the probes whose outcome a connection shows, with a part of those that are not served.
fn observable<'a>(
    all: impl Iterator<Item = (&'a Probe, PacketOutcome)>,
    place: Place,
) -> Vec<(&'a Probe, PacketOutcome)> {
    let (mut rejects, mut drops) = (0, 0);
    let has_socket = |probe: &Probe| {
        let PortalKey { address, protocol, .. } = probe.destination;
        // The sentinel has a port of its own, and clients have no route to link-local addresses.
        protocol != Protocol::Sctp
            && !SENTINEL_IPS.iter().any(|own| ip(own) == address)
            && forbidden_external(address).is_none()
    };
    all.filter(|(probe, outcome)| {
        if !has_socket(probe) || !shows(outcome, place) {
            return false;
        }
        let count = match outcome {
            PacketOutcome::Reject => &mut rejects,
            PacketOutcome::Drop => &mut drops,
            _ => return true,
        };
        *count += 1;
        *count <= UNSERVED_MAX
    })
    .collect()
}

/// Whether a connection shows the outcome: the backend replies through the node.
fn shows(outcome: &PacketOutcome, place: Place) -> bool {
    match outcome {
        PacketOutcome::Pass => false,
        PacketOutcome::Reject | PacketOutcome::Drop => true,
        PacketOutcome::Forward { backends, .. } => backends.iter().all(|(backend, seen)| {
            place == Place::Node || *seen == Seen::Node || Place::of(backend.ip()) != place
        }),
    }
}

/// Returns the kind of the outcome, or the difference.
fn observe(probe: &Probe, expected: &PacketOutcome) -> Result<&'static str, String> {
    let local = NodeProfile::local_addresses();
    let destination = SocketAddr::new(probe.destination.address, probe.destination.port);
    let timeout = if *expected == PacketOutcome::Drop { DROP_TIMEOUT } else { REPLY_TIMEOUT };
    let is_datagram = probe.destination.protocol == Protocol::Udp;
    let reply = if is_datagram {
        ask_datagram(destination, timeout)
    } else {
        try_backend_of(&destination.to_string(), timeout)
    };
    let error = |what: &str| Err(format!("{probe}: expected {expected}, observed {what}"));
    let reply = match reply {
        Ok(reply) => reply,
        Err(why) => {
            return match (why.kind(), expected) {
                (ErrorKind::ConnectionRefused, PacketOutcome::Reject) => Ok("reject"),
                (ErrorKind::TimedOut | ErrorKind::WouldBlock, PacketOutcome::Drop) => Ok("drop"),
                // The kernel reports both to a process that sends a datagram.
                (ErrorKind::PermissionDenied, PacketOutcome::Reject | PacketOutcome::Drop) if is_datagram => {
                    Ok("reject")
                }
                _ => error(&why.to_string()),
            };
        }
    };
    let PacketOutcome::Forward { backends, .. } = expected else { return error(&reply) };
    let (backend, source) = reply.split_once(' ').expect("two addresses");
    let (backend, source): (SocketAddr, IpAddr) =
        (backend.parse().expect("a backend"), source.parse().expect("an address"));
    let is_same = source == probe.client.source;
    match backends.get(&backend) {
        Some(Seen::Client) if is_same => Ok("forward"),
        // The kernel selects an address of the node for a connection to the node itself.
        Some(Seen::Client)
            if probe.client.interface.is_none()
                && local.contains(&source)
                && local.contains(&backend.ip()) =>
        {
            Ok("forward")
        }
        Some(Seen::Node) if !is_same && local.contains(&source) => Ok("masqueraded"),
        _ => error(&reply),
    }
}

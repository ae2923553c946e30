//! UDP flows after a change: an open socket follows its portal after its conntrack entry is deleted.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use netns_nft::Socket;
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::Ruleset;
use proxy_core::sample::{backend, slice, svc};
use proxy_core::service::Protocol;
use proxy_core::snapshot::Change;
use test_support::namespace::{add_address, in_routed_netns};
use test_support::ruleset_loader::{RulesetLoader, ruleset_of};

/// The timeout of a datagram.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait if no datagram must arrive. A datagram within one machine takes 0.1 ms.
const DROP_TIMEOUT: Duration = Duration::from_millis(300);

/// The addresses of one family.
struct Addresses {
    client: &'static str,
    address: &'static str,
    portal: &'static str,
    a: &'static str,
    b: &'static str,
}

const V4: Addresses = Addresses {
    client: "10.200.0.1:0",
    address: "10.96.0.10",
    portal: "10.96.0.10:53",
    a: "10.1.0.1",
    b: "10.1.0.2",
};
const V6: Addresses = Addresses {
    client: "[2001:db8:200::1]:0",
    address: "2001:db8:96::10",
    portal: "[2001:db8:96::10]:53",
    a: "2001:db8:1::1",
    b: "2001:db8:1::2",
};

/// A service with UDP and TCP at port 53, and these backends at port 5353.
fn dns_ruleset(addresses: &Addresses, backends: &[&str]) -> Ruleset {
    ruleset_of(service("dns", addresses, backends))
}

fn service(name: &str, addresses: &Addresses, backends: &[&str]) -> [Change; 2] {
    let dns = svc(name).ip(addresses.address).udp("dns", 53).tcp("dns-tcp", 53);
    let made = slice(name).udp("dns", 5353).tcp("dns-tcp", 5353);
    let made = backends.iter().fold(made, |made, address| made.at(address));
    [dns.into(), made.into()]
}

fn port_5353(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), 5353)
}

fn bind_server(address: &str) -> UdpSocket {
    add_address(address);
    let server = UdpSocket::bind(port_5353(address)).expect("bind the backend");
    server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
    server
}

fn bind_client(addresses: &Addresses) -> UdpSocket {
    let client = UdpSocket::bind(addresses.client).expect("bind the client");
    client.connect(addresses.portal).expect("connect");
    client.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
    client
}

/// Asserts that the client's query arrives at the server, and that the reply returns.
fn assert_reaches(client: &UdpSocket, server: &UdpSocket) {
    client.send(b"query").expect("send");
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).expect("the query arrives");
    assert_eq!(&buffer[..length], b"query");
    server.send_to(b"reply", from).expect("reply");
    let length = client.recv(&mut buffer).expect("the reply arrives");
    assert_eq!(&buffer[..length], b"reply");
}

fn assert_refused(client: &UdpSocket) {
    let kinds = [(); 2].map(|()| client.send(b"x").expect_err("refused").kind());
    let is_refusal = |kind| matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ConnectionRefused);
    assert!(kinds.into_iter().all(is_refusal), "{kinds:?}");
}

/// Portals with their current backends.
fn portals<'a>(
    protocol: Protocol,
    portals: impl IntoIterator<Item = (&'a str, &'a [&'a str])>,
) -> BTreeMap<PortalKey, Arc<[SocketAddr]>> {
    let entry = |(portal, backends): (&str, &[&str])| {
        let portal = backend(portal);
        let key = PortalKey { address: portal.ip(), protocol, port: portal.port() };
        (key, backends.iter().map(|address| port_5353(address)).collect())
    };
    portals.into_iter().map(entry).collect()
}

/// Deletes the conntrack entries of a portal, except those of these backends. Returns their number.
fn delete_stale(portal: &str, backends: &[&str]) -> usize {
    let socket = Socket::open().expect("open a netfilter socket");
    socket.delete_stale_udp(&portals(Protocol::Udp, [(portal, backends)])).expect("delete")
}

#[test]
fn connected_socket_reaches_the_new_backend_after_its_conntrack_entry_is_deleted() {
    for addresses in [V4, V6] {
        in_routed_netns(|| {
            let (a, b) = (bind_server(addresses.a), bind_server(addresses.b));
            let (before, after) =
                (dns_ruleset(&addresses, &[addresses.a]), dns_ruleset(&addresses, &[addresses.b]));
            RulesetLoader::Netlink.program(&before);
            let client = bind_client(&addresses);
            assert_reaches(&client, &a);
            RulesetLoader::Netlink.change(&before, &after);
            assert_reaches(&client, &a);
            assert_eq!(delete_stale(addresses.portal, &[addresses.b]), 1);
            assert_reaches(&client, &b);
            assert_eq!(delete_stale(addresses.portal, &[addresses.b]), 0, "the entry is up to date");
            assert_reaches(&client, &b);
        });
    }
}

#[test]
fn connected_socket_is_rejected_after_the_last_backend_is_removed() {
    for addresses in [V4, V6] {
        in_routed_netns(|| {
            let a = bind_server(addresses.a);
            let before = dns_ruleset(&addresses, &[addresses.a]);
            RulesetLoader::Netlink.program(&before);
            let client = bind_client(&addresses);
            assert_reaches(&client, &a);
            RulesetLoader::Netlink.change(&before, &dns_ruleset(&addresses, &[]));
            assert_reaches(&client, &a);
            assert_eq!(delete_stale(addresses.portal, &[]), 1);
            assert_refused(&client);
        });
    }
}

#[test]
fn conntrack_entry_of_a_deleted_service_is_deleted() {
    in_routed_netns(|| {
        let a = bind_server(V4.a);
        let before = dns_ruleset(&V4, &[V4.a]);
        RulesetLoader::Netlink.program(&before);
        let client = bind_client(&V4);
        assert_reaches(&client, &a);
        RulesetLoader::Netlink.change(&before, &ruleset_of([]));
        assert_reaches(&client, &a);
        assert_eq!(delete_stale(V4.portal, &[]), 1);
        a.set_read_timeout(Some(DROP_TIMEOUT)).expect("set a time-out");
        client.send(b"dropped").expect("send");
        assert_eq!(a.recv(&mut [0; 16]).expect_err("silence").kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn older_socket_reaches_a_new_portal_after_its_conntrack_entry_is_deleted() {
    in_routed_netns(|| {
        let a = bind_server(V4.a);
        let before = ruleset_of([]);
        RulesetLoader::Netlink.program(&before);
        let client = bind_client(&V4);
        client.send(b"lost").expect("send");
        RulesetLoader::Netlink.change(&before, &dns_ruleset(&V4, &[V4.a]));
        assert_eq!(delete_stale(V4.portal, &[V4.a]), 1);
        assert_reaches(&client, &a);
    });
}

#[test]
fn conntrack_entries_of_other_portals_protocols_and_namespaces_are_kept() {
    in_routed_netns(|| {
        let (a, b) = (bind_server(V4.a), bind_server(V4.b));
        let (before, after) = (dns_ruleset(&V4, &[V4.a]), dns_ruleset(&V4, &[V4.b]));
        RulesetLoader::Netlink.program(&before);
        let listener = TcpListener::bind(port_5353(V4.a)).expect("listen");
        let mut stream = TcpStream::connect_timeout(&backend(V4.portal), REPLY_TIMEOUT).expect("connect");
        let (mut accepted, _) = listener.accept().expect("accept");
        let client = bind_client(&V4);
        assert_reaches(&client, &a);
        RulesetLoader::Netlink.change(&before, &after);
        in_routed_netns(|| {
            let _a = bind_server(V4.a);
            RulesetLoader::Netlink.program(&before);
            let elsewhere = self::bind_client(&V4);
            elsewhere.send(b"x").expect("send");
            assert_eq!(delete_stale(V4.portal, &[]), 1, "only the entry of its own namespace");
        });
        assert_eq!(delete_stale("10.96.0.11:53", &[]), 0, "another portal");
        assert_eq!(delete_stale("10.96.0.10:54", &[]), 0, "another port");
        assert_eq!(delete_stale(V6.portal, &[]), 0, "another family");
        let socket = Socket::open().expect("open a netfilter socket");
        let tcp = portals(Protocol::Tcp, [(V4.portal, &[][..])]);
        assert_eq!(socket.delete_stale_udp(&tcp).expect("delete"), 0, "another protocol");
        assert_reaches(&client, &a);
        assert_eq!(delete_stale(V4.portal, &[V4.b]), 1);
        assert_reaches(&client, &b);
        stream.write_all(b"still here").expect("write");
        let mut buffer = [0; 10];
        accepted.read_exact(&mut buffer).expect("the TCP connection is unaffected");
        assert_eq!(&buffer, b"still here");
    });
}

#[test]
fn many_conntrack_entries_of_both_families_are_deleted_in_one_call() {
    const FLOWS: usize = 1_000;
    in_routed_netns(|| {
        let _servers = [V4.a, V6.a].map(bind_server);
        let changes = [service("dns", &V4, &[V4.a]), service("dns6", &V6, &[V6.a])];
        RulesetLoader::Netlink.program(&ruleset_of(changes.into_iter().flatten()));
        for addresses in [V4, V6] {
            for _ in 0..FLOWS {
                bind_client(&addresses).send(b"x").expect("send");
            }
        }
        let socket = Socket::open().expect("open a netfilter socket");
        let kept = portals(Protocol::Udp, [(V4.portal, &[V4.a][..]), (V6.portal, &[V6.a][..])]);
        assert_eq!(socket.delete_stale_udp(&kept).expect("delete"), 0);
        let gone = portals(Protocol::Udp, [(V4.portal, &[][..]), (V6.portal, &[][..])]);
        let deleted = socket.delete_stale_udp(&gone).expect("delete");
        // Two successive clients can have the same port.
        assert!((FLOWS..=2 * FLOWS).contains(&deleted), "{deleted}");
        assert_eq!(socket.delete_stale_udp(&gone).expect("delete"), 0);
    });
}

#[test]
fn deletion_without_conntrack_entries_succeeds() {
    in_routed_netns(|| {
        assert_eq!(delete_stale(V4.portal, &[]), 0);
        RulesetLoader::Netlink.program(&dns_ruleset(&V4, &[]));
        assert_eq!(delete_stale(V4.portal, &[]), 0);
    });
}

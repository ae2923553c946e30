//! On-demand tables in a real kernel, with both loaders: connections to a service range are redirected to the relay
//! until their portal is active, none bypasses it, and the kernel counts the use of portals.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use netns_nft::{Limits, Socket};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, getsockopt, sendto, socket,
    sockopt,
};
use proxy_core::kernel_model::Table;
use proxy_core::portal::{PortalKey, Portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{backend, ip, slice, svc, tcp};
use proxy_core::service::Protocol;
use proxy_core::snapshot::Change;
use test_support::backend_server::{
    REPLY_TIMEOUT, assert_refused, assert_silent, backend_of, count_backends, serve, serve_outside,
};
use test_support::namespace::add_address;
use test_support::ruleset_loader::{portals_of, with_each_loader};

/// Two services with two ports each, in a service range.
fn two_services() -> Portals {
    let range = |net: &str| net.parse().expect("a network");
    let mut changes = vec![Change::ServiceRanges(vec![range("10.96.0.0/16"), range("2001:db8:96::/112")])];
    for (name, octet) in [("one", 1), ("two", 2)] {
        let service = svc(name).ip(&format!("10.96.0.{octet}")).ip(&format!("2001:db8:96::{octet}"));
        changes.push(service.tcp("a", 80).tcp("b", 81).udp("c", 53).into());
        let made = slice(name).tcp("a", 8080).tcp("b", 8080).udp("c", 5353);
        changes.push(made.at("10.1.0.1").at("2001:db8:1::1").into());
    }
    portals_of(changes)
}

/// The table without active portals.
fn without_active_portals(portals: &Portals) -> Ruleset {
    Ruleset::new(portals, Settings { on_demand: true, ..Settings::default() })
}

fn activate(portals: &Portals, before: &Ruleset, address: &str) -> Ruleset {
    let mut after = before.clone();
    after.activate(portals, ip(address));
    after
}

/// Starts a listener on the relay's port that replies with the original destination of each client.
fn start_relay_listener() -> TcpListener {
    let listener = TcpListener::bind(("127.0.0.1", Settings::default().relay_port)).expect("listen");
    let answers = listener.try_clone().expect("a second descriptor");
    std::thread::spawn(move || {
        for mut stream in answers.incoming().flatten() {
            let destination = getsockopt(&stream, sockopt::OriginalDst).expect("the original destination");
            let _ = write!(stream, "{}", SockaddrIn::from(destination));
        }
    });
    listener
}

fn read_hits() -> BTreeMap<PortalKey, u64> {
    Socket::open()
        .and_then(|socket| socket.on_demand_hits(&Limits::default(), None))
        .expect("read the counters")
}

#[test]
fn first_connection_is_redirected_to_the_relay_with_its_original_destination() {
    with_each_loader(|loader| {
        let _relay = start_relay_listener();
        loader.program(&without_active_portals(&two_services()));
        for portal in ["10.96.0.1:80", "10.96.0.2:81", "10.96.0.2:4711", "10.96.7.7:80"] {
            assert_eq!(backend_of(portal), portal);
        }
    });
}

#[test]
fn active_portals_are_in_the_kernel_and_others_are_relayed() {
    with_each_loader(|loader| {
        let _relay = start_relay_listener();
        serve("kernel", "10.1.0.1:8080");
        serve("kernel", "[2001:db8:1::1]:8080");
        let portals = two_services();
        let before = without_active_portals(&portals);
        loader.program(&before);
        let after = activate(&portals, &before, "10.96.0.1");
        loader.change(&before, &after);
        assert_eq!(backend_of("10.96.0.1:80"), "kernel");
        assert_eq!(backend_of("10.96.0.1:81"), "kernel", "the other port of the same address");
        assert_refused("10.96.0.1:4711");
        assert_eq!(backend_of("10.96.0.2:80"), "10.96.0.2:80");
        loader.change(&after, &activate(&portals, &after, "2001:db8:96::1"));
        assert_eq!(backend_of("[2001:db8:96::1]:80"), "kernel");
        assert_refused("[2001:db8:96::1]:4711");
    });
}

#[test]
fn evicted_portal_is_relayed_again_and_its_connections_continue() {
    with_each_loader(|loader| {
        let _relay = start_relay_listener();
        add_address("10.1.0.1");
        let listener = TcpListener::bind("10.1.0.1:8080").expect("listen");
        let portals = two_services();
        let before = without_active_portals(&portals);
        let after = activate(&portals, &before, "10.96.0.1");
        loader.program(&after);
        let mut client =
            TcpStream::connect_timeout(&backend("10.96.0.1:80"), REPLY_TIMEOUT).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        loader.change(&after, &before);
        assert_eq!(backend_of("10.96.0.1:80"), "10.96.0.1:80");
        client.write_all(b"on").expect("write");
        let mut received = [0; 2];
        server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        server.read_exact(&mut received).expect("the bytes arrive");
    });
}

#[test]
fn kernel_counts_the_connections_to_each_portal() {
    with_each_loader(|loader| {
        let _relay = start_relay_listener();
        serve("kernel", "10.1.0.1:8080");
        let portals = two_services();
        let one = activate(&portals, &without_active_portals(&portals), "10.96.0.1");
        loader.program(&one);
        count_backends("10.96.0.1:80", 3);
        count_backends("10.96.0.2:80", 2);
        let of = |text: &str| PortalKey { protocol: Protocol::Udp, ..tcp(text) };
        let expected =
            |count| [(tcp("10.96.0.1:80"), count), (tcp("10.96.0.1:81"), 0), (of("10.96.0.1:53"), 0)];
        assert_eq!(read_hits(), BTreeMap::from(expected(3)));
        // The activation of another portal does not reset counters.
        loader.change(&one, &activate(&portals, &one, "10.96.0.2"));
        count_backends("10.96.0.1:80", 1);
        let counted = read_hits();
        assert_eq!(counted.len(), 6);
        assert!(expected(4).iter().all(|(key, count)| counted[key] == *count), "{counted:?}");
    });
}

#[test]
fn next_agent_finds_the_active_portals_in_the_kernel() {
    with_each_loader(|loader| {
        serve("kernel", "10.1.0.1:8080");
        let portals = two_services();
        let used = activate(&portals, &without_active_portals(&portals), "10.96.0.2");
        loader.program(&used);
        let mut found = without_active_portals(&portals);
        read_hits().into_keys().for_each(|key| drop(found.activate(&portals, key.address)));
        assert_eq!(Table::from(&found), Table::from(&used));
    });
}

#[test]
fn full_or_missing_table_has_no_on_demand_counters() {
    with_each_loader(|loader| {
        assert_eq!(read_hits(), BTreeMap::new());
        loader.program(&Ruleset::new(&two_services(), Settings::default()));
        assert_eq!(read_hits(), BTreeMap::new());
    });
}

#[test]
fn full_table_becomes_on_demand_and_full_again_in_one_transaction_each() {
    with_each_loader(|loader| {
        let _relay = start_relay_listener();
        serve("kernel", "10.1.0.1:8080");
        let portals = two_services();
        let (full, none) = (Ruleset::new(&portals, Settings::default()), without_active_portals(&portals));
        loader.program(&full);
        assert_eq!(backend_of("10.96.0.1:80"), "kernel");
        loader.change(&full, &none);
        assert_eq!(backend_of("10.96.0.1:80"), "10.96.0.1:80");
        loader.change(&none, &full);
        assert_eq!(backend_of("10.96.0.1:80"), "kernel");
        assert_silent("10.96.7.7:80");
    });
}

#[test]
fn without_a_relay_inactive_portals_reject_at_once_and_active_ones_work() {
    with_each_loader(|loader| {
        serve("kernel", "10.1.0.1:8080");
        // A connection that bypasses the portal would arrive here.
        serve_outside("bypass", "10.96.0.2:80");
        let portals = two_services();
        loader.program(&activate(&portals, &without_active_portals(&portals), "10.96.0.1"));
        assert_eq!(backend_of("10.96.0.1:80"), "kernel");
        assert_refused("10.96.0.2:80");
        let client = UdpSocket::bind("10.200.0.1:0").expect("bind");
        client.connect("10.96.0.2:53").expect("connect");
        client.send(b"x").expect("the first datagram is sent");
        let refused = client.recv(&mut [0]).expect_err("no listener on the relay's port");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn datagrams_are_relayed_until_their_portal_is_active() {
    with_each_loader(|loader| {
        let relay = UdpSocket::bind(("127.0.0.1", Settings::default().relay_port)).expect("bind");
        add_address("10.1.0.1");
        let server = UdpSocket::bind("10.1.0.1:5353").expect("bind");
        for socket in [&relay, &server] {
            socket.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        }
        let ask = || {
            let client = UdpSocket::bind("10.200.0.1:0").expect("bind");
            client.connect("10.96.0.1:53").expect("connect");
            client.send(b"query").expect("send");
            client
        };
        let answered = |client: &UdpSocket, by: &UdpSocket| {
            let (_, from) = by.recv_from(&mut [0; 8]).expect("the query arrives");
            by.send_to(b"reply", from).expect("reply");
            client.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
            client.recv(&mut [0; 8]).expect("the reply comes from the portal's address");
        };
        let portals = two_services();
        let before = without_active_portals(&portals);
        loader.program(&before);
        let first = ask();
        answered(&first, &relay);
        loader.change(&before, &activate(&portals, &before, "10.96.0.1"));
        answered(&ask(), &server);
        first.send(b"more").expect("send");
        answered(&first, &relay);
    });
}

#[test]
fn protocols_that_the_relay_does_not_support_are_rejected() {
    with_each_loader(|loader| {
        let there = "10.96.0.1";
        for (protocol, packet) in [(SockProtocol::Icmp, echo_request()), (SockProtocol::Sctp, sctp_init())] {
            assert!(is_sent(protocol, there, &packet), "{protocol:?} is sent without rules");
        }
        loader.program(&without_active_portals(&two_services()));
        for (protocol, packet) in [(SockProtocol::Icmp, echo_request()), (SockProtocol::Sctp, sctp_init())] {
            assert!(!is_sent(protocol, there, &packet), "{protocol:?} bypasses the portal");
        }
    });
}

/// Returns whether a packet to this address is sent. If a rule drops it, sending fails.
fn is_sent(protocol: SockProtocol, to: &str, packet: &[u8]) -> bool {
    let sender: OwnedFd =
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), protocol).expect("a raw socket");
    let SocketAddr::V4(to) = backend(&format!("{to}:0")) else { panic!("an IPv4 address") };
    sendto(sender.as_raw_fd(), packet, &SockaddrIn::from(to), MsgFlags::empty()).is_ok()
}

fn echo_request() -> Vec<u8> {
    // Type 8, code 0, checksum, number 7, sequence 1.
    let words: [u16; 4] = [0x0800, 0, 7, 1];
    let sum: u16 = words.iter().sum();
    [words[0], !sum, words[2], words[3]].into_iter().flat_map(u16::to_be_bytes).collect()
}

/// The first packet of an association. Its checksum must be correct, otherwise conntrack ignores it.
fn sctp_init() -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend_from_slice(&[0x12, 0x34, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(&[1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

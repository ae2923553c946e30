//! UDP through a relayed portal: the source of replies, flows that change their backend, and limits.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::sample::{backend, svc, udp};
use proxy_core::service::Scheduler;
use test_support::backend_server::REPLY_TIMEOUT;
use test_support::eventually::eventually;
use test_support::namespace::add_address;
use test_support::own_process;
use test_support::proc_memory::resident_kb;
use test_support::relay_fixture::{RelayFixture, relayed_service, web_service, with_relay};

const BACKENDS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
const PORTAL: &str = "10.96.0.1:53";
/// The maximum number of flows of one network namespace and worker.
const FLOWS_MAX: usize = 4_096;

/// A server that replies to each datagram with its name and the datagram.
struct Server(UdpSocket);

impl Server {
    fn start(name: &'static str, address: &str) -> Self {
        add_address(address);
        Self::on(UdpSocket::bind((address, 5353)).expect("bind the backend"), name)
    }

    fn on(socket: UdpSocket, name: &'static str) -> Self {
        let receiver = socket.try_clone().expect("a second descriptor");
        thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while let Ok((length, from)) = receiver.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                let _ = receiver.send_to(&[name.as_bytes(), &buffer[..length]].concat(), from);
            }
        });
        Self(socket)
    }
}

impl Drop for Server {
    /// Closes the socket, so that the kernel rejects further datagrams.
    fn drop(&mut self) {
        let own = self.0.local_addr().expect("it is bound");
        self.0.send_to(&[], own).expect("wake the thread");
    }
}

/// A client's socket with a receive timeout.
fn client(fixture: &RelayFixture) -> UdpSocket {
    let socket = fixture.within(|| UdpSocket::bind("0.0.0.0:0")).expect("bind");
    socket.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
    socket
}

/// Sends a datagram, and returns the reply, which must come from the portal.
fn exchange_datagram(client: &UdpSocket, portal: &str, text: &str) -> Result<String> {
    client.send_to(text.as_bytes(), backend(portal))?;
    let mut buffer = [0; 2_048];
    let (length, from) = client.recv_from(&mut buffer)?;
    assert_eq!(from, backend(portal), "replies come from the portal");
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn replies_to_connected_and_unconnected_sockets_come_from_the_portal() {
    with_relay(relayed_service(web_service("10.96.0.1"), &BACKENDS[..1]), |fixture| {
        let _server = Server::start("a", BACKENDS[0]);
        let socket = client(fixture);
        for text in ["1", "2", "3"] {
            assert_eq!(exchange_datagram(&socket, PORTAL, text).expect("a reply"), format!("a{text}"));
        }
        let socket = client(fixture);
        socket.connect(PORTAL).expect("connect");
        socket.send(b"4").expect("send");
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).expect("a reply");
        assert_eq!(&buffer[..length], b"a4");
        eventually("all datagrams are counted", || {
            let report = fixture.report(udp(PORTAL));
            (report.totals.connections, report.active, report.totals.sent, report.totals.received)
                == (2, 2, 4, 8)
        });
    });
}

#[test]
fn ipv6_replies_come_from_the_portal() {
    with_relay(relayed_service(web_service("2001:db8:96::1"), &["2001:db8:1::1"]), |fixture| {
        let _server = Server::start("a", "2001:db8:1::1");
        let socket = fixture.within(|| UdpSocket::bind("[::]:0")).expect("bind");
        socket.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        for text in ["1", "2"] {
            assert_eq!(
                exchange_datagram(&socket, "[2001:db8:96::1]:53", text).expect("a reply"),
                format!("a{text}")
            );
        }
    });
}

#[test]
fn one_socket_can_use_two_portals() {
    let [one, ones] = relayed_service(svc("one").ip("10.96.0.1").udp("dns", 53), &BACKENDS[..1]);
    let [two, twos] = relayed_service(svc("two").ip("10.96.0.2").udp("dns", 53), &BACKENDS[1..2]);
    with_relay([one, ones, two, twos], |fixture| {
        let _servers = [Server::start("a", BACKENDS[0]), Server::start("b", BACKENDS[1])];
        let socket = client(fixture);
        for number in 0..20 {
            let text = number.to_string();
            assert_eq!(exchange_datagram(&socket, PORTAL, &text).expect("a reply"), format!("a{text}"));
            assert_eq!(
                exchange_datagram(&socket, "10.96.0.2:53", &text).expect("a reply"),
                format!("b{text}")
            );
        }
        assert_eq!(fixture.report(udp(PORTAL)).totals.connections, 1, "one flow for each portal");
    });
}

#[test]
fn datagrams_of_every_size_arrive_complete() {
    with_relay(relayed_service(web_service("10.96.0.1"), &BACKENDS[..1]), |fixture| {
        add_address(BACKENDS[0]);
        let server = UdpSocket::bind((BACKENDS[0], 5353)).expect("bind the backend");
        server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        let socket = client(fixture);
        for length in [0, 1, 1_472, 9_000, 65_507] {
            let (bytes, mut buffer) = (vec![7; length], vec![0; 1 << 16]);
            socket.send_to(&bytes, PORTAL).expect("send");
            let (received, from) = server.recv_from(&mut buffer).expect("the datagram arrives");
            assert!(buffer[..received] == bytes, "{received} of {length}");
            server.send_to(&bytes, from).expect("reply");
            let received = socket.recv(&mut buffer).expect("the reply arrives");
            assert!(buffer[..received] == bytes, "{received} of {length}");
        }
    });
}

#[test]
fn refusing_backend_is_replaced_and_the_unreplied_datagram_is_resent() {
    with_relay(relayed_service(web_service("10.96.0.1"), &BACKENDS), |fixture| {
        BACKENDS[..2].iter().for_each(|address| add_address(address));
        let _server = Server::start("c", BACKENDS[2]);
        for _ in 0..10 {
            assert_eq!(
                exchange_datagram(&client(fixture), PORTAL, "?").expect("the datagram is not lost"),
                "c?"
            );
        }
        let report = fixture.report(udp(PORTAL));
        assert!(report.backends[..2].iter().all(|backend| backend.failures > 0 && backend.is_ejected));
        assert_eq!((report.totals.failed, report.backends[2].failures), (0, 0));
    });
}

#[test]
fn flow_moves_if_its_endpoint_is_removed() {
    with_relay(relayed_service(web_service("10.96.0.1"), &BACKENDS[..2]), |fixture| {
        let _servers = [Server::start("a", BACKENDS[0]), Server::start("b", BACKENDS[1])];
        let socket = client(fixture);
        let first = exchange_datagram(&socket, PORTAL, "1").expect("a reply");
        let (remaining, name) = if first.starts_with('a') { (BACKENDS[1], "b") } else { (BACKENDS[0], "a") };
        fixture.set_services(relayed_service(web_service("10.96.0.1"), &[remaining]));
        assert_eq!(exchange_datagram(&socket, PORTAL, "2").expect("a reply"), format!("{name}2"));
        let report = fixture.report(udp(PORTAL));
        assert_eq!(
            (report.totals.connections, report.totals.retries),
            (1, 0),
            "no attempt failed: {report:?}"
        );
        assert!(report.backends.iter().all(|backend| backend.failures == 0), "{report:?}");
    });
}

#[test]
fn flows_are_round_robin_and_affinity_keeps_one_backend() {
    let [turns, turn] = relayed_service(web_service("10.96.0.1"), &BACKENDS);
    let [sticky, stay] =
        relayed_service(svc("sticky").ip("10.96.0.2").udp("dns", 53).sticky(10_800), &BACKENDS);
    with_relay([turns, turn, sticky, stay], |fixture| {
        let _servers = [("a", BACKENDS[0]), ("b", BACKENDS[1]), ("c", BACKENDS[2])]
            .map(|(name, ip)| Server::start(name, ip));
        let replies = |portal: &str| {
            // All stay open: the port of a closed socket may be assigned again, and would continue its flow.
            let clients: Vec<UdpSocket> = (0..30).map(|_| client(fixture)).collect();
            let mut counts = BTreeMap::new();
            for client in &clients {
                *counts.entry(exchange_datagram(client, portal, "?").expect("a reply")).or_insert(0) += 1;
            }
            counts
        };
        assert_eq!(replies(PORTAL).into_values().collect::<Vec<_>>(), [10, 10, 10]);
        assert_eq!(replies("10.96.0.2:53").into_values().collect::<Vec<_>>(), [30]);
    });
}

#[test]
fn least_connection_spreads_flows_evenly() {
    let service = web_service("10.96.0.1").scheduler(Scheduler::LeastConnection);
    with_relay(relayed_service(service, &BACKENDS[..2]), |fixture| {
        let _servers = [Server::start("a", BACKENDS[0]), Server::start("b", BACKENDS[1])];
        let clients: Vec<UdpSocket> = (0..20).map(|_| client(fixture)).collect();
        clients.iter().for_each(|client| drop(exchange_datagram(client, PORTAL, "?").expect("a reply")));
        let backends = fixture.report(udp(PORTAL)).backends;
        assert_eq!(backends.iter().map(|backend| backend.active).collect::<Vec<_>>(), [10, 10]);
    });
}

#[test]
fn held_datagram_reaches_the_first_backend() {
    let held = || web_service("10.96.0.1").hold_ms(60_000);
    with_relay(relayed_service(held(), &[]), |fixture| {
        let _server = Server::start("a", BACKENDS[0]);
        let socket = client(fixture);
        socket.send_to(b"early", PORTAL).expect("send");
        eventually("the flow is pending", || fixture.pending() == 1);
        fixture.set_services(relayed_service(held(), &BACKENDS[..1]));
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).expect("a reply");
        assert_eq!(&buffer[..length], b"aearly");
    });
}

#[test]
fn portal_without_backend_rejects_datagrams() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[]), |fixture| {
        let socket = client(fixture);
        socket.connect(PORTAL).expect("connect");
        let refused = [socket.send(b"x"), socket.send(b"x")];
        let kinds = refused.map(|sent| sent.expect_err("refused").kind());
        let is_rejection = |kind| matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ConnectionRefused);
        assert!(kinds.into_iter().all(is_rejection), "{kinds:?}");
    });
}

#[test]
fn storm_from_10_000_ports_is_bounded_and_others_are_served_afterwards() {
    own_process!(|| {
        let [web, webs] = relayed_service(web_service("10.96.0.1"), &BACKENDS[..1]);
        let [other, others] = relayed_service(svc("other").ip("10.96.0.2").udp("dns", 53), &BACKENDS[1..2]);
        with_relay([web, webs, other, others], |fixture| {
            add_address(BACKENDS[0]);
            let mute = UdpSocket::bind((BACKENDS[0], 5353)).expect("bind the backend");
            let _server = Server::start("b", BACKENDS[1]);
            let before = resident_kb();
            fixture.within(|| {
                // One socket at a time, so that the relay reaches its limit and not this process.
                for port in 20_000..30_000 {
                    let socket = UdpSocket::bind(("10.244.0.2", port)).expect("bind");
                    let _ = socket.send_to(&[0; 1_000], PORTAL);
                }
            });
            let mut previous = 0;
            eventually("the storm is over", || {
                std::mem::replace(&mut previous, fixture.connections()) == fixture.connections()
            });
            let report = fixture.relay.report(Instant::now());
            assert!(report.connections <= 2 * FLOWS_MAX, "{report:?}");
            let growth = resident_kb() - before;
            assert!(
                growth < 12.0 * report.connections as f64,
                "{growth} KB for {} flows",
                report.connections
            );
            // All flows end when their backend refuses, and new ones are accepted again.
            drop(mute);
            let start = Instant::now();
            let answer = loop {
                let socket = client(fixture);
                socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set a time-out");
                match exchange_datagram(&socket, "10.96.0.2:53", "?") {
                    Ok(answer) => break answer,
                    Err(why) => assert!(start.elapsed() < Duration::from_secs(40), "{why}"),
                }
            };
            assert_eq!(answer, "b?");
        });
    });
}

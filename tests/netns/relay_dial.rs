//! The network namespace from which the relay dials: the pod, the node, or the first that reaches the backend.

use std::io::ErrorKind;
use std::io::Write;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::sample::{tcp, udp};
use proxy_core::service::Dial;
use test_support::backend_server::{REPLY_TIMEOUT, backend_of};
use test_support::namespace::load;
use test_support::relay_fixture::{POD, RelayFixture, listen, relayed_service, web_service, with_relay};

const PORTAL: &str = "10.96.0.1:80";
const UDP_PORTAL: &str = "10.96.0.1:53";
/// The address of the backend, which is also the source address if the node dials it.
const NODE: &str = "10.1.0.1";

/// Starts a TCP and a UDP server that reply with the address of their client.
fn serve_client_address() {
    let listener = listen("10.1.0.1:8080");
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = stream.write_all(from.ip().to_string().as_bytes());
        }
    });
    let socket = UdpSocket::bind("10.1.0.1:5353").expect("bind the backend");
    thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 16]) {
            let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
}

fn ask_udp(fixture: &RelayFixture) -> std::io::Result<String> {
    fixture.within(|| {
        let client = UdpSocket::bind("0.0.0.0:0")?;
        client.set_read_timeout(Some(REPLY_TIMEOUT))?;
        client.connect(UDP_PORTAL)?;
        client.send(b"?")?;
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    })
}

fn replies(fixture: &RelayFixture) -> [String; 2] {
    [fixture.within(|| backend_of(PORTAL)), ask_udp(fixture).expect("a reply")]
}

fn via_node(fixture: &RelayFixture) -> [bool; 2] {
    [tcp(PORTAL), udp(UDP_PORTAL)].map(|key| fixture.report(key).backends[0].via_node)
}

#[test]
fn backend_dialled_from_the_pod_sees_the_address_of_the_pod() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[NODE]), |fixture| {
        serve_client_address();
        assert_eq!((replies(fixture), via_node(fixture)), ([POD; 2].map(str::to_owned), [false; 2]));
        fixture.pod.ip(&["route", "add", "blackhole", NODE]);
        assert_eq!(fixture.connect_outcome(PORTAL), Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn backend_dialled_from_the_node_sees_the_address_of_the_node() {
    with_relay(relayed_service(web_service("10.96.0.1").dial(Dial::Node), &[NODE]), |fixture| {
        serve_client_address();
        fixture.pod.ip(&["route", "add", "blackhole", NODE]);
        assert_eq!((replies(fixture), via_node(fixture)), ([NODE; 2].map(str::to_owned), [true; 2]));
    });
}

#[test]
fn auto_dial_falls_back_to_the_node_and_remembers_it() {
    with_relay(relayed_service(web_service("10.96.0.1").dial(Dial::Auto), &[NODE]), |fixture| {
        serve_client_address();
        assert_eq!((replies(fixture), via_node(fixture)), ([POD; 2].map(str::to_owned), [false; 2]));
        for kind in ["blackhole", "unreachable"] {
            fixture.pod.ip(&["route", "replace", kind, NODE]);
            assert_eq!(replies(fixture), [NODE; 2].map(str::to_owned), "{kind}");
            assert_eq!(via_node(fixture), [true; 2], "{kind}");
        }
        let failures = |fixture: &RelayFixture| fixture.report(tcp(PORTAL)).backends[0].failures;
        assert_eq!(failures(fixture), 0, "an unreachable pod network is no failure of the backend");
    });
}

#[test]
fn only_the_first_client_waits_if_the_pod_receives_no_reply() {
    with_relay(relayed_service(web_service("10.96.0.1").dial(Dial::Auto), &[NODE]), |fixture| {
        serve_client_address();
        load(&format!(
            "table ip quiet {{ chain in {{ type filter hook input priority 0; ip saddr {POD} drop\n }}\n }}"
        ));
        let start = Instant::now();
        assert_eq!(fixture.within(|| backend_of(PORTAL)), NODE);
        assert!(start.elapsed() >= Duration::from_millis(250));
        let start = Instant::now();
        assert_eq!(fixture.within(|| backend_of(PORTAL)), NODE);
        let report = fixture.report(tcp(PORTAL));
        assert!(
            report.backends[0].via_node && report.totals.retries == 0,
            "{report:?} {:?}",
            start.elapsed()
        );
    });
}

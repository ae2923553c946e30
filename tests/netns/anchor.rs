//! The anchor table: open connections survive a flush of the ruleset by another process.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use netns_nft::{Anchor, Error, Socket};
use test_support::namespace::{add_address, in_routed_netns, listing, load, run};

/// The limit of an exchange that must succeed.
const DEADLINE: Duration = Duration::from_secs(10);
/// The limit of an exchange that must fail: one within this machine takes 0.1 ms.
const DROP_TIMEOUT: Duration = Duration::from_millis(300);

/// The addresses of a service and of its server, for each family.
const WAYS: [[&str; 2]; 2] =
    [["10.96.0.10:80", "10.1.0.1:8080"], ["[2001:db8:96::10]:80", "[2001:db8:1::1]:8080"]];

/// The rules that translate a service's address to that of its server.
const RULES: &str = "table inet other {
  chain output { type nat hook output priority -100; policy accept;
    ip daddr 10.96.0.10 tcp dport 80 dnat ip to 10.1.0.1:8080
    ip6 daddr 2001:db8:96::10 tcp dport 80 dnat ip6 to [2001:db8:1::1]:8080
  }
}";

/// A table with the name of the anchor that another process created.
const OTHER_CONTENT: &str = "table inet portico-anchor {
  chain postrouting { type filter hook input priority 0; policy drop; }
}";

fn hold() -> Result<Anchor, Error> {
    Anchor::hold(Socket::open().expect("a socket"))
}

/// Starts a server that returns what it receives, for each family.
fn serve() {
    for [_, server] in WAYS {
        let server: SocketAddr = server.parse().expect("an address");
        add_address(&server.ip().to_string());
        let listener = TcpListener::bind(server).expect("bind");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                thread::spawn(move || {
                    let mut buffer = [0; 16];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        stream.write_all(&buffer[..length]).expect("send");
                    }
                });
            }
        });
    }
}

fn connect() -> Vec<TcpStream> {
    WAYS.iter().map(|[service, _]| TcpStream::connect(service).expect("connect")).collect()
}

/// Whether the server returns what the client sends, within a limit.
fn has_reply(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).expect("set the limit");
    stream.write_all(b"ping").expect("send");
    match stream.read_exact(&mut [0; 4]) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

fn flush() {
    run("nft", &["flush", "ruleset"], "");
}

#[test]
fn open_connections_survive_a_flush_with_the_anchor() {
    in_routed_netns(|| {
        serve();
        load(RULES);
        let anchor = hold().expect("the anchor");
        let mut streams = connect();
        flush();
        assert!(streams.iter_mut().all(|stream| has_reply(stream, DEADLINE)), "{:?}", listing());
        load(RULES);
        assert!(connect().iter_mut().all(|stream| has_reply(stream, DEADLINE)), "new connections");
        assert!(streams.iter_mut().all(|stream| has_reply(stream, DEADLINE)), "old connections");
        // This is what the anchor prevents.
        anchor.remove().expect("remove the anchor");
        flush();
        assert!(!streams.iter_mut().any(|stream| has_reply(stream, DROP_TIMEOUT)));
    });
}

#[test]
fn anchor_persists_without_its_owner_until_the_next_owner() {
    in_routed_netns(|| {
        drop(hold().expect("the anchor"));
        let without_owner = listing();
        assert!(without_owner.iter().any(|line| line.contains("masquerade")), "{without_owner:?}");
        let next = hold().expect("the anchor of the next agent");
        flush();
        assert!(listing().iter().any(|line| line.contains("masquerade")), "{:?}", listing());
        next.remove().expect("remove");
        assert_eq!(listing().len(), 0);
    });
}

#[test]
fn anchor_without_an_owner_is_replaced_whatever_it_contains() {
    in_routed_netns(|| {
        load(OTHER_CONTENT);
        let anchor = hold().expect("the anchor");
        let replaced = listing();
        assert!(!replaced.iter().any(|line| line.contains("drop")), "{replaced:?}");
        drop(anchor);
        run("nft", &["add", "chain", "inet", "portico-anchor", "other"], "");
        let _anchor = hold().expect("the anchor");
        assert!(!listing().iter().any(|line| line.contains("other")), "{:?}", listing());
    });
}

#[test]
fn owned_anchor_is_refused_to_others() {
    in_routed_netns(|| {
        let first = hold().expect("the anchor");
        let error = hold().expect_err("a second owner");
        assert!(matches!(error, Error::AnchorOwned), "{error:?}");
        assert!(error.is_transient(), "the owner can exit");
        drop(first);
        hold().expect("the anchor after its owner");
    });
}

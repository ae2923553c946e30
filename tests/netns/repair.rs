//! Drift detection and repair of tables: changes by other processes are found, and the table is replaced atomically, so
//! that no packet bypasses a portal and no connection ends.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netns_nft::{Batch, Error, Socket, TableState, encode, encode_fresh};
use proxy_core::kernel_model::Table;
use proxy_core::plan::plan;
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{backend, slice, svc};
use proxy_core::service::Mode;
use proxy_core::snapshot::Change;
use test_support::backend_server::{REPLY_TIMEOUT, serve, serve_outside, try_backend_of};
use test_support::namespace::{add_address, in_routed_netns, listing, load};
use test_support::ruleset_loader::{apply, current_table, portals_of, ruleset_of};

fn portals_ruleset() -> Ruleset {
    ruleset_of(changes())
}

fn changes() -> [Change; 3] {
    [
        svc("web").ip("10.96.0.1").tcp("http", 80).into(),
        slice("web").tcp("http", 8080).at("10.1.0.1").into(),
        svc("sticky").ip("10.96.0.2").tcp("http", 80).sticky(60).into(),
    ]
}

/// Changes that another process can make to Portico's table, and the text in the reason for the drift.
const DAMAGES: [(&str, &str); 22] = [
    ("flush chain inet portico input", "chain \"input\""),
    ("flush chain inet portico prerouting", "chain \"prerouting\""),
    ("add element inet portico picks { 9 : jump refuse }", "set \"picks\""),
    ("flush chain inet portico portals", "chain \"portals\""),
    ("flush chain inet portico output", "chain \"output\""),
    ("flush chain inet portico pick-1", "chain \"pick-1\""),
    ("flush chain inet portico anchor", "chain \"anchor\""),
    ("flush map inet portico current", "set \"current\""),
    (
        "delete element inet portico current { ipv4 }; add element inet portico current { ipv4 : goto relay }",
        "set \"current\"",
    ),
    ("insert rule inet portico portals accept", "chain \"portals\""),
    ("add chain inet portico mine", "chain \"mine\""),
    ("flush chain inet portico output; delete chain inet portico output", "chain \"output\""),
    ("add chain inet portico output { policy drop; }", "chain \"output\""),
    ("add set inet portico mine { type mark; }", "set \"mine\""),
    ("add element inet portico picks { 7 : jump refuse }", "set \"picks\""),
    ("delete element inet portico picks { 1 }", "chain \"pick-1\""),
    ("add element inet portico portals4 { 10.96.0.9 . tcp . 80 : 16384000 }", "set \"portals4\""),
    ("add element inet portico backends4 { 10.96.0.9 . icmp . 80 . 7 : 10.1.0.1 . 80 }", "set \"backends4\""),
    ("add table inet portico { flags dormant; }", "flags"),
    ("delete table inet portico; add table inet portico", "comment is \"\""),
    ("delete table inet portico; add table inet portico { comment \"portico layout 0\"; }", "layout 0"),
    (
        "delete table inet portico; add table inet portico { comment \"portico layout 99, nat priority -99, relay port 1\"; }",
        "layout 99",
    ),
];

#[test]
fn drift_of_a_table_is_detected_and_repaired() {
    for (damage, reason) in DAMAGES {
        in_routed_netns(|| {
            apply(&encode_fresh(&portals_ruleset()));
            load(damage);
            match Socket::open().and_then(|socket| socket.read_table()).expect("read the table") {
                TableState::Drifted(why) => assert!(why.contains(reason), "{damage}: {why}"),
                other => panic!("{damage}: {other:?}"),
            }
            apply(&encode_fresh(&portals_ruleset()));
            assert_eq!(current_table(), Table::from(&portals_ruleset()), "{damage}");
        });
    }
}

#[test]
fn added_and_deleted_elements_are_read_back() {
    for damage in [
        "flush map inet portico portals4",
        "delete element inet portico backends4 { 10.96.0.1 . tcp . 80 . 0 }",
        "add element inet portico addresses4 { 10.96.0.9 }",
    ] {
        in_routed_netns(|| {
            apply(&encode_fresh(&portals_ruleset()));
            load(damage);
            assert_ne!(current_table(), Table::from(&portals_ruleset()), "{damage}");
            apply(&encode_fresh(&portals_ruleset()));
            assert_eq!(current_table(), Table::from(&portals_ruleset()), "{damage}");
        });
    }
}

#[test]
fn missing_table_is_read_back_as_absent() {
    in_routed_netns(|| {
        load("add table inet other { chain portals { drop; }; }");
        let find = || Socket::open().and_then(Socket::read_table).expect("read the table");
        assert_eq!(find(), TableState::Missing);
        apply(&encode_fresh(&portals_ruleset()));
        assert_eq!(current_table(), Table::from(&portals_ruleset()));
        apply(&encode_fresh(&Ruleset::empty()));
        assert_eq!(find(), TableState::Missing);
    });
}

#[test]
fn new_table_replaces_any_table_of_its_name() {
    in_routed_netns(|| {
        load(
            "table inet portico { map portals4 { type ipv4_addr : verdict; }; chain output { type filter hook input priority 0; drop; }; }",
        );
        apply(&encode_fresh(&portals_ruleset()));
        let replaced = listing();
        assert_eq!(current_table(), Table::from(&portals_ruleset()));
        let fresh = in_routed_netns(|| {
            apply(&encode(&plan(&Ruleset::empty(), &portals_ruleset())));
            listing()
        });
        assert_eq!(replaced, fresh);
    });
}

#[test]
fn generation_changes_with_every_change_and_only_then() {
    in_routed_netns(|| {
        let socket = Socket::open().expect("open a netfilter socket");
        let generation = || socket.generation().expect("read the generation");
        let empty = generation();
        assert_eq!(generation(), empty);
        socket.apply(&encode_fresh(&portals_ruleset())).expect("apply");
        let own = generation();
        assert_eq!(own, empty + 1, "one transaction");
        Socket::open().and_then(Socket::read_table).expect("read the table");
        assert_eq!(generation(), own, "reading changes nothing");
        load("flush chain inet portico portals");
        assert_ne!(generation(), own);
    });
}

#[test]
fn decoded_batch_has_the_same_bytes() {
    in_routed_netns(|| {
        let batch = Batch::from_bytes(encode_fresh(&portals_ruleset()).as_bytes().to_vec());
        apply(&batch);
        assert_eq!(current_table(), Table::from(&portals_ruleset()));
        let misfit =
            encode(&plan(&ruleset_of([svc("other").ip("10.96.0.9").tcp("", 80).into()]), &portals_ruleset()));
        let misfit = Batch::from_bytes(misfit.as_bytes().to_vec());
        let socket = Socket::open().expect("open a netfilter socket");
        let error = socket.apply(&misfit).expect_err("the batch deletes missing elements");
        assert!(matches!(error, Error::Rejected { op: None, .. }), "{error:?}");
        assert_eq!(current_table(), Table::from(&portals_ruleset()));
    });
}

/// Both ends of a connection through the portal.
struct EstablishedConnection {
    client: TcpStream,
    server: TcpStream,
}

impl EstablishedConnection {
    fn open(listener: &TcpListener) -> Self {
        let client = TcpStream::connect_timeout(&backend("10.96.0.1:80"), REPLY_TIMEOUT).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        Self { client, server }
    }

    /// Asserts that bytes of the client arrive at the server.
    fn exchange(&mut self, text: &[u8; 4]) {
        self.client.write_all(text).expect("write");
        let mut buffer = [0; 4];
        self.server.read_exact(&mut buffer).expect("the bytes arrive");
        assert_eq!(&buffer, text);
    }
}

#[test]
fn established_connection_outlives_the_replacement_of_its_table() {
    in_routed_netns(|| {
        add_address("10.1.0.1");
        let listener = TcpListener::bind("10.1.0.1:8080").expect("listen");
        apply(&encode_fresh(&portals_ruleset()));
        let mut connection = EstablishedConnection::open(&listener);
        connection.exchange(b"one ");
        apply(&encode_fresh(&portals_ruleset()));
        connection.exchange(b"two ");
        let other = Settings { nat_priority: -98, relay_port: 1, on_demand: true, counters: true };
        apply(&encode(&plan(&portals_ruleset(), &Ruleset::new(&portals_of(changes()), other))));
        connection.exchange(b"six ");
        apply(&encode_fresh(&ruleset_of([])));
        connection.exchange(b"ten ");
    });
}

/// Asserts that the backend served every connection, except that at most `refused_max` were refused.
fn assert_served(outcomes: &[io::Result<String>], refused_max: usize) {
    let is_refused = |why: &io::Error| why.kind() == ErrorKind::ConnectionRefused;
    let (mut refused, mut others) = (0, Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(name) if name == "backend" => {}
            Err(why) if is_refused(why) => refused += 1,
            other => others.push(other),
        }
    }
    assert!(others.is_empty(), "{} of {} connections: {others:?}", others.len(), outcomes.len());
    assert!(refused <= refused_max, "{refused} of {} connections were refused", outcomes.len());
}

/// The transaction of an earlier release for the services of `ruleset_of_layout_8`: a table of layout 8.
const LAYOUT_8: &[u8] = include_bytes!("table-of-layout-8.bin");

/// The ruleset of `LAYOUT_8`.
fn ruleset_of_layout_8() -> Ruleset {
    let made = |name: &str| slice(name).tcp("", 8080).at("10.1.0.1");
    ruleset_of([
        Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")]),
        svc("web").ip("10.96.0.1").tcp("", 80).into(),
        made("web").into(),
        svc("sticky").ip("10.96.0.3").tcp("", 80).sticky(60).into(),
        made("sticky").into(),
        svc("relayed").ip("10.96.0.6").tcp("", 80).mode(Mode::Relay).into(),
        made("relayed").into(),
    ])
}

#[test]
fn table_of_layout_8_is_replaced_atomically_and_its_connections_continue() {
    in_routed_netns(|| {
        serve_outside("bypass", "10.96.0.1:80");
        add_address("10.1.0.1");
        let listener = TcpListener::bind("10.1.0.1:8080").expect("listen");
        apply(&Batch::from_bytes(LAYOUT_8.to_vec()));
        let found = Socket::open().and_then(|socket| socket.read_table()).expect("read the table");
        let TableState::Drifted(why) = &found else { panic!("{found:?}") };
        assert!(why.contains("portico layout 8,"), "{why}");
        let mut connection = EstablishedConnection::open(&listener);
        connection.exchange(b"one ");
        thread::spawn(move || {
            for connection in listener.incoming() {
                let _ = connection.and_then(|mut stream| stream.write_all(b"backend"));
            }
        });
        let done = AtomicBool::new(false);
        let mut outcomes = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    apply(&Batch::from_bytes(LAYOUT_8.to_vec()));
                    apply(&encode_fresh(&ruleset_of_layout_8()));
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                outcomes.push(try_backend_of("10.96.0.1:80", REPLY_TIMEOUT));
            }
        });
        // A packet that is between rules of layout 8 while they are replaced is rejected, because this layout lacks the map
        // `current`. No rule of a later layout evaluates that packet.
        assert_served(&outcomes, 1 + outcomes.len() / 50);
        connection.exchange(b"two ");
        assert_eq!(current_table(), Table::from(&ruleset_of_layout_8()));
    });
}

#[test]
fn no_connection_bypasses_a_portal_while_its_table_is_replaced() {
    in_routed_netns(|| {
        serve("backend", "10.1.0.1:8080");
        // A connection that bypasses the portal would arrive here.
        serve_outside("bypass", "10.96.0.1:80");
        let (batch, done) = (encode_fresh(&portals_ruleset()), AtomicBool::new(false));
        apply(&batch);
        let mut outcomes = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                (0..200).for_each(|_| apply(&batch));
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                outcomes.push(try_backend_of("10.96.0.1:80", REPLY_TIMEOUT));
            }
        });
        assert_served(&outcomes, 0);
    });
}

//! Following the addresses of a node, in a network namespace whose addresses change.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use node_agent::node_portals::node_addresses::{NODE_ADDRESSES_MAX, follow_addresses};
use proxy_core::sample::ip;
use test_support::namespace::{in_new_netns, run};
use tokio::sync::oneshot;

/// The time in which node ports must follow a change of the node's addresses.
const LATENCY_MAX: Duration = Duration::from_millis(100);
/// The time after which a test fails. A busy machine can delay one change, but not most of them.
const DEADLINE: Duration = Duration::from_secs(30);
const CHANGES: u8 = 11;

/// Follows the addresses of this network namespace on another thread while `body` runs. Before it sends addresses, the
/// thread waits as long as `gate` is locked.
fn with_address_watch(gate: &Mutex<()>, body: impl FnOnce(&Receiver<BTreeSet<IpAddr>>)) {
    let (stop, stopped) = oneshot::channel::<()>();
    let (sender, receiver) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let send = |addresses| {
                    let _sent = sender.send(addresses);
                    drop(gate.lock().expect("the gate"));
                };
                tokio::select! {
                    never = follow_addresses(send) => match never {},
                    _ = stopped => {}
                }
            });
        });
        // Dropped at the end of `body`, also if it panics.
        let _stop = stop;
        body(&receiver);
    });
}

/// Waits until the last addresses are these.
fn await_addresses(receiver: &Receiver<BTreeSet<IpAddr>>, expected: &BTreeSet<IpAddr>) {
    let deadline = Instant::now() + DEADLINE;
    let mut last = None;
    while last.as_ref() != Some(expected) {
        let left = deadline.saturating_duration_since(Instant::now());
        last = Some(receiver.recv_timeout(left).unwrap_or_else(|error| {
            panic!("{error}: {:?} instead of {:?} addresses", last.map(|last| last.len()), expected.len())
        }));
    }
}

/// Returns the loopback addresses and these.
fn with_loopback(addresses: impl IntoIterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    ["127.0.0.1", "::1"].map(ip).into_iter().chain(addresses).collect()
}

fn new_node(body: impl FnOnce() + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        body();
    });
}

/// Adds or removes many addresses of `lo` at once.
fn change_addresses(verb: &str, addresses: impl IntoIterator<Item = IpAddr>) {
    let lines = addresses.into_iter().map(|address| format!("address {verb} {address}/32 dev lo\n"));
    run("ip", &["-batch", "-"], &lines.collect::<String>());
}

fn numbered_addresses(count: u32) -> impl Iterator<Item = IpAddr> {
    (1..=count).map(|number| std::net::Ipv4Addr::from_bits(0x0a64_0000 + number).into())
}

#[test]
fn added_and_removed_addresses_are_followed_within_100_ms() {
    new_node(|| {
        with_address_watch(&Mutex::default(), |receiver| {
            await_addresses(receiver, &with_loopback([]));
            let mut latencies = Vec::new();
            for number in 1..=CHANGES {
                for (address, length) in [(format!("192.0.2.{number}"), 32), (format!("fd00::{number}"), 128)]
                {
                    for (verb, expected) in [("add", vec![ip(&address)]), ("del", vec![])] {
                        let option: &[&str] = if verb == "add" && length == 128 { &["nodad"] } else { &[] };
                        let prefix = format!("{address}/{length}");
                        run("ip", &[&["address", verb, &prefix, "dev", "lo"], option].concat(), "");
                        let changed_at = Instant::now();
                        await_addresses(receiver, &with_loopback(expected));
                        latencies.push(changed_at.elapsed());
                    }
                }
            }
            latencies.sort_unstable();
            let median = latencies[latencies.len() / 2];
            assert!(median < LATENCY_MAX, "{latencies:?}");
        });
    });
}

#[test]
fn addresses_of_a_removed_link_are_removed() {
    new_node(|| {
        run("ip", &["link", "add", "outer", "type", "veth", "peer", "name", "inner"], "");
        // Without link-local addresses, which the kernel adds later.
        for link in ["outer", "inner"] {
            run("ip", &["link", "set", link, "addrgenmode", "none"], "");
        }
        run("ip", &["address", "add", "192.0.2.1/24", "dev", "outer"], "");
        run("ip", &["address", "add", "fd00::1/64", "dev", "outer", "nodad"], "");
        with_address_watch(&Mutex::default(), |receiver| {
            await_addresses(receiver, &with_loopback(["192.0.2.1", "fd00::1"].map(ip)));
            run("ip", &["link", "del", "outer"], "");
            await_addresses(receiver, &with_loopback([]));
        });
    });
}

#[test]
fn interface_of_kube_proxys_ipvs_mode_has_no_addresses_of_the_node() {
    new_node(|| {
        run("ip", &["link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"], "");
        run("ip", &["address", "add", "10.96.0.1/32", "dev", "kube-ipvs0"], "");
        run("ip", &["address", "add", "192.0.2.1/32", "dev", "other"], "");
        with_address_watch(&Mutex::default(), |receiver| {
            await_addresses(receiver, &with_loopback([ip("192.0.2.1")]));
        });
    });
}

#[test]
fn addresses_are_complete_after_notifications_were_lost() {
    new_node(|| {
        let gate = Mutex::default();
        with_address_watch(&gate, |receiver| {
            // While the gate is locked, the watching thread does not read its socket, until that is full.
            let locked = gate.lock().expect("the gate");
            await_addresses(receiver, &with_loopback([]));
            change_addresses("add", numbered_addresses(3_000));
            change_addresses("del", numbered_addresses(1_000));
            assert!(lost_notifications() > 0, "the socket did not overflow");
            drop(locked);
            await_addresses(receiver, &with_loopback(numbered_addresses(3_000).skip(1_000)));
            // Later changes are followed as before.
            change_addresses("del", numbered_addresses(3_000).skip(1_000));
            await_addresses(receiver, &with_loopback([]));
        });
    });
}

/// The number of messages that netlink sockets of this network namespace lost.
fn lost_notifications() -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/netlink").expect("the netlink sockets");
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let header = lines.next().expect("a header");
    let column = header.iter().position(|name| *name == "Drops").expect("a column of drops");
    lines.map(|line| line[column].parse::<u64>().expect("a number")).sum()
}

#[test]
fn addresses_beyond_the_limit_are_ignored() {
    new_node(|| {
        let limit = u32::try_from(NODE_ADDRESSES_MAX).expect("a small number");
        change_addresses("add", numbered_addresses(limit + 100));
        with_address_watch(&Mutex::default(), |receiver| {
            let found = receiver.recv_timeout(DEADLINE).expect("addresses");
            assert_eq!(found.len(), NODE_ADDRESSES_MAX);
            // Removed addresses make room for ignored ones, so all of the others are found.
            change_addresses("del", numbered_addresses(200));
            await_addresses(receiver, &with_loopback(numbered_addresses(limit + 100).skip(200)));
        });
    });
}

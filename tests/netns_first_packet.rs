//! What the first packet of a connection costs, by layout of the rules; later packets never see them.
//!
//! One datagram of a new flow is sent to a portal whose backend is in the same network namespace, and
//! only the `send` is timed. The layouts take turns in each round, so that what disturbs the machine
//! disturbs all. Ours is `Ruleset` as `nft` text; the peers are one rule for each backend count (the
//! other way to keep verdicts out of big maps) and the classic form of iptables.
//!
//! Needs a network namespace of its own: `scripts/bench` makes one.

// A benchmark's report is its output.
#![allow(clippy::print_stdout)]

#[path = "netns/namespace.rs"]
#[allow(dead_code)]
mod namespace;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Instant;

use namespace::{load, run, within};
use netns_nft::{Socket, encode};
use proxy_core::address::Family;
use proxy_core::iptables::Iptables;
use proxy_core::plan::plan;
use proxy_core::portal::{Portals, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{slice, snapshot, standpoint, svc};
use proxy_core::snapshot::Change;

const PORTALS: u32 = 2_000;
/// Backend counts in use, from 1 up; the measured portal has the highest.
const COUNTS: [u32; 3] = [1, 3, 50];
const PORT: u16 = 9_000;

/// A way to write the same portals.
#[derive(Clone, Copy)]
enum Layout {
    None,
    Flat,
    Netlink,
    RulePerCount,
    Classic,
}

const LAYOUTS: [(Layout, &str); 5] = [
    (Layout::None, "no rules, straight to the backend"),
    (Layout::Flat, "portico: one data map, then one small verdict map"),
    (Layout::Netlink, "portico: the same by netlink, without the mark"),
    (Layout::RulePerCount, "one rule for each backend count"),
    (Layout::Classic, "iptables: one rule for each portal, the last of them"),
];

fn main() {
    let quick = std::env::var_os("PORTICO_BENCH_QUICK").is_some();
    let (rounds, flows) = if quick { (3, 500) } else { (9, 3_000) };
    println!("first packet of a connection: {PORTALS} portals, {rounds} rounds of {flows} flows each, in us");
    println!(
        "{:<55} {:>6} {:>8} {:>8} {:>8} {:>8}",
        "layout", "counts", "median", "lowest", "highest", "p99"
    );
    for counts in COUNTS {
        let mut medians = [const { Vec::new() }; LAYOUTS.len()];
        let mut tails = [const { Vec::new() }; LAYOUTS.len()];
        for _ in 0..rounds {
            for (index, (layout, _)) in LAYOUTS.iter().enumerate() {
                let times = within(|| measure(*layout, counts, flows));
                medians[index].push(times[times.len() / 2]);
                tails[index].push(times[times.len() * 99 / 100]);
            }
        }
        for (index, (_, name)) in LAYOUTS.iter().enumerate() {
            let (medians, tails) = (&mut medians[index], &mut tails[index]);
            medians.sort_by(f64::total_cmp);
            tails.sort_by(f64::total_cmp);
            let (median, tail) = (medians[rounds / 2], tails[rounds / 2]);
            let (lowest, highest) = (medians[0], medians[rounds - 1]);
            println!("{name:<55} {counts:>6} {median:>8.2} {lowest:>8.2} {highest:>8.2} {tail:>8.2}");
        }
    }
}

/// The times of the first packets of so many flows, sorted, in microseconds.
fn measure(layout: Layout, counts: u32, flows: usize) -> Vec<f64> {
    // The whole net is local, so one server answers for all backends.
    run("ip", &["route", "add", "local", "10.1.0.0/16", "dev", "lo"], "");
    let portals = world(counts);
    match layout {
        Layout::None => {}
        Layout::Flat => load(&Ruleset::new(&portals, Settings::default()).to_string()),
        Layout::Netlink => {
            let batch = encode(&plan(&Ruleset::empty(), &Ruleset::new(&portals, Settings::default())));
            Socket::open().and_then(|socket| socket.apply(&batch)).expect("apply");
        }
        Layout::RulePerCount => load(&rule_per_count(&portals, counts)),
        Layout::Classic => {
            run("iptables-restore", &[], &Iptables { portals: &portals, family: Family::V4 }.to_string());
        }
    }
    let target = match layout {
        Layout::None => format!("10.1.0.1:{PORT}"),
        _ => format!("{}:80", address(PORTALS - 1)),
    };
    let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("bind the backend");
    let mut buffer = [0; 8];
    let mut times: Vec<f64> = (0..flows)
        .map(|_| {
            let client = UdpSocket::bind("10.200.0.1:0").expect("bind a client");
            client.connect(&target).expect("connect");
            let start = Instant::now();
            client.send(b"x").expect("send");
            let took = start.elapsed();
            server.recv(&mut buffer).expect("it arrives");
            took.as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn address(index: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a60_0001 + index))
}

/// Portals with 1 to `counts` backends in turn; the last has `counts`.
fn world(counts: u32) -> Portals {
    let changes = (0..PORTALS).flat_map(|index| {
        let count = counts - (PORTALS - 1 - index) % counts;
        let name = format!("svc-{index}");
        let service = svc(&name).ip(&address(index).to_string()).udp("", 80);
        let backends = (1..=count).map(|number| Ipv4Addr::from(0x0a01_0000 + number).to_string());
        let made = backends.fold(slice(&name).udp("", PORT), |made, address| made.at(&address));
        [Change::Service(service), Change::Slice(made)]
    });
    portals(&snapshot(changes), &standpoint())
}

/// The peer: the count is folded into the slot, and each count has its rule, which a portal of another
/// count misses.
fn rule_per_count(portals: &Portals, counts: u32) -> String {
    let key = "ip daddr . meta l4proto . th dport";
    let mut elements = Vec::new();
    for portal in portals.iter() {
        let folded = portal.backends.len() << 16;
        for (slot, backend) in portal.backends.iter().enumerate() {
            let (address, slot) = (portal.key.address, folded + slot);
            elements.push(format!("{address} . udp . 80 . {slot} : {} . {}", backend.ip(), backend.port()));
        }
    }
    let rules: String = (1..=counts).fold(String::new(), |rules, count| {
        let slot = format!("numgen random mod {count} offset {}", count << 16);
        rules + &format!("  meta l4proto {{ tcp, udp, sctp }} dnat ip to {key} . {slot} map @backends\n")
    });
    format!(
        "table inet peer {{\n map backends {{\n  typeof {key} . numgen random mod 65536 : ip daddr . th dport\n  \
         elements = {{ {} }}\n }}\n chain output {{\n  type nat hook output priority -99\n{rules} }}\n}}\n",
        elements.join(", ")
    )
}

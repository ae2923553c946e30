//! The cost of the first packet of a connection for several layouts of the rules. Later packets are not evaluated by
//! rules.
//!
//! One datagram of a new flow is sent to a portal whose backend is in the same network namespace, and only the `send` is
//! timed. The layouts take turns in each round, so that disturbances affect all. Portico's layout is `Ruleset`; the
//! peers are one rule for each backend count (the alternative without verdicts in big maps), kube-proxy's nftables mode
//! and the classic form of iptables.
//!
//! It needs its own network namespace, which `scripts/bench` creates.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Instant;

use crate::kube_proxy::kube_proxy_shape;
use bench_report::{Sheet, Spread, is_quick};
use netns_nft::{Socket, encode};
use proxy_core::address::Family;
use proxy_core::iptables::Iptables;
use proxy_core::plan::plan;
use proxy_core::portal::{Portals, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{node_context, slice, snapshot, svc};
use proxy_core::snapshot::Change;
use test_support::namespace::{in_routed_netns, load, run};

/// The highest backend counts, and the number of portals. The measured portal has the highest count.
const COUNTS: [u32; 3] = [1, 3, 50];
const PORTALS: u32 = 2_000;
/// The numbers of portals, and the number of backends of each.
const SIZES: [u32; 3] = [100, 1_000, 10_000];
const BACKENDS: u32 = 3;
const PORT: u16 = 9_000;

/// A layout of rules for the same portals.
#[derive(Clone, Copy)]
enum Layout {
    None,
    Flat,
    Netlink,
    RulePerCount,
    KubeProxy,
    Classic,
}

const NONE: (Layout, &str) = (Layout::None, "straight, no rules");
const TEXT: (Layout, &str) = (Layout::Flat, "portico, as text");
const NETLINK: (Layout, &str) = (Layout::Netlink, "portico");
const PER_COUNT: (Layout, &str) = (Layout::RulePerCount, "one rule for each backend count");
const KUBE_PROXY: (Layout, &str) = (Layout::KubeProxy, "kube-proxy's shape");
const CLASSIC: (Layout, &str) = (Layout::Classic, "iptables, the last of its rules");

pub(crate) fn bench() {
    let sheet = Sheet::open("first_packet");
    let title = format!("First packet by backend counts in use, {PORTALS} portals");
    let table = sheet.scale("counts", &title, "us", "counts");
    for counts in if is_quick() { &COUNTS[..2] } else { &COUNTS } {
        for (name, spread) in measure_layouts(&[NONE, TEXT, NETLINK, PER_COUNT, CLASSIC], PORTALS, *counts) {
            table.put(name, *counts, &spread, &[]);
        }
    }
    let title = "First packet of a connection by portals, three backends each";
    let table = sheet.scale("portals", title, "us", "portals");
    for size in if is_quick() { &SIZES[..2] } else { &SIZES } {
        for (name, spread) in measure_layouts(&[NONE, NETLINK, KUBE_PROXY, CLASSIC], *size, BACKENDS) {
            table.put(name, *size, &spread, &[]);
        }
    }
}

/// Returns the medians of the rounds of each layout.
fn measure_layouts<'a>(layouts: &[(Layout, &'a str)], size: u32, counts: u32) -> Vec<(&'a str, Spread)> {
    let (rounds, flows) = if is_quick() { (3, 300) } else { (7, 3_000) };
    let portals = udp_portals(size, counts);
    let median =
        |(layout, _): &(Layout, _)| in_routed_netns(|| measure(*layout, &portals, counts, flows)).median;
    let medians = Spread::in_turns(rounds, layouts, median);
    layouts.iter().map(|(_, name)| *name).zip(medians).collect()
}

/// Measures the time of the first packet of each flow to the last portal, in microseconds.
fn measure(layout: Layout, portals: &Portals, counts: u32, flows: usize) -> Spread {
    // All addresses of the network are local, so one server receives the packets for all backends.
    run("ip", &["route", "add", "local", "10.1.0.0/16", "dev", "lo"], "");
    match layout {
        Layout::None => {}
        Layout::Flat => load(&Ruleset::new(portals, Settings::default()).to_string()),
        Layout::Netlink => {
            let batch = encode(&plan(&Ruleset::empty(), &Ruleset::new(portals, Settings::default())));
            Socket::open().and_then(|socket| socket.apply(&batch)).expect("apply");
        }
        Layout::RulePerCount => load(&rule_per_count(portals, counts)),
        Layout::KubeProxy => load(&kube_proxy_shape(portals)),
        Layout::Classic => {
            run("iptables-restore", &[], &Iptables { portals, family: Family::V4 }.to_string());
        }
    }
    let target = match layout {
        Layout::None => format!("10.1.0.1:{PORT}"),
        _ => format!("{}:80", portals.iter().map(|portal| portal.key.address).max().expect("portals")),
    };
    let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("bind the backend");
    let mut buffer = [0; 8];
    let times = (0..flows)
        .map(|_| {
            let client = UdpSocket::bind("10.200.0.1:0").expect("bind a client");
            client.connect(&target).expect("connect");
            let start = Instant::now();
            client.send(b"x").expect("send");
            let took = start.elapsed();
            server.recv(&mut buffer).expect("receive the datagram");
            took.as_secs_f64() * 1e6
        })
        .collect();
    Spread::of(times)
}

fn address(index: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a60_0001 + index))
}

/// Returns `size` portals with 1 to `counts` backends in turn; the last has `counts`.
fn udp_portals(size: u32, counts: u32) -> Portals {
    let changes = (0..size).flat_map(|index| {
        let count = counts - (size - 1 - index) % counts;
        let name = format!("svc-{index}");
        let service = svc(&name).ip(&address(index).to_string()).udp("", 80);
        let backends = (1..=count).map(|number| Ipv4Addr::from(0x0a01_0000 + number).to_string());
        let slice = backends.fold(slice(&name).udp("", PORT), |slice, address| slice.at(&address));
        [Change::Service(service), Change::Slice(slice)]
    });
    portals(&snapshot(changes), &node_context())
}

/// The peer with one rule for each backend count. The count is a part of the slot, so a portal of another count does not
/// match the rule.
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

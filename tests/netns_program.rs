//! What it costs to program a network namespace, and to change one endpoint in it.
//!
//! 10,000 services with three endpoints each (fewer with `PORTICO_BENCH_QUICK`). The peer is kube-proxy's
//! shape, a chain and an anonymous map for each service, through `nft -f` as kube-proxy does it; and our
//! own flat maps through `nft -f`, which tells what the layout and what the way is worth. Rounds take turns.

// A benchmark's report is its output.
#![allow(clippy::print_stdout)]

#[path = "netns/kube_proxy.rs"]
mod kube_proxy;
#[path = "netns/namespace.rs"]
#[allow(dead_code)]
mod namespace;
#[path = "netns/times.rs"]
mod times;

use std::time::Instant;

use kube_proxy::{kube_proxy_change, kube_proxy_shape};
use namespace::{load, within};
use netns_nft::{Socket, encode};
use proxy_core::plan::{plan, plan_touched};
use proxy_core::portal::{Portals, Standpoint, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{cluster, cluster_slice};
use proxy_core::snapshot::{Change, Snapshot};
use times::report;

const ENDPOINTS: u32 = 3;

fn main() {
    let quick = std::env::var_os("PORTICO_BENCH_QUICK").is_some();
    let (services, rounds, changes) = if quick { (1_000, 2, 50) } else { (10_000, 5, 500) };
    let snapshot: Snapshot = cluster(services, ENDPOINTS).collect();
    let portals = portals(&snapshot, &Standpoint::default());
    let ruleset = Ruleset::new(&portals, Settings::default());
    let peer = kube_proxy_shape(&portals);

    println!("program an empty namespace: {services} services x {ENDPOINTS}, {rounds} rounds, in ms");
    let (mut netlink, mut text, mut chains) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        netlink.push(within(|| {
            let start = Instant::now();
            let batch = encode(&plan(&Ruleset::empty(), &ruleset));
            Socket::open().and_then(|socket| socket.apply(&batch)).expect("apply");
            start.elapsed().as_secs_f64() * 1e3
        }));
        text.push(within(|| timed_load(&ruleset.to_string())));
        if round < 2 {
            chains.push(within(|| timed_load(&peer))); // seconds each
        }
    }
    report("portico: plan, encode, one netlink transaction", &mut netlink);
    report("portico: the same maps through nft -f", &mut text);
    report("peer: chain and anonymous map per service, nft -f", &mut chains);

    println!("\none changed endpoint of {services} services, from the change to the commit, in ms");
    let mut netlink = within(|| changed_endpoints(&snapshot, &portals, &ruleset, services, changes));
    report("portico: change, plan, encode, commit", &mut netlink);
    let mut chains = within(|| {
        load(&peer);
        (0..rounds).map(|round| timed_load(&kube_proxy_change(&portals, round))).collect::<Vec<f64>>()
    });
    report("peer: one service changed, nft -f", &mut chains);
}

fn timed_load(text: &str) -> f64 {
    let start = Instant::now();
    load(text);
    start.elapsed().as_secs_f64() * 1e3
}

fn changed_endpoints(
    snapshot: &Snapshot,
    portals: &Portals,
    ruleset: &Ruleset,
    services: u32,
    changes: u32,
) -> Vec<f64> {
    let socket = Socket::open().expect("open a netfilter socket");
    socket.apply(&encode(&plan(&Ruleset::empty(), ruleset))).expect("apply");
    let (mut snapshot, mut portals, mut applied) = (snapshot.clone(), portals.clone(), ruleset.clone());
    let one = |number: u32| {
        let change = Change::Slice(cluster_slice(number * 7_919 % services, ENDPOINTS, 1 + number % 2));
        let start = Instant::now();
        let changed = snapshot.apply(change);
        let touched = portals.refresh(&snapshot, &Standpoint::default(), &changed);
        let mut desired = applied.clone();
        desired.refresh(&portals, &touched);
        socket.apply(&encode(&plan_touched(&applied, &desired, &touched))).expect("apply");
        applied = desired;
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..changes).map(one).collect()
}

//! What portals on demand cost: to attach a pod, and in the kernel's memory.
//!
//! The real program on API server doubles: one cluster of 10 services and one of 10,000 (fewer with
//! `PORTICO_BENCH_QUICK`), on demand and with full tables; the agents take turns. Memory is what the kernel's
//! slabs grow by, as in `netns_path`: an empty table, one with 20 of all services used, a full one.

// A benchmark's report is its output.
#![allow(clippy::print_stdout)]

#[path = "netns/agent.rs"]
#[allow(dead_code)]
mod agent;
#[path = "apiserver/api.rs"]
#[allow(dead_code)]
mod apiserver;
#[path = "netns/namespace.rs"]
#[allow(dead_code)]
mod namespace;
#[path = "netns/pod.rs"]
#[allow(dead_code)]
mod pod;
#[path = "netns/slabs.rs"]
mod slabs;
#[path = "netns/times.rs"]
mod times;
#[path = "netns/world.rs"]
#[allow(dead_code)]
mod world;

use std::time::Instant;

use agent::{Agent, Folder};
use apiserver::Api;
use namespace::{bare, run};
use pod::Pod;
use proxy_core::portal::{Standpoint, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{cluster, cluster_ip};
use proxy_core::snapshot::{Change, Snapshot};
use slabs::Grown;
use times::report;
use world::{service, slice};

/// Where the services of both worlds are.
const RANGE: &str = "10.96.0.0/12";
const FEW: usize = 10;
/// How many services a pod uses.
const USED: u32 = 20;

fn main() {
    let is_quick = std::env::var_os("PORTICO_BENCH_QUICK").is_some();
    let (services, pods, rounds) = if is_quick { (1_000, 10, 2) } else { (10_000, 100, 10) };
    bare(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        memory(u32::try_from(services).expect("a few thousand"), rounds);
        attach(services, pods);
    });
}

fn memory(services: u32, rounds: usize) {
    let range = Change::ServiceRanges(vec![RANGE.parse().expect("a network")]);
    let snapshot: Snapshot = cluster(services, 3).chain([range]).collect();
    let portals = portals(&snapshot, &Standpoint::default());
    let on_demand = Settings { on_demand: true, ..Settings::default() };
    let (empty, full) = (Ruleset::new(&portals, on_demand), Ruleset::new(&portals, Settings::default()));
    let mut used = empty.clone();
    (0..USED).for_each(|number| drop(used.want(&portals, cluster_ip(number * services / USED))));
    println!("kernel memory of a network namespace with {services} services x 3, {rounds} rounds, in KB");
    let mut grown = Grown::default();
    let nothing = Ruleset::new(&Default::default(), Settings::default());
    let (mut bare, mut without, mut with, mut all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(grown.by(10, |pod| pod.change(&Ruleset::empty(), &nothing)));
        without.push(grown.by(10, |pod| pod.change(&Ruleset::empty(), &empty)));
        with.push(grown.by(10, |pod| pod.change(&Ruleset::empty(), &used)));
        all.push(grown.by(1, |pod| pod.change(&Ruleset::empty(), &full)));
    }
    let mut over: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
    report("a full table of no services", &mut bare);
    report("on demand, nothing used", &mut without);
    report(&format!("on demand, {USED} services used"), &mut with);
    report("the same, over nothing used", &mut over);
    report("all portals", &mut all);
}

fn attach(services: usize, pods: usize) {
    let start = |count: usize, portals: &str| {
        let api = Api::double();
        for index in 0..count {
            api.put(service(index));
            api.put(slice(index, 0));
        }
        let folder = Folder::new();
        let kubeconfig = api.kubeconfig().to_str().expect("a path").to_owned();
        let args = ["--kubeconfig", &kubeconfig, "--service-cidr", RANGE, "--portals", portals];
        let agent = Agent::start_with(&folder, &args);
        agent.until("it knows the services", |agent| agent.status()["synced"] == true);
        (api, folder, agent)
    };
    println!("\nattach a pod, the whole exchange with the agent, {pods} pods of each agent in turn, in ms");
    let mut ways = [
        (format!("on demand, {FEW} services"), start(FEW, "on-demand"), Vec::new()),
        (format!("on demand, {services} services"), start(services, "on-demand"), Vec::new()),
        (format!("all portals, {FEW} services"), start(FEW, "all"), Vec::new()),
        (format!("all portals, {services} services"), start(services, "all"), Vec::new()),
    ];
    let mut all = Vec::new();
    for number in 0..pods {
        for (_, (_, _, agent), times) in &mut ways {
            let pod = Pod::new();
            let start = Instant::now();
            agent.attach(&format!("pod-{number}"), &pod);
            times.push(start.elapsed().as_secs_f64() * 1e3);
            // The kernel takes a namespace apart beside us, and that would be measured.
            all.push(pod);
        }
    }
    for (name, _, times) in &mut ways {
        report(name, times);
    }
}

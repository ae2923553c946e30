//! The cost of on-demand portals: the time to attach a pod, and the kernel's memory.
//!
//! The real program on API server doubles: one cluster of 10 services and one of 10,000 (fewer with
//! `PORTICO_BENCH_QUICK`), on demand and with full tables; the agents take turns. Memory is the growth of the kernel's
//! slabs, for an empty table, one with 20 used services, and a full one.

use std::time::Instant;

use crate::cluster_objects::{service, slice};
use crate::kernel_memory::KernelMemory;
use bench_report::{Sheet, Spread, Verdict, is_quick};
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{cluster, cluster_ip};
use proxy_core::snapshot::{Change, Snapshot};
use test_support::agent::{Agent, AgentDir};
use test_support::apiserver::ApiServer;
use test_support::namespace::{in_new_netns, run};
use test_support::pod::Pod;

/// The service range of both clusters.
const RANGE: &str = "10.96.0.0/12";
const FEW: usize = 10;
/// The number of services that a pod uses.
const USED: u32 = 20;

pub(crate) fn bench() {
    let (services, pods, rounds) = if is_quick() { (1_000, 10, 2) } else { (10_000, 100, 10) };
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let sheet = Sheet::open("demand_speed");
        measure_memory(&sheet, u32::try_from(services).expect("a few thousand"), rounds);
        measure_attach(&sheet, services, pods);
    });
}

fn measure_memory(sheet: &Sheet, services: u32, rounds: usize) {
    let range = Change::ServiceRanges(vec![RANGE.parse().expect("a network")]);
    let snapshot: Snapshot = cluster(services, 3).chain([range]).collect();
    let portals = portals(&snapshot, &NodeContext::default());
    let on_demand = Settings { on_demand: true, ..Settings::default() };
    let (empty, full) = (Ruleset::new(&portals, on_demand), Ruleset::new(&portals, Settings::default()));
    let mut used = empty.clone();
    (0..USED).for_each(|number| drop(used.activate(&portals, cluster_ip(number * services / USED))));
    let mut kernel_memory = KernelMemory::default();
    let nothing = Ruleset::new(&Default::default(), Settings::default());
    let kinds = [
        ("a full table of no services".to_owned(), &nothing, 10),
        ("on demand, nothing used".to_owned(), &empty, 10),
        (format!("on demand, {USED} services used"), &used, 10),
        ("all portals".to_owned(), &full, 1),
    ];
    let program = |(_, ruleset, pods): &(String, &Ruleset, u16)| {
        kernel_memory.growth_kb(*pods, |pod| pod.change(&Ruleset::empty(), ruleset))
    };
    let took = Spread::in_turns(rounds, &kinds, program);
    let title = format!("the kernel's memory of a network namespace, {services} services of three endpoints");
    let table = sheet.rows("memory", &title, "KB");
    let over =
        Verdict::at_most("KB over the full table of no services", took[2].median - took[0].median, 30.0);
    for (number, ((name, ..), took)) in kinds.iter().zip(&took).enumerate() {
        table.put(name, took, if number == 2 { std::slice::from_ref(&over) } else { &[] });
    }
}

fn measure_attach(sheet: &Sheet, services: usize, pods: usize) {
    let start = |count: usize, portals: &str| {
        let api = ApiServer::double();
        for index in 0..count {
            api.put(service(index));
            api.put(slice(index, 0));
        }
        let dir = AgentDir::new();
        let kubeconfig = api.kubeconfig().to_str().expect("a path").to_owned();
        let args = ["--kubeconfig", &kubeconfig, "--service-cidr", RANGE, "--portals", portals];
        let bounds = ["--namespace-elements-max", "1000000", "--table-elements-max", "1000000"];
        let agent = Agent::start_with(&dir, &[&args, &bounds[..]].concat());
        agent.wait_until("the agent is synced", |agent| agent.status()["synced"] == true);
        (api, dir, agent)
    };
    let kinds = [(FEW, "on-demand"), (services, "on-demand"), (FEW, "all"), (services, "all")];
    let agents = kinds.map(|(services, portals)| start(services, portals));
    let mut all = Vec::new();
    let took = Spread::in_turns(pods, &agents, |(_, _, agent)| {
        let pod = Pod::new();
        let start = Instant::now();
        agent.attach(&format!("pod-{}", all.len()), &pod);
        let took = start.elapsed().as_secs_f64() * 1e3;
        // Kept, since the deletion of a namespace in the kernel would disturb the measurement.
        all.push(pod);
        took
    });
    let table = sheet.rows("attach", "attach a pod, the whole exchange with the agent", "ms");
    let target = Verdict::at_most(&format!("times that of {FEW} services"), took[1].times(&took[0]), 1.2);
    for (number, ((services, portals), took)) in kinds.iter().zip(&took).enumerate() {
        let name = format!("--portals {portals}, {services} services");
        table.put(&name, took, if number == 1 { std::slice::from_ref(&target) } else { &[] });
    }
}

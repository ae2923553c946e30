//! The cost of node portals: the time to program the node and to change an endpoint, the agent's memory, and the time
//! until a health-check port changes.
//!
//! Services are of type `NodePort` and have three endpoints each. The peer is the real kube-proxy (`kube_proxy_process`),
//! or without it kube-proxy's shape, loaded with `nft -f`. The peer's time of a change includes the API server.

use std::time::Instant;

use crate::cluster_objects::{NODE_ADDRESS, node_port_snapshot};
use crate::kube_proxy::{kube_proxy_change, kube_proxy_shape};
use crate::kube_proxy_process::{KubeProxyFigures, kube_proxy};
use crate::node_agent::NodeAgent;
use bench_report::{Sheet, Spread, Verdict, is_quick};
use netns_nft::{Socket, encode_node_fresh};
use proxy_core::portal::{NodeContext, Place, portals};
use proxy_core::ruleset::node::{NodeEnvironment, NodeRuleset, NodeSettings};
use proxy_core::sample::{ip, node_context};
use test_support::namespace::{add_address, in_new_netns, load, run};

const ENDPOINTS: u32 = 3;

/// The size of a run.
struct Size {
    services: usize,
    services_max: usize,
    pods: usize,
    changes: usize,
    rounds: usize,
    peer_changes: usize,
}

/// What the real agent does.
struct AgentFigures {
    program: Spread,
    /// The changes with `services` and with `services_max`.
    changes: [Spread; 2],
    attach: Spread,
    resident: Spread,
    peak: Spread,
    health_check: Spread,
}

pub(crate) fn bench() {
    let size = if is_quick() {
        Size { services: 1_000, services_max: 2_000, pods: 10, changes: 20, rounds: 2, peer_changes: 2 }
    } else {
        Size { services: 10_000, services_max: 50_000, pods: 100, changes: 300, rounds: 5, peer_changes: 7 }
    };
    let core = program_times(&size);
    let agent = agent_figures(&size);
    let peer = in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        add_address(NODE_ADDRESS);
        kube_proxy(size.services, size.peer_changes)
    });
    let sheet = Sheet::open("node_speed");
    put_program(&sheet, &size, &core, &agent, peer.as_ref());
    put_changes(&sheet, &size, &agent, peer.as_ref());
    put_memory(&sheet, &size, &agent, peer.as_ref());
    let title = format!("pods of a node with node portals, {} services", size.services);
    let row = "attach a pod, all portals: the whole exchange with the agent";
    sheet.rows("attach", &title, "ms").put(row, &agent.attach, &[]);
    let table = sheet.rows("health_check", "an endpoint changes at the API server", "ms");
    let target = Verdict::at_most("ms", agent.health_check.median, 5.0);
    table.put("until the health-check port of its service answers otherwise", &agent.health_check, &[target]);
}

fn node_table_context() -> NodeContext {
    NodeContext { place: Place::Node, ..node_context() }
}

fn to_u32(number: usize) -> u32 {
    number.try_into().expect("a small number")
}

/// Measures the way from the snapshot to the commit in this process.
fn program_times(size: &Size) -> Spread {
    let snapshot = node_port_snapshot(to_u32(size.services), ENDPOINTS);
    let environment = NodeEnvironment {
        addresses: std::collections::BTreeSet::from([ip(NODE_ADDRESS)]).into(),
        ..NodeEnvironment::default()
    };
    let program = || {
        let start = Instant::now();
        let portals = portals(&snapshot, &node_table_context());
        let ruleset = NodeRuleset::new(&portals, NodeSettings::default(), environment.clone());
        let batch = encode_node_fresh(&ruleset);
        Socket::open().and_then(|socket| socket.apply(&batch)).expect("apply");
        start.elapsed().as_secs_f64() * 1e3
    };
    Spread::of((0..size.rounds).map(|_| in_new_netns(program)).collect())
}

fn agent_figures(size: &Size) -> AgentFigures {
    let measure = || {
        let mut agent = NodeAgent::start(size.services);
        let mut program = vec![agent.program_time()];
        while program.len() < size.rounds {
            agent = agent.start_from_nothing();
            program.push(agent.program_time());
        }
        let few = agent.change_times(0..size.changes);
        let health_check = agent.health_check_times(size.changes);
        let attach = agent.attach_times(size.pods);
        agent.change_times(size.changes..2 * size.changes);
        let [resident, peak] = ["VmRSS:", "VmHWM:"].map(|key| agent.memory(key));
        (Spread::of(program), few, health_check, attach, resident, peak)
    };
    let (program, few, health_check, attach, resident, peak) = in_new_netns(measure);
    let many = in_new_netns(|| NodeAgent::start(size.services_max).change_times(0..size.changes));
    AgentFigures { program, changes: [few, many], attach, resident, peak, health_check }
}

fn put_program(
    sheet: &Sheet,
    size: &Size,
    core: &Spread,
    agent: &AgentFigures,
    peer: Option<&KubeProxyFigures>,
) {
    let title = format!("program the node, {} services with node ports, three endpoints each", size.services);
    let table = sheet.rows("program", &title, "ms");
    table.put(
        "portico, from the snapshot to the commit",
        core,
        &[Verdict::at_most("ms", core.median, 200.0)],
    );
    let target = Verdict::at_most("ms", agent.program.median, 200.0);
    table.put("the agent, from the complete lists to the commit", &agent.program, &[target]);
    match peer {
        Some(peer) => table.put("peer: kube-proxy, its first sync", &peer.program, &[]),
        None => {
            let shape = with_shape(size, |shape, _| {
                let start = Instant::now();
                load(shape);
                vec![start.elapsed().as_secs_f64() * 1e3]
            });
            table.put("peer: kube-proxy's shape", &shape, &[]);
        }
    }
}

fn put_changes(sheet: &Sheet, size: &Size, agent: &AgentFigures, peer: Option<&KubeProxyFigures>) {
    let table = sheet.rows("change", "one changed endpoint of a service with a node port", "ms");
    for (services, changes) in [size.services, size.services_max].into_iter().zip(&agent.changes) {
        let targets =
            [Verdict::at_most("p50, ms", changes.median, 1.0), Verdict::at_most("p99, ms", changes.p99, 3.0)];
        let row = format!("the agent, from the event to the commit, {services} services");
        table.put(&row, changes, &targets);
    }
    let services = size.services;
    match peer {
        Some(peer) => {
            let row = format!("peer: kube-proxy, from the API server to the commit, {services} services");
            table.put(&row, &peer.change, &[]);
        }
        None => {
            let shape = with_shape(size, |shape, portals| {
                load(shape);
                let change = |round| {
                    let start = Instant::now();
                    load(&kube_proxy_change(portals, round));
                    start.elapsed().as_secs_f64() * 1e3
                };
                (0..size.peer_changes).map(change).collect()
            });
            table.put(&format!("peer: kube-proxy's shape, {services} services"), &shape, &[]);
        }
    }
}

fn put_memory(sheet: &Sheet, size: &Size, agent: &AgentFigures, peer: Option<&KubeProxyFigures>) {
    let title = format!("memory, {} services with node ports, three endpoints each", size.services);
    let table = sheet.rows("memory", &title, "MB");
    let pods = size.pods;
    table.put(&format!("the agent, resident, node and {pods} pods"), &agent.resident, &[]);
    let target = Verdict::at_most("MB", agent.peak.median, 60.0);
    table.put("the agent, peak", &agent.peak, &[target]);
    if let Some(peer) = peer {
        table.put("peer: kube-proxy, resident, node", &peer.resident, &[]);
        table.put("peer: kube-proxy, peak", &peer.peak, &[]);
    }
}

/// Measures kube-proxy's shape in a new network namespace.
fn with_shape(
    size: &Size,
    measure: impl FnOnce(&str, &proxy_core::portal::Portals) -> Vec<f64> + Send,
) -> Spread {
    let portals = portals(&node_port_snapshot(to_u32(size.services), ENDPOINTS), &node_table_context());
    let shape = kube_proxy_shape(&portals);
    Spread::of(in_new_netns(|| measure(&shape, &portals)))
}

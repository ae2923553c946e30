//! The cost of the agent: its memory, and the time from a change at the API server until all pods are programmed.
//!
//! The real program on an API server double with 10,000 services of three endpoints each, and 100 attached
//! network namespaces (fewer with `PORTICO_BENCH_QUICK`). A change is one endpoint of one service. It is applied once
//! the generation of the namespace's rules has changed. There is no peer, since kube-proxy programs one namespace;
//! `program` measures its shape there.

use std::time::{Duration, Instant};

use crate::cluster_objects::{service, slice};
use bench_report::{Sheet, Spread, Verdict, is_quick};
use netns_nft::Socket;
use test_support::agent::{Agent, AgentDir};
use test_support::apiserver::ApiServer;
use test_support::namespace::{in_new_netns, run};
use test_support::pod::Pod;
use test_support::proc_memory::proc_memory_kb;

/// The pause between two changes, so that each begins a new burst.
const PAUSE: Duration = Duration::from_millis(30);

pub(crate) fn bench() {
    let (services, pods, changes) = if is_quick() { (1_000, 10, 20) } else { (10_000, 100, 200) };
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let api = ApiServer::double();
        for index in 0..services {
            api.put(service(index));
            api.put(slice(index, 0));
        }
        let dir = AgentDir::new();
        let start = Instant::now();
        let kubeconfig = api.kubeconfig().to_str().expect("a path").to_owned();
        let bounds = ["--namespace-elements-max", "1000000", "--table-elements-max", "1000000"];
        let args = ["--kubeconfig", &kubeconfig, "--portals", "all"];
        let agent = Agent::start_with(&dir, &[&args, &bounds[..]].concat());
        agent.wait_until("the agent is synced", |agent| agent.status()["synced"] == true);
        let synced = Spread::one(start.elapsed().as_secs_f64() * 1e3);
        let empty = memory_mb(agent.pid(), "VmRSS:");
        let mut attached_pods = vec![AttachedPod::attach(&agent, 0)];
        let alone = change_times(&api, &attached_pods, services, 0..changes);
        let one = |number| {
            let start = Instant::now();
            attached_pods.push(AttachedPod::attach(&agent, number));
            start.elapsed().as_secs_f64() * 1e3
        };
        let attached = Spread::of((1..pods).map(one).collect());
        let together = change_times(&api, &attached_pods, services, changes..2 * changes);

        let sheet = Sheet::open("agent_speed");
        let table = sheet.rows("time", &format!("the agent, {services} services of three endpoints"), "ms");
        let target = Verdict::at_most("p50, ms", alone.median, 1.0);
        table.put("from a change at the API server to the commit, 1 network namespace", &alone, &[target]);
        let target = Verdict::at_most("p99, ms", together.p99, 30.0);
        table.put(
            &format!("the same, until all {pods} network namespaces are programmed"),
            &together,
            &[target],
        );
        table.put("attach a pod, all portals: the whole exchange with the agent", &attached, &[]);
        table.put("from its start to its initial sync", &synced, &[]);
        let table = sheet.rows("memory", "memory of that agent", "MB");
        table.put("resident, no pods", &empty, &[]);
        let [resident, most] = ["VmRSS:", "VmHWM:"].map(|key| memory_mb(agent.pid(), key));
        let target = Verdict::at_most("MB", most.median, 60.0);
        table.put(
            &format!("resident, {pods} network namespaces, {} changes later", 2 * changes),
            &resident,
            &[],
        );
        table.put("peak", &most, &[target]);
    });
}

/// A pod and a socket in it.
pub(crate) struct AttachedPod {
    _pod: Pod,
    socket: Socket,
}

impl AttachedPod {
    pub(crate) fn attach(agent: &Agent, number: usize) -> Self {
        let pod = Pod::new();
        let socket = pod.netns.socket().expect("a socket");
        agent.attach(&format!("pod-{number}"), &pod);
        Self { _pod: pod, socket }
    }

    fn generation(&self) -> u32 {
        self.socket.generation().expect("a generation")
    }
}

fn change_times(
    api: &ApiServer,
    pods: &[AttachedPod],
    services: usize,
    changes: std::ops::Range<usize>,
) -> Spread {
    let one = |number| {
        let before: Vec<u32> = pods.iter().map(AttachedPod::generation).collect();
        let changed = slice(number * 7_919 % services, number + 1);
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        api.put(changed);
        for (member, before) in pods.iter().zip(before) {
            while member.generation() == before {
                assert!(start.elapsed() < Duration::from_secs(10), "the change was not applied");
                std::thread::yield_now();
            }
        }
        start.elapsed().as_secs_f64() * 1e3
    };
    Spread::of(changes.map(one).collect())
}

/// Reads a figure for the memory of a process, in MB.
pub(crate) fn memory_mb(pid: u32, key: &str) -> Spread {
    Spread::one(proc_memory_kb(&format!("/proc/{pid}/status"), key) / 1024.0)
}

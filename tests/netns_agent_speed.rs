//! What the agent costs: its memory, and the time from a change at the API server to the kernels of all pods.
//!
//! The real program on an API server double with 10,000 services of three endpoints each, and 100 attached
//! network namespaces (fewer with `PORTICO_BENCH_QUICK`). A change is one endpoint of one service; it has
//! arrived where the generation of a namespace's rules has moved on. There is no peer that does this:
//! kube-proxy programs one namespace, and `program` measures its shape there.

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
#[path = "netns/times.rs"]
mod times;
#[path = "netns/world.rs"]
mod world;

use std::time::{Duration, Instant};

use agent::{Agent, Folder};
use apiserver::Api;
use namespace::{bare, run};
use netns_nft::Socket;
use pod::Pod;
use times::report;
use world::{service, slice};

/// Between two changes, so that each is the first of its burst.
const PAUSE: Duration = Duration::from_millis(30);

fn main() {
    let is_quick = std::env::var_os("PORTICO_BENCH_QUICK").is_some();
    let (services, pods, changes) = if is_quick { (1_000, 10, 20) } else { (10_000, 100, 200) };
    bare(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let api = Api::double();
        for index in 0..services {
            api.put(service(index));
            api.put(slice(index, 0));
        }
        let folder = Folder::new();
        let start = Instant::now();
        let kubeconfig = api.kubeconfig().to_str().expect("a path").to_owned();
        let agent = Agent::start_with(&folder, &["--kubeconfig", &kubeconfig, "--portals", "all"]);
        agent.until("it knows the services", |agent| agent.status()["synced"] == true);
        println!(
            "agent: {services} services x 3, from its start to the first complete state: {:.1} s",
            start.elapsed().as_secs_f64()
        );
        println!("memory without pods: {}", memory(&agent));

        let first = Member::attach(&agent, 0);
        println!("\none changed endpoint, from the API server to the commit, 1 network namespace, in ms");
        measure(&api, std::slice::from_ref(&first), services, 0..changes);

        let mut members = vec![first];
        let mut times = Vec::new();
        for number in 1..pods {
            let start = Instant::now();
            members.push(Member::attach(&agent, number));
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        println!("\nattach a pod, {services} services, the whole exchange with the agent, in ms");
        report("portico", &mut times);
        println!("memory with {pods} network namespaces: {}", memory(&agent));

        println!("\nthe same change, until the last of {pods} network namespaces has it, in ms");
        measure(&api, &members, services, changes..2 * changes);
        println!("memory afterwards: {}", memory(&agent));
    });
}

/// A pod and a socket in it.
struct Member {
    _pod: Pod,
    socket: Socket,
}

impl Member {
    fn attach(agent: &Agent, number: usize) -> Self {
        let pod = Pod::new();
        let socket = pod.netns.socket().expect("a socket");
        agent.attach(&format!("pod-{number}"), &pod);
        Self { _pod: pod, socket }
    }

    fn generation(&self) -> u32 {
        self.socket.generation().expect("a generation")
    }
}

fn measure(api: &Api, members: &[Member], services: usize, changes: std::ops::Range<usize>) {
    let mut times = Vec::new();
    for number in changes {
        let before: Vec<u32> = members.iter().map(Member::generation).collect();
        let changed = slice(number * 7_919 % services, number + 1);
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        api.put(changed);
        for (member, before) in members.iter().zip(before) {
            while member.generation() == before {
                assert!(start.elapsed() < Duration::from_secs(10), "the change never came");
                std::thread::yield_now();
            }
        }
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    report("portico", &mut times);
}

fn memory(agent: &Agent) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("its status");
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
    };
    format!("{:.1} MB resident, {:.1} MB at most", of("VmRSS:"), of("VmHWM:"))
}

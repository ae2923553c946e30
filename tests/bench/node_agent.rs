//! The real agent with node portals, on an API server double: what `node_speed` measures.
//!
//! The agent itself records the time from the event to the acknowledgement of the kernel. The difference of the sum of
//! these times before and after a change is the time of that change.

use std::thread;
use std::time::{Duration, Instant};

use crate::agent_speed::{AttachedPod, memory_mb};
use crate::cluster_objects::{NODE, NODE_ADDRESS, node, node_port_service, slice};
use crate::http_status::status;
use bench_report::Spread;
use netns_nft::{NODE_TABLE, Socket};
use serde_json::{Value, json};
use test_support::agent::{Agent, AgentDir};
use test_support::apiserver::ApiServer;
use test_support::eventually::{Wait, eventually};
use test_support::namespace::{add_address, run};

/// The pause between two changes, so that each begins a new burst.
const PAUSE: Duration = Duration::from_millis(30);
/// Programming many services takes long on a busy machine.
const PROGRAM: Wait = Wait { timeout: TIMEOUT, ..Wait::DEFAULT };
const TIMEOUT: Duration = Duration::from_secs(180);
const HEALTH_CHECK_PORT: u16 = 9_000;

/// An agent that serves node ports of many services.
pub(crate) struct NodeAgent {
    api: ApiServer,
    services: usize,
    agent: Agent,
    dir: AgentDir,
    socket: Socket,
    pods: Vec<AttachedPod>,
}

impl NodeAgent {
    /// Starts an API server and the agent in this network namespace, and waits until the node is programmed.
    pub(crate) fn start(services: usize) -> Self {
        run("ip", &["link", "set", "lo", "up"], "");
        add_address(NODE_ADDRESS);
        let api = ApiServer::double();
        api.put(node());
        for index in 0..services {
            api.put(node_port_service(index));
            api.put(slice(index, 0));
        }
        let dir = AgentDir::new();
        let agent = start_agent(&api, &dir);
        Self { api, services, agent, dir, socket: Socket::open().expect("a socket"), pods: Vec::new() }
    }

    /// Starts the agent again on a node without the table.
    pub(crate) fn start_from_nothing(self) -> Self {
        let Self { api, services, agent, dir, socket, pods } = self;
        agent.kill();
        run("nft", &["delete", "table", "inet", NODE_TABLE], "");
        let agent = start_agent(&api, &dir);
        Self { api, services, agent, dir, socket, pods }
    }

    /// The time from the complete lists to the commit, in ms.
    pub(crate) fn program_time(&self) -> f64 {
        let ApplyDurations { count, seconds } = ApplyDurations::of(&self.agent);
        assert_eq!(count, 1, "the agent programs the node once");
        seconds * 1e3
    }

    /// Changes an endpoint of each of these services, and returns the times from the event to the commit, in ms.
    pub(crate) fn change_times(&self, numbers: std::ops::Range<usize>) -> Spread {
        Spread::of(numbers.map(|number| self.change_time(number)).collect())
    }

    fn change_time(&self, number: usize) -> f64 {
        let (before, generation) = (ApplyDurations::of(&self.agent), self.generation());
        thread::sleep(PAUSE);
        self.api.put(slice(number * 7_919 % self.services, number + 1));
        let start = Instant::now();
        while self.generation() == generation {
            assert!(start.elapsed() < TIMEOUT, "the change was not applied");
            thread::sleep(Duration::from_millis(1));
        }
        self.agent.wait_until("the change is in the status", |agent| {
            let after = ApplyDurations::of(agent);
            let count = after.count.checked_sub(before.count).filter(|count| *count > 0)?;
            Some((after.seconds - before.seconds) * 1e3 / f64::from(count))
        })
    }

    fn generation(&self) -> u32 {
        self.socket.generation().expect("a generation")
    }

    /// Attaches this number of pods, and returns the times of the whole exchange, in ms.
    pub(crate) fn attach_times(&mut self, pods: usize) -> Spread {
        let one = |number| {
            let start = Instant::now();
            self.pods.push(AttachedPod::attach(&self.agent, number));
            start.elapsed().as_secs_f64() * 1e3
        };
        Spread::of((0..pods).map(one).collect())
    }

    /// Reads a figure for the agent's memory, in MB.
    pub(crate) fn memory(&self, key: &str) -> Spread {
        memory_mb(self.agent.pid(), key)
    }

    /// The times from a change of the only endpoint on this node to the first other answer of the health-check port,
    /// in ms.
    pub(crate) fn health_check_times(&self, flips: usize) -> Spread {
        self.api.put(health_checked_service());
        self.api.put(local_slice(false));
        eventually("the health-check port is served", || status(HEALTH_CHECK_PORT) == Some(503));
        let one = |number| {
            let is_ready = number % 2 == 0;
            thread::sleep(PAUSE);
            let start = Instant::now();
            self.api.put(local_slice(is_ready));
            let expected = Some(if is_ready { 200 } else { 503 });
            while status(HEALTH_CHECK_PORT) != expected {
                assert!(start.elapsed() < TIMEOUT, "the health-check port did not change");
            }
            start.elapsed().as_secs_f64() * 1e3
        };
        Spread::of((0..flips).map(one).collect())
    }
}

fn start_agent(api: &ApiServer, dir: &AgentDir) -> Agent {
    let kubeconfig = api.kubeconfig().to_str().expect("a path");
    let args = ["--kubeconfig", kubeconfig, "--node", NODE, "--portals", "all"];
    let node = ["--node-portals", "--cluster-cidr", "10.128.0.0/9"];
    let bounds = ["--namespace-elements-max", "1000000", "--table-elements-max", "1000000"];
    let agent = Agent::start_with(dir, &[&args, &node[..], &bounds[..]].concat());
    PROGRAM.until("the node is programmed", || node_report(&agent)["programmed"] == true);
    agent
}

fn node_report(agent: &Agent) -> Value {
    agent.status()["nodePortals"].clone()
}

/// The number of applied changes, and the sum of their times.
struct ApplyDurations {
    count: u32,
    seconds: f64,
}

impl ApplyDurations {
    fn of(agent: &Agent) -> Self {
        let duration = &node_report(agent)["applyDurationSeconds"];
        let count = duration["count"].as_u64().and_then(|count| count.try_into().ok());
        Self { count: count.expect("a number"), seconds: duration["sum"].as_f64().expect("a number") }
    }
}

fn health_checked_service() -> Value {
    json!({"kind": "Service", "metadata": {"name": "checked", "namespace": "default"}, "spec": {
        "type": "LoadBalancer", "clusterIP": "10.0.250.1", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": HEALTH_CHECK_PORT,
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 9_001}]}})
}

fn local_slice(is_ready: bool) -> Value {
    json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "checked-a", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "checked"}},
        "endpoints": [{"addresses": ["10.250.0.1"], "nodeName": NODE, "conditions": {"ready": is_ready}}],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

//! Concurrent changes: the real plugin attaches and detaches pods, services change continuously, and the agent is
//! killed repeatedly. Afterwards all pods are up to date, nothing is left over, and no connection was interrupted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kube_source::{ReadOptions, Source};
use netns_nft::TableState;
use proxy_core::kernel_model::Table;
use proxy_core::portal::{NodeContext, PortalKey, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::backend;
use serde_json::json;
use test_support::agent::{Agent, AgentDir};
use test_support::backend_server::REPLY_TIMEOUT;
use test_support::namespace::{add_address, in_new_netns, run};
use test_support::pod::Pod;
use test_support::program::program;

/// The number of pods that are attached.
const ATTACHMENTS: usize = 200;
/// The number of pods that exist at the same time.
const ALIVE: usize = 20;
/// The agent is killed each time after this number of attachments.
const KILL_EVERY: usize = 25;
/// The number of pods that exist for the whole test and exchange messages.
const TALKERS: usize = 3;
const SERVICES: usize = 40;

/// All services at a step. The first one always leads to the talker's own server.
fn manifest_at(step: usize) -> String {
    let mut items = Vec::new();
    for service in 0..SERVICES {
        let name = format!("s{service}");
        items.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": format!("10.96.0.{}", service + 1), "ports": [
                {"name": "tcp", "port": 80, "targetPort": 8080},
                {"name": "udp", "port": 53, "targetPort": 5353, "protocol": "UDP"}]}}));
        let count = if service == 0 { 1 } else { (step + service) % 4 };
        let of = |index| {
            if service == 0 { "10.1.0.1".to_owned() } else { format!("10.{}.{service}.{index}", step % 7) }
        };
        let endpoints: Vec<_> = (0..count).map(|index| json!({"addresses": [of(index)]})).collect();
        items.push(
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "tcp", "port": 8080}, {"name": "udp", "port": 5353, "protocol": "UDP"}],
            "endpoints": endpoints}),
        );
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Runs the real plugin like a runtime.
fn run_plugin(dir: &AgentDir, verb: &str, name: &str, pod: Option<&Pod>) {
    let conf = json!({"cniVersion": "1.0.0", "name": "net", "type": "portico-cni", "socket": dir.socket(),
        "stateDir": dir.state(), "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "lo"}], "ips": []}});
    let netns = pod.map(Pod::path).unwrap_or_default();
    let mut child = Command::new(program("portico-cni"))
        .env_clear()
        .envs([
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", name),
            ("CNI_IFNAME", "lo"),
            ("CNI_PATH", "/opt/cni/bin"),
        ])
        .env("CNI_NETNS", netns)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the plugin");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(conf.to_string().as_bytes())
        .expect("write the configuration");
    let output = child.wait_with_output().expect("wait for the plugin");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{verb} {name}: {stdout}");
}

/// A pod that exchanges messages with its own server over one connection through the first portal.
struct LongConnection {
    pod: Pod,
    client: TcpStream,
    server: TcpStream,
}

impl LongConnection {
    fn new(dir: &AgentDir, name: &str) -> Self {
        let pod = Pod::new();
        run_plugin(dir, "ADD", name, Some(&pod));
        let (client, server) = pod.within(|| {
            add_address("10.1.0.1");
            run("ip", &["route", "add", "default", "dev", "lo"], "");
            let listener = TcpListener::bind("10.1.0.1:8080").expect("listen");
            let client =
                TcpStream::connect_timeout(&backend("10.96.0.1:80"), REPLY_TIMEOUT).expect("connect");
            (client, listener.accept().expect("accept").0)
        });
        client.set_write_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        Self { pod, client, server }
    }

    fn exchange(&mut self, step: usize) {
        let words = step.to_ne_bytes();
        self.client.write_all(&words).expect("the connection is open");
        let mut received = [0; size_of::<usize>()];
        self.server.read_exact(&mut received).expect("the connection is open");
        assert_eq!(received, words);
    }
}

/// Returns the action and the backends of each portal, without the slots.
fn actions_and_backends(table: &Table) -> BTreeMap<PortalKey, (String, BTreeSet<SocketAddr>)> {
    let mut meaning: BTreeMap<_, _> =
        table.portals.iter().map(|(key, pick)| (*key, (pick.to_string(), BTreeSet::new()))).collect();
    for ((key, _), to) in &table.backends {
        meaning.entry(*key).or_default().1.insert(*to);
    }
    meaning
}

fn expected_portals(dir: &AgentDir) -> BTreeMap<PortalKey, (String, BTreeSet<SocketAddr>)> {
    let (objects, report) = kube_source::read(&[Source::Path(dir.manifests())], &ReadOptions::default());
    assert!(!report.has_errors());
    let portals = portals(&objects.into_snapshot(), &NodeContext::default());
    actions_and_backends(&Table::from(&Ruleset::new(&portals, Settings::default())))
}

fn open_descriptors(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("its descriptors").count()
}

/// Attaches and detaches pods while the agent is killed repeatedly and the connections exchange messages.
fn attach_and_detach_pods(
    dir: &AgentDir,
    first: Agent,
    connections: &mut [LongConnection],
) -> (Agent, VecDeque<(String, Pod)>) {
    let mut agent = Some(first);
    let mut alive: VecDeque<(String, Pod)> = VecDeque::new();
    for number in 0..ATTACHMENTS {
        let (name, pod) = (format!("pod-{number}"), Pod::new());
        run_plugin(dir, "ADD", &name, Some(&pod));
        alive.push_back((name, pod));
        if alive.len() > ALIVE {
            let (name, pod) = alive.pop_front().expect("more than ALIVE pods");
            // For every third pod the runtime no longer knows the network namespace.
            run_plugin(dir, "DEL", &name, (number % 3 > 0).then_some(&pod));
        }
        if number % KILL_EVERY == KILL_EVERY - 1 {
            agent.take().expect("an agent").kill();
            // This pod starts without an agent.
            let (name, pod) = (format!("no-agent-{number}"), Pod::new());
            run_plugin(dir, "ADD", &name, Some(&pod));
            alive.push_back((name, pod));
            agent = Some(start_agent(dir));
        }
        connections.iter_mut().for_each(|talker| talker.exchange(number));
    }
    (agent.expect("an agent"), alive)
}

fn start_agent(dir: &AgentDir) -> Agent {
    Agent::start(dir, &["--audit-interval", "1"])
}

/// Changes the services at the rate of a busy cluster until the test ends.
fn change_services(dir: &AgentDir, is_over: &AtomicBool) {
    for step in 1.. {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        dir.write_manifest("world.json", &manifest_at(step));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn churn_leaves_running_pods_up_to_date_and_nothing_else() {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("world.json", &manifest_at(0));
        let agent = start_agent(&dir);
        agent.wait_until_converged(1);
        let empty = open_descriptors(&agent);
        let mut connections: Vec<LongConnection> =
            (0..TALKERS).map(|number| LongConnection::new(&dir, &format!("talker-{number}"))).collect();
        let is_over = AtomicBool::new(false);
        let (agent, mut alive) = thread::scope(|scope| {
            scope.spawn(|| change_services(&dir, &is_over));
            let done = attach_and_detach_pods(&dir, agent, &mut connections);
            is_over.store(true, Ordering::Relaxed);
            done
        });
        let wanted = expected_portals(&dir);
        let count = alive.len() + TALKERS;
        let holds = |pod: &Pod| match pod.netns.socket().and_then(|socket| socket.read_table()) {
            Ok(TableState::Intact(table)) => actions_and_backends(&table) == wanted,
            _ => false,
        };
        agent.wait_until("every running pod is attached and up to date", |agent| {
            agent.status()["attachments"].as_array().map(Vec::len) == Some(count)
                && alive.iter().all(|(_, pod)| holds(pod))
                && connections.iter().all(|talker| holds(&talker.pod))
        });
        agent.wait_until_converged(1);
        connections.iter_mut().for_each(|talker| talker.exchange(ATTACHMENTS));
        let records = || fs::read_dir(dir.state().join("attachments")).expect("the records").count();
        assert_eq!(records(), count, "one record per attachment");
        for (name, pod) in alive.drain(..) {
            run_plugin(&dir, "DEL", &name, Some(&pod));
        }
        for number in 0..TALKERS {
            run_plugin(&dir, "DEL", &format!("talker-{number}"), None);
        }
        assert_eq!(records(), 0);
        agent.wait_until("no network namespace is open", |agent| open_descriptors(agent) <= empty);
    });
}

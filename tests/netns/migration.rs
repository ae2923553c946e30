//! A node moves from kube-proxy to Portico and back, as the agent follows the label and the requests of its node.

use std::fmt;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};
use test_support::agent::{Agent, AgentDir};
use test_support::backend_server::{REPLY_TIMEOUT, backend_of, try_backend_of};
use test_support::namespace::run;
use test_support::program::program;

use crate::migration_peer::{DNS_IP, ECHO_IP, PeerProxy, ProxyMode, WEB_IP, has_kube_proxy_rules};
use crate::node_agent::{NODE_PORT, Objects, node_report};
use crate::node_faults::{count_broken, open_connections, serve_echo};
use crate::node_network::{NODE, NodeNetwork, REMOTE_POD, on_node, serve_datagrams};
use crate::node_upgrade::{Load, StopOnDrop, THREADS};

const LONG_CONNECTIONS: usize = 200;
/// The number of connections between two steps.
pub(crate) const BETWEEN_STEPS: usize = 1_000;
const UDP_NODE_PORT: u16 = 30_082;
pub(crate) const FLAGS: [&str; 5] = ["--node", "n1", "--node-portals=label", "--cluster-cidr", "10.1.0.0/16"];

/// The node object with its label and the requests of `portico migrate`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NodeState<'a> {
    pub(crate) label: &'a str,
    pub(crate) verification: &'a str,
    pub(crate) rule_removal: &'a str,
}

impl fmt::Display for NodeState<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, verification, rule_removal } = self;
        let object = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "labels": {"portico.dev/service-proxy": label}, "annotations": {
                "portico.dev/verify-node": verification, "portico.dev/remove-kube-proxy-rules": rule_removal}},
            "status": {"addresses": [{"type": "InternalIP", "address": NODE[0]}]}});
        object.fmt(f)
    }
}

/// The services that the recorded rules of kube-proxy contain.
pub(crate) fn services() -> [(&'static str, String); 3] {
    let service = |name, ip: &str, protocol, port, target| {
        let ports = json!([{"port": 80, "nodePort": port, "protocol": protocol}]);
        let spec = json!({"type": "NodePort", "clusterIP": ip, "ports": ports});
        let endpoints = [(REMOTE_POD[0], "n2")];
        Objects { name, spec, protocol, port: target, endpoints: &endpoints }.to_string()
    };
    [
        ("web.json", service("web", WEB_IP, "TCP", NODE_PORT, 8080)),
        ("echo.json", service("echo", ECHO_IP, "TCP", 30_081, 9090)),
        ("dns.json", service("dns", DNS_IP, "UDP", UDP_NODE_PORT, 5353)),
    ]
}

/// Runs `body` on a node with these services, which has the label of kube-proxy.
pub(crate) fn with_services(body: impl FnOnce(&NodeNetwork, &AgentDir) + Send) {
    on_node(|network| {
        network.remote.within(|| {
            serve_echo(REMOTE_POD[0], 9090);
            serve_datagrams("dns", &REMOTE_POD[..1], 5353);
        });
        run("ip", &["route", "add", "10.0.5.0/24", "dev", "to-outside", "src", NODE[0]], "");
        let folder = AgentDir::new();
        services().iter().for_each(|(name, text)| folder.write_manifest(name, text));
        set_node(&folder, NodeState { label: "kube-proxy", ..NodeState::default() });
        body(network, &folder);
    });
}

pub(crate) fn set_node(folder: &AgentDir, state: NodeState<'_>) {
    folder.write_manifest("node.json", &state.to_string());
}

pub(crate) fn start_agent(folder: &AgentDir) -> Agent {
    Agent::start(folder, &[&FLAGS[..], &["--take-over"]].concat())
}

pub(crate) fn migration(agent: &Agent) -> Value {
    node_report(agent)["migration"].clone()
}

pub(crate) fn until_kube_proxy_is_synced(agent: &Agent) {
    agent.wait_until("kube-proxy is synced", |agent| migration(agent)["kubeProxy"]["synced"] == true);
}

pub(crate) fn tables() -> String {
    run("nft", &["list", "tables"], "")
}

/// Sends a datagram from outside, over a socket that stays open and over a new one, until the load is over.
fn exchange_datagrams(is_over: &AtomicBool, count: &AtomicUsize, failures: &Mutex<Vec<String>>) {
    let open = || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a timeout");
        socket.connect((NODE[0], UDP_NODE_PORT)).expect("connect");
        socket
    };
    let lasting = open();
    while !is_over.load(Relaxed) {
        for socket in [&lasting, &open()] {
            let reply = socket.send(b"ping").and_then(|_| socket.recv(&mut [0; 64]));
            match reply {
                Ok(_) => drop(count.fetch_add(1, Relaxed)),
                Err(error) => failures.lock().expect("no client panics").push(error.to_string()),
            }
        }
        thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Requests a verification, and returns the result.
fn verify(agent: &Agent, folder: &AgentDir, state: NodeState<'_>) -> Value {
    set_node(folder, state);
    let result = |agent: &Agent| migration(agent)["verification"].clone();
    agent.wait_until("the node is verified", |agent| result(agent)["request"] == state.verification);
    result(agent)
}

/// The agent of a node that moves.
struct MovingAgent<'a> {
    folder: &'a AgentDir,
    agent: Option<Agent>,
    /// Whether the agent is killed after each step.
    is_killed: bool,
}

impl MovingAgent<'_> {
    /// Ends a step, and returns the agent for the next one.
    fn next(&mut self, load: &Load) -> &Agent {
        load.advance(BETWEEN_STEPS);
        if self.is_killed {
            self.agent.take().expect("an agent").kill();
            self.agent = Some(start_agent(self.folder));
        }
        self.agent.as_ref().expect("an agent")
    }

    /// Moves the node over and back. `start` starts kube-proxy, whose rules are in the network namespace.
    fn move_over_and_back(&mut self, load: &Load, start: &dyn Fn() -> PeerProxy) {
        let folder = self.folder;
        let kube_proxy = start();
        let agent = self.next(load);
        until_kube_proxy_is_synced(agent);
        assert!(!tables().contains("portico"), "{}", tables());
        let before =
            verify(agent, folder, NodeState { label: "kube-proxy", verification: "1", rule_removal: "" });
        assert_eq!((&before["serving"], before["problem"].is_null()), (&json!(false), true), "{before}");
        let both = verify(agent, folder, NodeState { label: "both", verification: "2", rule_removal: "" });
        assert_eq!((&both["serving"], both["problem"].is_null()), (&json!(true), true), "{both}");
        let connections = both["connections"].as_array().expect("connections").clone();
        assert!(connections.len() >= 4, "{both}");
        for connection in connections {
            assert!(connection["backend"].is_string() && connection["error"].is_null(), "{connection}");
        }
        let agent = self.next(load);
        set_node(folder, NodeState { label: "portico", verification: "2", rule_removal: "3" });
        agent.wait_until("the removal waits for kube-proxy", |agent| {
            let problem = migration(agent)["ruleRemoval"]["problem"].clone();
            problem.as_str().is_some_and(|why| why.contains("kube-proxy runs"))
        });
        assert!(has_kube_proxy_rules());
        kube_proxy.stop();
        agent.wait_until("the rules are removed", |agent| {
            let removal = migration(agent)["ruleRemoval"].clone();
            removal["problem"].is_null() && removal["removed"].as_str().is_some_and(|text| !text.is_empty())
        });
        assert!(!has_kube_proxy_rules(), "{}", run("nft", &["list", "ruleset"], ""));
        let agent = self.next(load);
        set_node(folder, NodeState { label: "both", ..NodeState::default() });
        // kube-proxy's pod is created because of the label.
        agent.wait_until("the agent follows the label", |agent| migration(agent)["label"] == "both");
        let kube_proxy = start();
        until_kube_proxy_is_synced(agent);
        let agent = self.next(load);
        set_node(folder, NodeState { label: "kube-proxy", ..NodeState::default() });
        agent.wait_until("the node's table is removed", |_| !tables().contains("portico-node"));
        agent.wait_until("the agent reports it", |agent| migration(agent)["serving"] == false);
        assert!(!tables().contains("portico-anchor"), "both families have NAT chains of kube-proxy");
        self.next(load);
        kube_proxy.stop();
    }
}

/// Moves a node over and back under load. Returns the load.
pub(crate) fn move_under_load(
    network: &NodeNetwork,
    folder: &AgentDir,
    is_killed: bool,
    start: &dyn Fn() -> PeerProxy,
) -> String {
    drop(start());
    let mut agent = MovingAgent { folder, agent: Some(start_agent(folder)), is_killed };
    under_load(network, |load| agent.move_over_and_back(load, start))
}

/// Runs `body` under load, and verifies that no connection failed and none broke. Returns the load.
pub(crate) fn under_load(network: &NodeNetwork, body: impl FnOnce(&Load)) -> String {
    let mut open = open_connections(network, LONG_CONNECTIONS);
    let load = Load::default();
    let (is_over, datagrams, lost) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| network.outside.within(|| load.run()));
        }
        scope.spawn(|| network.outside.within(|| exchange_datagrams(&is_over, &datagrams, &lost)));
        let running = (StopOnDrop(&load), Ending(&is_over));
        body(&load);
        drop(running);
    });
    let (served, datagrams) = (load.served(), datagrams.load(Relaxed));
    assert_eq!(*load.failures(), [""; 0], "of {served} connections");
    assert_eq!(*lost.lock().expect("no client panics"), [""; 0], "of {datagrams} datagrams");
    assert_eq!(count_broken(&mut open), 0, "of {LONG_CONNECTIONS} connections");
    format!("{served} connections, {datagrams} datagrams, {LONG_CONNECTIONS} long connections")
}

/// Ends the datagrams when it is dropped, also by a failed assertion.
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn node_moves_from_recorded_nftables_rules_and_back_without_a_failure() {
    with_services(|network, folder| {
        println!("{}", move_under_load(network, folder, false, &|| PeerProxy::recorded(ProxyMode::Nftables)));
    });
}

#[test]
fn node_moves_from_recorded_iptables_rules_and_back_without_a_failure() {
    with_services(|network, folder| {
        println!("{}", move_under_load(network, folder, false, &|| PeerProxy::recorded(ProxyMode::Iptables)));
    });
}

#[test]
fn agent_that_is_killed_after_each_step_fails_and_breaks_no_connection() {
    with_services(|network, folder| {
        println!("{}", move_under_load(network, folder, true, &|| PeerProxy::recorded(ProxyMode::Nftables)));
    });
}

#[test]
fn check_names_the_differences_from_the_kube_proxy_on_the_node() {
    with_services(|_, folder| {
        let proxy = PeerProxy::recorded(ProxyMode::Iptables);
        let agent = start_agent(folder);
        agent.wait_until("the agent knows its settings", |agent| {
            node_report(agent)["settings"]["nodePortAddresses"] == json!([NODE[0]])
        });
        let check = || {
            let socket = folder.socket();
            let command = ["check", "--node-portals", "--socket", socket.to_str().expect("a path")];
            let output = Command::new(program("portico")).args(command).output().expect("run portico");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let text = check();
        for expected in [
            "! node port addresses: kube-proxy serves node ports also at",
            "! node ports on localhost: kube-proxy serves node ports at 127.0.0.1",
            "✓ health checks",
            "✓ source addresses: both masquerade",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        proxy.stop();
        let text = check();
        assert!(text.contains(&format!("✓ node port addresses: {}", NODE[0])), "{text}");
    });
}

#[test]
fn node_keeps_its_table_until_another_proxy_serves_it() {
    with_services(|network, folder| {
        set_node(folder, NodeState { label: "portico", ..NodeState::default() });
        let agent = start_agent(folder);
        let portal = format!("{}:{NODE_PORT}", NODE[0]);
        let from_outside = || network.outside.within(|| try_backend_of(&portal, REPLY_TIMEOUT));
        agent.wait_until("the node is served", |_| from_outside().is_ok());
        set_node(folder, NodeState { label: "kube-proxy", ..NodeState::default() });
        let kept = |agent: &Agent| migration(agent)["kept"].as_str().map(str::to_owned);
        agent.wait_until("the status has the reason", |agent| {
            kept(agent).is_some_and(|why| why.contains("no kube-proxy responds"))
        });
        // Also a new agent keeps it, and follows changes.
        drop(agent);
        let agent = start_agent(folder);
        agent.wait_until("the status has the reason", |agent| kept(agent).is_some());
        folder.write_manifest("web.json", &crate::node_agent::service((REMOTE_POD[0], "n2")));
        agent.wait_until("the cluster address is served", |_| {
            try_backend_of("10.96.0.1:80", REPLY_TIMEOUT).is_ok()
        });
        let proxy = PeerProxy::recorded(ProxyMode::Iptables);
        agent.wait_until("the node's table is removed", |_| !tables().contains("portico-node"));
        assert!(backend_of(&format!("{WEB_IP}:80")).starts_with("remote"));
        proxy.stop();
    });
}

#[test]
fn rules_of_the_kubelet_and_of_users_stay_when_those_of_kube_proxy_are_removed() {
    with_services(|_, folder| {
        ProxyMode::Iptables.load_rules();
        run("iptables", &["-t", "nat", "-N", "KUBE-MARK-DROP"], "");
        run("iptables", &["-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "ACCEPT"], "");
        set_node(folder, NodeState { label: "portico", verification: "", rule_removal: "1" });
        let agent = start_agent(folder);
        let removal = |agent: &Agent| migration(agent)["ruleRemoval"].clone();
        agent.wait_until("the rules are removed", |agent| removal(agent)["removed"].is_string());
        agent.wait_until("the status has no rules", |agent| migration(agent)["kubeProxy"]["rules"] == "");
        let left = run("iptables-save", &[], "");
        for rule in ["-A INPUT -j KUBE-FIREWALL", "-N KUBE-MARK-DROP", "192.0.2.0/24"] {
            let chain = rule.replace("-N ", ":");
            assert!(left.contains(&chain), "{rule}: {left}");
        }
        assert!(!has_kube_proxy_rules(), "{left}");
    });
}

#[test]
fn chain_that_a_user_jumps_to_is_an_error_and_nothing_is_removed() {
    with_services(|_, folder| {
        ProxyMode::Iptables.load_rules();
        run("iptables", &["-t", "nat", "-N", "CUSTOM"], "");
        run("iptables", &["-t", "nat", "-A", "CUSTOM", "-j", "KUBE-MARK-MASQ"], "");
        let before = run("iptables-save", &["-t", "nat"], "");
        set_node(folder, NodeState { label: "portico", verification: "", rule_removal: "1" });
        let agent = start_agent(folder);
        agent.wait_until("the status has the reason", |agent| {
            let problem = migration(agent)["ruleRemoval"]["problem"].clone();
            problem.as_str().is_some_and(|why| why.contains("chain CUSTOM of table ip nat"))
        });
        let rules = |text: &str| text.lines().filter(|line| line.starts_with("-A")).count();
        assert_eq!(rules(&run("iptables-save", &["-t", "nat"], "")), rules(&before));
    });
}

//! The agent with node portals: it programs the node, follows its addresses, and recovers its table.

use std::fmt;
use std::process::Command;

use serde_json::{Value, json};
use test_support::agent::{Agent, AgentDir};
use test_support::backend_server::{REPLY_TIMEOUT, backend_of, try_backend_of};
use test_support::namespace::{add_address, run};
use test_support::program::program;

use crate::node_network::{CLUSTER_IP, LOCAL_POD, NODE, NODE_ON_LINK, NodeNetwork, REMOTE_POD, on_node};

pub(crate) const NODE_PORT: u16 = 30_080;
const FLAGS: [&str; 5] = ["--node", "n1", "--node-portals", "--cluster-cidr", "10.1.0.0/16"];

/// The node object.
pub(crate) const NODE_OBJECT: &str = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "status":
    {"addresses": [{"type": "InternalIP", "address": "10.240.0.5"},
        {"type": "InternalIP", "address": "2001:db8:f::5"}]}}"#;

/// A service and its slice of IPv4 endpoints, as a manifest.
pub(crate) struct Objects<'a> {
    pub(crate) name: &'a str,
    pub(crate) spec: Value,
    pub(crate) protocol: &'a str,
    /// The port of the endpoints.
    pub(crate) port: u16,
    /// The addresses of the endpoints, and their nodes.
    pub(crate) endpoints: &'a [(&'a str, &'a str)],
}

impl fmt::Display for Objects<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, spec, protocol, port, endpoints } = self;
        let endpoint = |(address, node): &(&str, &str)| json!({"addresses": [address], "nodeName": node});
        let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
        let mut service =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
        // Only the status has the addresses of a load balancer.
        if let Some(status) = service["spec"].as_object_mut().and_then(|spec| spec.remove("status")) {
            service["status"] = status;
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [service,
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
                "ports": [{"name": "", "protocol": protocol, "port": port}], "endpoints": endpoints}]});
        list.fmt(f)
    }
}

/// A service at 10.96.0.1:80 and the node port 30080 with this endpoint.
pub(crate) fn service(endpoint: (&str, &str)) -> String {
    let spec = json!({"type": "NodePort", "clusterIP": CLUSTER_IP[0],
        "ports": [{"port": 80, "nodePort": NODE_PORT}]});
    Objects { name: "web", spec, protocol: "TCP", port: 8080, endpoints: &[endpoint] }.to_string()
}

/// Runs `body` on a node with a service whose endpoint is the pod on the other node.
pub(crate) fn with_service(body: impl FnOnce(&NodeNetwork, &AgentDir) + Send) {
    on_node(|network| {
        let folder = AgentDir::new();
        folder.write_manifest("node.json", NODE_OBJECT);
        folder.write_manifest("web.json", &service((REMOTE_POD[0], "n2")));
        body(network, &folder);
    });
}

pub(crate) fn node_report(agent: &Agent) -> Value {
    agent.status()["nodePortals"].clone()
}

pub(crate) fn start(folder: &AgentDir, flags: &[&str]) -> Agent {
    let agent = Agent::start(folder, &[&FLAGS, flags].concat());
    agent.wait_until("the node is programmed", |agent| node_report(agent)["programmed"] == true);
    agent
}

pub(crate) fn from_outside(network: &NodeNetwork, address: &str) -> String {
    network.outside.within(|| backend_of(&format!("{address}:{NODE_PORT}")))
}

#[test]
fn agent_serves_node_ports_and_follows_endpoints() {
    with_service(|network, folder| {
        let agent = start(folder, &[]);
        assert_eq!(from_outside(network, NODE[0]), format!("remote {}", NODE_ON_LINK[0]));
        assert_eq!(backend_of("10.96.0.1:80"), format!("remote {}", NODE_ON_LINK[0]));
        folder.write_manifest("web.json", &service((LOCAL_POD[0], "n1")));
        agent.wait_until("the new endpoint is served", |_| {
            from_outside(network, NODE[0]).starts_with("local")
        });
    });
}

#[test]
fn restart_without_changes_writes_nothing() {
    with_service(|network, folder| {
        let flags = ["--nodeport-addresses", "primary,localhost"];
        let agent = start(folder, &flags);
        assert_eq!(node_report(&agent)["applied"], 1);
        drop(agent);
        assert_eq!(from_outside(network, NODE[0]), format!("remote {}", NODE_ON_LINK[0]));
        let agent = start(folder, &flags);
        assert_eq!(node_report(&agent)["applied"], 0, "{}", agent.log());
        assert_eq!(from_outside(network, NODE[0]), format!("remote {}", NODE_ON_LINK[0]));
    });
}

#[test]
fn addresses_that_appear_on_the_node_serve_node_ports() {
    with_service(|network, folder| {
        let agent = start(folder, &["--nodeport-addresses", "all"]);
        add_address("192.0.2.77");
        let served = |agent: &Agent| {
            let report = node_report(agent);
            report["addresses"].as_array().is_some_and(|all| all.contains(&json!("192.0.2.77")))
        };
        agent.wait_until("the new address is served", served);
        assert_eq!(from_outside(network, "192.0.2.77"), format!("remote {}", NODE_ON_LINK[0]));
    });
}

#[test]
fn node_ports_are_served_at_the_loopback_address_on_request() {
    with_service(|_, folder| {
        let agent = start(folder, &["--nodeport-addresses", "primary,localhost"]);
        let portal = format!("127.0.0.1:{NODE_PORT}");
        agent
            .wait_until("the loopback address is served", |_| try_backend_of(&portal, REPLY_TIMEOUT).is_ok());
        assert_eq!(backend_of(&portal), format!("remote {}", NODE_ON_LINK[0]));
        drop(agent);
        // Without an agent there is no listener, but the rules of other addresses stay.
        assert!(try_backend_of(&portal, REPLY_TIMEOUT).is_err());
    });
}

#[test]
fn tables_of_node_portals_are_removed_on_request() {
    with_service(|_, folder| {
        let agent = start(folder, &[]);
        let tables = || run("nft", &["list", "tables"], "");
        agent.wait_until("the anchor table exists", |_| tables().contains("portico-anchor"));
        let (portico, cni) = (program("portico"), folder.join("cni"));
        let cni = cni.to_str().expect("a path");
        let args =
            ["uninstall", "--node-portals", "--cni-bin-dir", cni, "--cni-conf-dir", cni, "--cni-cache", cni];
        let uninstall = || Command::new(&portico).args(args).output().expect("run portico");
        let refused = uninstall();
        assert!(!refused.status.success(), "the agent owns the anchor table");
        assert!(tables().contains("portico-node"));
        drop(agent);
        let removed = uninstall();
        assert!(String::from_utf8_lossy(&removed.stdout).contains("removed"), "{removed:?}");
        assert_eq!(tables().trim(), "");
    });
}

#[test]
fn node_without_a_route_to_the_service_range_gets_one() {
    with_service(|_, folder| {
        run("ip", &["route", "del", "10.96.0.0/16"], "");
        // A route needs an interface, and the address of the node is on one that is not the loopback device.
        run("ip", &["address", "add", "10.240.0.6/32", "dev", "to-outside"], "");
        let address = json!({"type": "InternalIP", "address": "10.240.0.6"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "status": {"addresses": [address]}});
        folder.write_manifest("node.json", &node.to_string());
        let agent = start(folder, &["--service-cidr", "10.96.0.0/16"]);
        agent.wait_until("the node has a route", |_| {
            run("ip", &["route", "show", "10.96.0.0/16"], "").contains("src 10.240.0.6")
        });
        assert_eq!(backend_of("10.96.0.1:80"), format!("remote {}", NODE_ON_LINK[0]));
    });
}

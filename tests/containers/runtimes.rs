//! Real container runtimes with the real plugin and the real agent: the portals of a pod at its start, during its life,
//! and after its end.
//!
//! Each test has its own simulated machine (`Node`). scripts/container-test creates the namespaces around all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::agent::Agent;
use crate::backend::{A, B, C, Conversation, GONE, names};
use crate::containerd::Containerd;
use crate::manifest::{ITSELF, ITSELF6, WEB, WEB6, portal, set_backends, set_own_service, set_zones};
use crate::network::{Master, Network, network};
use crate::node::{CNI_BIN, CNI_CONF, Node, built, on_a_node};
use crate::podman::{PUBLISHED, Podman};
use crate::process::{Process, try_command};
use crate::runtime::{Container, Runtime};
use agent_ipc::ProgrammedBy;
use serde_json::json;
use test_support::eventually::{eventually, eventually_equal};

const MACVLAN: Master = Master::Macvlan;

fn own_name() -> BTreeSet<String> {
    ["itself".to_owned()].into()
}

/// The life of a container: it reaches every backend, follows changes, and leaves nothing.
fn assert_life_cycle(node: &Node, runtime: &dyn Runtime) {
    node.lan.bridge();
    network().configure();
    set_backends(&[A, B]);
    let agent = Agent::start();
    let container = Container::start(runtime, "web", "pods");
    assert_eq!(container.wget(portal(WEB, 80)), names(&[A, B]));
    assert_eq!(agent.wait_until_attached(1)[0]["interface"], "eth0");
    set_backends(&[B, C]);
    eventually_equal("the container follows the backends", &names(&[B, C]), || {
        container.wget(portal(WEB, 80))
    });
    set_backends(&[]);
    let refused = || container.wget(portal(WEB, 80)).iter().any(|answer| answer.contains("refused"));
    eventually_equal("a portal without backends rejects", &true, refused);
    container.remove();
    agent.wait_until_attached(0);
}

#[test]
fn container_of_containerd_follows_the_backends_and_leaves_nothing() {
    on_a_node(|node| assert_life_cycle(node, &Containerd::start()));
}

#[test]
fn container_of_podman_follows_the_backends_and_leaves_nothing() {
    on_a_node(|node| assert_life_cycle(node, &Podman::new()));
}

#[test]
fn earlier_plugins_in_the_chain_work_as_without_portico() {
    on_a_node(|node| {
        node.lan.bridge();
        network().configure();
        set_backends(&[A]);
        let (_agent, podman) = (Agent::start(), Podman::new());
        let container = Container::start(&podman, "web", "pods");
        let published = || {
            let url = format!("http://10.77.0.1:{PUBLISHED}/");
            try_command(
                Command::new("busybox").args(["timeout", "5", "busybox", "wget", "-q", "-O", "-", &url]),
            )
        };
        assert_eq!(published().as_deref(), Ok("itself\n"));
        container.remove();
    });
}

/// Asserts that TCP and UDP reach all backends, and that the pod reaches itself, over these families.
fn assert_every_kind_of_connection(container: &Container<'_>, families: &[[&str; 2]]) {
    let two = names(&[A, B]);
    for [web, own] in families.iter().copied() {
        eventually_equal("TCP reaches each backend", &two, || container.tcp(portal(web, 80)));
        eventually_equal("UDP reaches each backend", &two, || container.udp(portal(web, 53)));
        eventually_equal("the pod reaches itself", &own_name(), || container.wget(portal(own, 80)));
    }
}

const V4: [&str; 2] = [WEB, ITSELF];
const V6: [&str; 2] = [WEB6, ITSELF6];

fn assert_connections_in(network: &Network, families: &[[&str; 2]]) {
    assert_connections_with(network, families, &[]);
}

/// Like `assert_connections_in`, with flags of the agent.
fn assert_connections_with(network: &Network, families: &[[&str; 2]], agent: &[&str]) {
    on_a_node(|node| {
        if network.master == Master::Bridge {
            node.lan.bridge();
        }
        network.configure();
        set_backends(&[A, B]);
        let (agent, podman) = (Agent::start_as(Path::new("/run/portico"), agent), Podman::new());
        let container = Container::start(&podman, "web", "pods");
        let own =
            |has: bool, family, other: &str| if has { container.address(family) } else { other.to_owned() };
        set_own_service(&own(network.is_ipv4, "-4", A.address), &own(network.is_ipv6, "-6", A.address6));
        assert_every_kind_of_connection(&container, families);
        container.remove();
        agent.wait_until_attached(0);
    });
}

#[test]
fn bridged_pod_reaches_services_of_both_families() {
    assert_connections_in(&network(), &[V4, V6]);
}

#[test]
fn bridged_pod_without_a_default_route_reaches_services_of_both_families() {
    assert_connections_in(&Network { has_default_route: false, ..network() }, &[V4, V6]);
}

#[test]
fn macvlan_pod_without_a_default_route_reaches_services_of_both_families() {
    assert_connections_in(&Network { master: MACVLAN, has_default_route: false, ..network() }, &[V4, V6]);
}

#[test]
fn macvlan_pod_with_only_ipv4_reaches_services() {
    let network = Network { master: MACVLAN, has_default_route: false, is_ipv6: false, ..network() };
    assert_connections_in(&network, &[V4]);
}

#[test]
fn macvlan_pod_with_only_ipv6_reaches_services() {
    let network = Network { master: MACVLAN, has_default_route: false, is_ipv4: false, ..network() };
    assert_connections_in(&network, &[V6]);
}

const RELAYED: [&str; 2] = ["--mode", "relay"];
const ON_DEMAND: [&str; 2] = ["--portals", "on-demand"];

#[test]
fn bridged_pod_reaches_services_through_relayed_portals() {
    assert_connections_with(&network(), &[V4, V6], &RELAYED);
}

#[test]
fn macvlan_pod_without_a_default_route_reaches_services_through_relayed_portals() {
    assert_connections_with(
        &Network { master: MACVLAN, has_default_route: false, ..network() },
        &[V4, V6],
        &RELAYED,
    );
}

#[test]
fn macvlan_pod_with_only_ipv4_reaches_services_through_relayed_portals() {
    let network = Network { master: MACVLAN, has_default_route: false, is_ipv6: false, ..network() };
    assert_connections_with(&network, &[V4], &RELAYED);
}

#[test]
fn bridged_pod_reaches_services_through_on_demand_portals() {
    assert_connections_with(&network(), &[V4, V6], &ON_DEMAND);
}

#[test]
fn macvlan_pod_without_a_default_route_reaches_services_through_on_demand_portals() {
    assert_connections_with(
        &Network { master: MACVLAN, has_default_route: false, ..network() },
        &[V4, V6],
        &ON_DEMAND,
    );
}

/// An unmodified client with a dead backend.
fn assert_dead_backend_is_hidden(node: &Node, runtime: &dyn Runtime) {
    node.lan.bridge();
    network().configure();
    set_backends(&[A, GONE, B]);
    let agent = Agent::start_as(Path::new("/run/portico"), &RELAYED);
    let container = Container::start(runtime, "web", "pods");
    for web in [WEB, WEB6] {
        assert_eq!(container.wget(portal(web, 80)), names(&[A, B]));
    }
    container.remove();
    agent.wait_until_attached(0);
}

#[test]
fn client_in_a_container_of_containerd_never_sees_a_dead_backend() {
    on_a_node(|node| assert_dead_backend_is_hidden(node, &Containerd::start()));
}

#[test]
fn client_in_a_container_of_podman_never_sees_a_dead_backend() {
    on_a_node(|node| assert_dead_backend_is_hidden(node, &Podman::new()));
}

#[test]
fn pods_of_two_zones_on_one_machine_reach_only_backends_of_their_zone() {
    on_a_node(|node| {
        node.lan.bridge();
        set_backends(&[A, B]);
        set_zones();
        let agents = [("node-a", 1), ("node-b", 2)].map(|(name, tens)| {
            let dir = format!("/run/{name}");
            let portico = json!({"socket": format!("{dir}/agent.sock"), "stateDir": dir});
            Network { name, tens, portico: Some(portico), ..network() }.configure();
            Agent::start_as(Path::new(&dir), &["--node", name])
        });
        let podman = Podman::new();
        let one = Container::start(&podman, "one", "node-a");
        let other = Container::start(&podman, "other", "node-b");
        assert_eq!((one.wget(portal(WEB, 80)), other.wget(portal(WEB, 80))), (names(&[A]), names(&[B])));
        one.remove();
        other.remove();
        agents.iter().for_each(|agent| drop(agent.wait_until_attached(0)));
    });
}

/// Disconnects a container from the one of its two networks that has the default route. Afterwards `left` attachments
/// remain.
fn assert_network_is_left(node: &Node, is_recovered: bool, left: usize) {
    node.lan.bridge();
    let first = network();
    let second = Network { name: "second", tens: 2, has_default_route: false, ..network() };
    let both = [first, second];
    let without = |network: &Network| Network { portico: None, ..network.clone() };
    both.iter()
        .for_each(|network| if is_recovered { without(network).configure() } else { network.configure() });
    set_backends(&[A, B]);
    let podman = Podman::new();
    let early = is_recovered.then(|| Container::start(&podman, "web", "pods,second"));
    both.iter().for_each(Network::configure);
    let agent = Agent::start();
    let container = early.unwrap_or_else(|| Container::start(&podman, "web", "pods,second"));
    agent.wait_until_attached(2);
    assert_eq!(container.wget(portal(WEB, 80)), names(&[A, B]));
    podman.disconnect("web", "pods");
    agent.wait_until_attached(left);
    set_backends(&[B, C]);
    let reached = || container.wget(portal(WEB, 80));
    eventually_equal("the container follows the backends over the other network", &names(&[B, C]), reached);
    container.remove();
    agent.wait_until_attached(0);
}

#[test]
fn container_on_two_networks_keeps_its_portals_when_it_leaves_one() {
    on_a_node(|node| assert_network_is_left(node, false, 1));
}

#[test]
fn recovered_container_keeps_its_portals_after_an_unreported_disconnect() {
    on_a_node(|node| assert_network_is_left(node, true, 2));
}

#[test]
fn containers_that_start_at_the_same_time_all_have_portals() {
    on_a_node(|node| {
        node.lan.bridge();
        network().configure();
        set_backends(&[A, B]);
        let (agent, podman) = (Agent::start(), &Podman::new());
        let all = ["c1", "c2", "c3", "c4", "c5", "c6"];
        let containers = all.map(|name| Container::new(podman, name));
        thread::scope(|scope| {
            for name in all {
                scope.spawn(move || podman.run(name, "pods").expect("a container"));
            }
        });
        agent.wait_until_attached(containers.len());
        for container in containers {
            assert_eq!(container.tcp(portal(WEB, 80)), names(&[A, B]));
            container.remove();
        }
        agent.wait_until_attached(0);
    });
}

/// A container that was started without a plugin and an agent.
fn assert_recovery(node: &Node, runtime: &dyn Runtime) {
    node.lan.bridge();
    set_backends(&[A, B]);
    Network { portico: None, ..network() }.configure();
    let container = Container::start(runtime, "web", "pods");
    assert_ne!(container.wget(portal(WEB, 80)), names(&[A, B]), "the container has no portals");
    network().configure();
    let agent = Agent::start();
    assert_eq!(agent.wait_until_attached(1)[0]["network"], "pods");
    assert_eq!(container.wget(portal(WEB, 80)), names(&[A, B]));
    set_backends(&[C]);
    eventually_equal("the container follows the backends", &names(&[C]), || container.wget(portal(WEB, 80)));
    container.remove();
    agent.wait_until_attached(0);
}

#[test]
fn container_of_podman_from_before_the_install_is_recovered() {
    on_a_node(|node| assert_recovery(node, &Podman::new()));
}

#[test]
fn recovered_container_that_ends_without_an_agent_is_removed() {
    on_a_node(|node| {
        node.lan.bridge();
        set_backends(&[A]);
        Network { portico: None, ..network() }.configure();
        let podman = Podman::new();
        let container = Container::start(&podman, "web", "pods");
        network().configure();
        let agent = Agent::start();
        agent.wait_until_attached(1);
        agent.kill();
        // Podman removes the container without the plugin, as it was started.
        container.remove();
        Agent::start().wait_until_attached(0);
    });
}

#[test]
fn container_of_containerd_from_before_the_install_is_recovered() {
    on_a_node(|node| assert_recovery(node, &Containerd::start()));
}

/// A container that starts without an agent.
fn assert_start_without_agent(node: &Node, runtime: &dyn Runtime) {
    node.lan.bridge();
    network().configure();
    set_backends(&[A, B]);
    let agent = Agent::start();
    agent.wait_until_stored();
    agent.kill();
    let container = Container::start(runtime, "web", "pods");
    assert_eq!(container.wget(portal(WEB, 80)), names(&[A, B]), "the plugin uses the stored ruleset");
    set_backends(&[B, C]);
    let agent = Agent::start();
    assert_eq!(agent.wait_until_attached(1)[0]["programmedBy"], "plugin");
    eventually_equal("the container follows the backends again", &names(&[B, C]), || {
        container.wget(portal(WEB, 80))
    });
    agent.kill();
    container.remove();
}

#[test]
fn container_of_podman_that_starts_without_an_agent_works_and_is_recovered() {
    on_a_node(|node| assert_start_without_agent(node, &Podman::new()));
}

#[test]
fn container_of_containerd_that_starts_without_an_agent_works_and_is_recovered() {
    on_a_node(|node| assert_start_without_agent(node, &Containerd::start()));
}

#[test]
fn on_agent_down_fail_prevents_the_start_and_leaves_nothing() {
    on_a_node(|node| {
        node.lan.bridge();
        Network { portico: Some(json!({"onAgentDown": "fail"})), ..network() }.configure();
        let podman = Podman::new();
        let why = podman.run("web", "pods").expect_err("no agent");
        assert!(why.contains("no agent is listening on /run/portico/agent.sock"), "{why}");
        podman.remove("web").expect("remove the container");
    });
}

#[test]
fn container_that_started_without_portals_gets_them_from_the_agent() {
    on_a_node(|node| {
        node.lan.bridge();
        Network { portico: Some(json!({"onAgentDown": "ignore"})), ..network() }.configure();
        set_backends(&[A, B]);
        let podman = Podman::new();
        let container = Container::start(&podman, "web", "pods");
        assert!(container.tcp(portal(WEB, 80)).is_disjoint(&names(&[A, B])));
        let agent = Agent::start();
        assert_eq!(agent.wait_until_attached(1)[0]["programmedBy"], json!(ProgrammedBy::NotYet));
        assert_eq!(container.wget(portal(WEB, 80)), names(&[A, B]));
        container.remove();
        agent.wait_until_attached(0);
    });
}

#[test]
fn killed_and_restarted_agent_interrupts_no_connection() {
    on_a_node(|node| {
        node.lan.bridge();
        network().configure();
        set_backends(&[A]);
        let (agent, podman) = (Agent::start(), Podman::new());
        let container = Container::start(&podman, "web", "pods");
        let mut old = container.within(|| Conversation::open(portal(WEB, 80))).expect("a connection");
        assert_eq!(old.ask().expect("a reply"), "a");
        agent.kill();
        assert_eq!(old.ask().expect("a reply without an agent"), "a");
        set_backends(&[B]);
        let agent = Agent::start();
        agent.wait_until_attached(1);
        eventually_equal("new connections follow", &names(&[B]), || container.tcp(portal(WEB, 80)));
        assert_eq!(old.ask().expect("the old connection is open"), "a");
        container.remove();
        agent.wait_until_attached(0);
    });
}

#[test]
fn flushed_tables_of_a_container_are_restored() {
    on_a_node(|node| {
        node.lan.bridge();
        network().configure();
        set_backends(&[A, B]);
        let (agent, podman) = (Agent::start(), Podman::new());
        let container = Container::start(&podman, "web", "pods");
        let mut old = container.within(|| Conversation::open(portal(WEB, 80))).expect("a connection");
        let name = old.ask().expect("a reply");
        container.exec(&["/bin/chroot", "/host", "nft", "flush", "ruleset"]).expect("flush with NET_ADMIN");
        eventually("an audit repairs the table", || {
            let repairs = agent.wait_until_attached(1)[0]["repairs"].clone();
            if repairs == 1 { Ok(()) } else { Err(format!("{repairs} repairs")) }
        });
        assert_eq!(container.wget(portal(WEB, 80)), names(&[A, B]));
        assert_eq!(old.ask().expect("the old connection is open"), name);
        container.remove();
        agent.wait_until_attached(0);
    });
}

fn portico(args: &[&str]) -> Result<String, String> {
    try_command(Command::new(built("portico")).args(args))
}

/// Installs and uninstalls the plugin while containers run.
fn assert_installation(node: &Node, runtime: &dyn Runtime) {
    node.lan.bridge();
    Network { portico: None, ..network() }.configure();
    let plugin = format!("{CNI_BIN}/portico-cni");
    fs::remove_file(&plugin).expect("a node without the plugin");
    let conf = || fs::read_to_string(format!("{CNI_CONF}/pods.conflist")).expect("a configuration");
    let untouched = conf();
    set_backends(&[A, B]);
    let agent = Agent::start();
    let before = Container::start(runtime, "before", "pods");
    portico(&["check"]).expect_err("nothing is installed");
    portico(&["install"]).expect("an installation");
    portico(&["check"]).expect("the installation is complete");
    let web = Container::start(runtime, "web", "pods");
    assert_eq!(web.wget(portal(WEB, 80)), names(&[A, B]));
    agent.wait_until_attached(2);
    assert_eq!(before.wget(portal(WEB, 80)), names(&[A, B]));
    portico(&["uninstall"]).expect("no entry");
    assert_eq!(conf(), untouched);
    let after = Container::start(runtime, "after", "pods");
    assert!(after.wget(portal(WEB, 80)).is_disjoint(&names(&[A, B])));
    let refused = portico(&["uninstall", "--purge"]).expect_err("a running container uses the plugin");
    assert!(refused.contains("/var/lib/cni/results/") && Path::new(&plugin).exists(), "{refused}");
    [before, web, after].into_iter().for_each(Container::remove);
    agent.wait_until_attached(0);
    portico(&["uninstall", "--purge"]).expect("nothing references the plugin");
    assert!(!Path::new(&plugin).exists());
}

#[test]
fn containers_of_podman_have_portals_after_install_and_none_after_uninstall() {
    on_a_node(|node| assert_installation(node, &Podman::new()));
}

#[test]
fn containers_of_containerd_have_portals_after_install_and_none_after_uninstall() {
    on_a_node(|node| assert_installation(node, &Containerd::start()));
}

#[test]
fn entry_dropped_by_another_cni_is_restored_for_the_next_container() {
    on_a_node(|node| {
        node.lan.bridge();
        let other = Network { portico: None, ..network() };
        set_backends(&[A, B]);
        let (agent, podman) = (Agent::start(), Podman::new());
        let mut command = Command::new(built("portico"));
        let _installer = Process::start(command.args(["install", "--watch"]), Path::new("/run/install.log"));
        let is_in = || {
            let conf = fs::read_to_string(format!("{CNI_CONF}/pods.conflist"));
            conf.is_ok_and(|conf| conf.contains("portico-cni"))
        };
        for name in ["one", "two"] {
            other.configure();
            eventually_equal("the entry is added", &true, is_in);
            let container = Container::start(&podman, name, "pods");
            assert_eq!(container.wget(portal(WEB, 80)), names(&[A, B]));
            container.remove();
        }
        agent.wait_until_attached(0);
    });
}

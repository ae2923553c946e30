//! `portico migrate` moves a node under load: the command, an API server, the agent, and a kube-proxy that a controller of
//! DaemonSets starts and stops.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use test_support::agent::{Agent, AgentDir};
use test_support::apiserver::ApiServer;
use test_support::objects::{agent_pod, has_proxy_pod, proxy_daemon_set, proxy_pod};
use test_support::program::program;

use crate::migration::{BETWEEN_STEPS, Ending, FLAGS, services, tables, under_load, with_services};
use crate::migration_peer::{PeerProxy, ProxyMode, has_kube_proxy_rules};
use crate::migration_real::real_api;
use crate::node_network::{NODE, NodeNetwork};
use crate::node_upgrade::Load;

/// The interval at which the controller compares the pods with the node.
const CONTROL_INTERVAL: Duration = Duration::from_millis(50);

/// Creates the node and the services of `migration`.
pub(crate) fn put_objects(api: &ApiServer) {
    api.put(json!({"kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE[0]}]}}));
    for (_, list) in services() {
        let list: Value = serde_json::from_str(&list).expect("a list");
        for object in list["items"].as_array().expect("items") {
            let mut object = object.clone();
            object["metadata"]["namespace"] = "default".into();
            api.put(object);
        }
    }
}

/// Starts and stops kube-proxy on the node as its DaemonSet demands, until the end.
fn control(api: &ApiServer, start: &dyn Fn() -> PeerProxy, is_over: &AtomicBool) {
    let mut kube_proxy = None;
    while !is_over.load(Relaxed) {
        let daemon_set = api.get("DaemonSet", "kube-system", "kube-proxy").expect("the DaemonSet exists");
        let node = api.get("Node", "", "n1").expect("the node exists");
        match (has_proxy_pod(&daemon_set, &node), &kube_proxy) {
            (true, None) => {
                kube_proxy = Some(start());
                api.put(proxy_pod("n1"));
            }
            (false, Some(_)) => {
                kube_proxy = None;
                api.delete("Pod", "kube-system", "kube-proxy-n1");
            }
            _ => {}
        }
        thread::sleep(CONTROL_INTERVAL);
    }
}

/// Writes a program that does for the agent on this node what `kubectl exec` does in its pod.
fn write_kubectl(folder: &AgentDir) -> PathBuf {
    let path = folder.join("kubectl");
    let (portico, socket) = (program("portico"), folder.socket());
    let script =
        format!("#!/bin/sh\nexec {} status --output json --socket {}\n", portico.display(), socket.display());
    fs::write(&path, script).expect("write the program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    path
}

/// Moves the node over and back with the command, under load.
fn migrate_under_load(
    network: &NodeNetwork,
    folder: &AgentDir,
    api: &ApiServer,
    start: &(dyn Fn() -> PeerProxy + Sync),
) -> String {
    for namespace in ["kube-system", "portico-system"] {
        api.put(json!({"kind": "Namespace", "metadata": {"name": namespace}}));
    }
    api.put(proxy_daemon_set());
    api.put(agent_pod("n1"));
    let kubectl = write_kubectl(folder);
    let migrate = |args: &[&str]| {
        let mut command = Command::new(program("portico"));
        command.args(["migrate", "n1", "--timeout", "60"]).args(args);
        command.arg("--kubeconfig").arg(api.kubeconfig()).arg("--kubectl").arg(&kubectl);
        let output = command.output().expect("run portico");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    };
    let kubeconfig = api.kubeconfig().to_str().expect("a path");
    let agent = Agent::start_with(folder, &[&FLAGS[..], &["--kubeconfig", kubeconfig]].concat());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| control(api, start, &is_over));
        let ending = Ending(&is_over);
        agent.wait_until("kube-proxy is synced", |agent| {
            agent.status()["nodePortals"]["migration"]["kubeProxy"]["synced"] == true
        });
        let load = under_load(network, |load: &Load| {
            load.advance(BETWEEN_STEPS);
            migrate(&[]);
            assert!(!has_kube_proxy_rules() && tables().contains("portico-node"), "{}", tables());
            load.advance(BETWEEN_STEPS);
            migrate(&["--back"]);
            assert!(has_kube_proxy_rules() && !tables().contains("portico"), "{}", tables());
            load.advance(BETWEEN_STEPS);
        });
        drop(ending);
        load
    })
}

#[test]
fn command_moves_a_node_over_and_back_without_a_failure() {
    with_services(|network, folder| {
        let api = ApiServer::double();
        put_objects(&api);
        let start = || PeerProxy::recorded(ProxyMode::Nftables);
        println!("{}", migrate_under_load(network, folder, &api, &start));
    });
}

#[test]
#[cfg_attr(
    not(feature = "api-server"),
    ignore = "needs KUBEBUILDER_ASSETS, KUBE_PROXY and the feature api-server"
)]
fn command_moves_a_node_from_the_real_kube_proxy_in_each_mode_and_back() {
    for mode in [ProxyMode::Nftables, ProxyMode::Iptables] {
        with_services(|network, folder| {
            let api = real_api();
            let start = || PeerProxy::real(mode, &api);
            println!("{mode:?}: {}", migrate_under_load(network, folder, &api, &start));
        });
    }
}

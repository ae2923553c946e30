//! The real agent with an API server: the double, or a real one if `KUBEBUILDER_ASSETS` is set.

use std::path::Path;
use std::process::Command;

use agent_ipc::{Reply, Request};
use test_support::agent::{Agent, AgentDir};
use test_support::apiserver::{ApiServer, Fault};
use test_support::backend_server::{assert_refused, backend_of, serve};
use test_support::namespace::{in_new_netns, run};
use test_support::objects::{node, service, slice};
use test_support::pod::Pod;
use test_support::program::program;

/// The portal of `service("web", 7, 80)`.
const WEB: &str = "10.0.1.7:80";

/// Runs `body` on a node with an API server and a pod that contains backends a and b.
fn with_cluster(api: fn() -> ApiServer, body: impl FnOnce(&ApiServer, &AgentDir, &Pod) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let api = api();
        let pod = Pod::new();
        pod.within(|| {
            serve("a", "10.1.0.1:8080");
            serve("b", "10.1.0.2:8080");
            run("ip", &["route", "add", "default", "dev", "lo"], "");
        });
        api.put(service("web", 7, 80));
        api.put(slice("web-1", "web", &["10.1.0.1"]));
        api.put(node("n1", "z1"));
        body(&api, &AgentDir::new(), &pod);
    });
}

fn start_agent(dir: &AgentDir, kubeconfig: &Path) -> Agent {
    let kubeconfig = kubeconfig.to_str().expect("a path");
    Agent::start_with(dir, &["--kubeconfig", kubeconfig, "--node", "n1"])
}

fn backend_seen_by(pod: &Pod) -> String {
    pod.within(|| backend_of(WEB))
}

fn assert_follows_changes(agent: &Agent, api: &ApiServer, pod: &Pod) {
    let wait = |what: &str, revision: u64| {
        agent.wait_until(what, |agent| agent.status()["views"]["all"]["revision"].as_u64() > Some(revision));
        agent.wait_until_converged(0);
    };
    let revision = || agent.status()["views"]["all"]["revision"].as_u64().expect("a number");
    let before = revision();
    api.put(slice("web-1", "web", &["10.1.0.2"]));
    wait("another backend", before);
    assert_eq!(backend_seen_by(pod), "b");
    let before = revision();
    api.delete("EndpointSlice", "default", "web-1");
    wait("no backend", before);
    pod.within(|| assert_refused(WEB));
    let before = revision();
    api.put(slice("web-1", "web", &["10.1.0.1"]));
    wait("a backend again", before);
    assert_eq!(backend_seen_by(pod), "a");
}

#[test]
fn pod_follows_the_services_of_an_api_server() {
    with_cluster(ApiServer::start, |api, dir, pod| {
        let agent = start_agent(dir, api.kubeconfig());
        agent.wait_until("the agent is synced", |agent| agent.status()["synced"] == true);
        agent.attach("a", pod);
        assert_eq!(backend_seen_by(pod), "a");
        assert_follows_changes(&agent, api, pod);
    });
}

#[test]
fn outage_of_the_api_server_keeps_services_and_is_in_the_status() {
    with_cluster(ApiServer::double, |api, dir, pod| {
        let agent = start_agent(dir, api.kubeconfig());
        agent.wait_until("the agent is synced", |agent| agent.status()["synced"] == true);
        agent.attach("a", pod);
        api.fault(Fault::Down);
        agent.wait_until("the outage is reported", |agent| !agent.status()["outage"].is_null());
        assert_eq!(backend_seen_by(pod), "a");
        let other = Pod::new();
        agent.attach("during the outage", &other);
        api.fault(Fault::Cleared);
        agent.wait_until("the outage is over", |agent| agent.status()["outage"].is_null());
        assert_follows_changes(&agent, api, pod);
        assert!(agent.status()["counts"]["outages"].as_u64() >= Some(1));
    });
}

#[test]
fn restart_during_an_outage_of_the_api_server_keeps_pods_unchanged() {
    with_cluster(ApiServer::double, |api, dir, pod| {
        let first = start_agent(dir, api.kubeconfig());
        first.wait_until("the agent is synced", |agent| agent.status()["synced"] == true);
        first.attach("a", pod);
        first.kill();
        api.fault(Fault::Down);
        let second = start_agent(dir, api.kubeconfig());
        second.wait_until("the outage is reported", |agent| !agent.status()["outage"].is_null());
        assert_eq!(backend_seen_by(pod), "a");
        let Reply::Refused { transient: true, .. } = second.request(&Request::Ready, None) else {
            panic!("the agent is ready before its initial sync")
        };
        api.fault(Fault::Cleared);
        second.wait_until_converged(1);
        assert_follows_changes(&second, api, pod);
    });
}

#[test]
fn missing_right_to_read_services_is_named() {
    with_cluster(ApiServer::start, |api, dir, _| {
        let agent = start_agent(dir, api.kubeconfig_without_rights());
        agent.wait_until("the outage is reported", |agent| !agent.status()["outage"].is_null());
        let Reply::Refused { message, transient: true } = agent.request(&Request::Ready, None) else {
            panic!("the agent is ready without its services")
        };
        // The lists run concurrently, and the first that is denied is reported.
        let resources = ["services", "endpointslices", "nodes", "servicecidrs"];
        let rule =
            |resource: &str| message.contains(&format!("resources: [\"{resource}\"], verbs: [\"list\""));
        assert!(resources.into_iter().any(rule), "{message}");
        let check = Command::new(program("portico"))
            .arg("check")
            .arg("--socket")
            .arg(dir.socket())
            .arg("--kubeconfig")
            .arg(api.kubeconfig_without_rights())
            .output()
            .expect("run portico check");
        let text = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(text.contains("✗ API server: failed to list services of all namespaces"), "{text}");
        let good = Command::new(program("portico"))
            .args(["check", "--kubeconfig"])
            .arg(api.kubeconfig())
            .output()
            .expect("run portico check");
        assert!(String::from_utf8_lossy(&good.stdout).contains("✓ API server"), "{good:?}");
    });
}

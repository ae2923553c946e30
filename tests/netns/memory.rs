//! The programs start within the memory limits of the chart with any objects that a tenant can create.
//!
//! Each program runs in a memory cgroup with the limit in deploy/helm/portico/values.yaml. The double generates the
//! objects while it sends them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;
use test_support::agent::{Agent, AgentDir};
use test_support::apiserver::{ApiServer, Fault, Generated, InitialEvents};
use test_support::child_guard::ChildGuard;
use test_support::eventually::Wait;
use test_support::memory_cgroup::MemoryCgroup;
use test_support::objects::{service, service_cidr};
use test_support::program::program;

const AGENT_LIMIT: u64 = 512 << 20;
const WEBHOOK_LIMIT: u64 = 256 << 20;
/// A start takes long on a busy machine.
const START: Wait = Wait { timeout: Duration::from_secs(180), ..Wait::DEFAULT };

/// The number of services of 6,000 ports, 1.3 MB each: more than fits into a page of 256 MiB.
const LARGE: usize = 215;

/// An API server with services that a tenant with the role `edit` can create, and with 5,000 namespaces.
fn api_with_large_services(initial: Option<InitialEvents>) -> ApiServer {
    let api = ApiServer::double();
    api.put(service_cidr("kubernetes", "10.0.0.0/16"));
    api.put(service("honest", 1, 80));
    api.generate(Generated {
        kind: "Service",
        count: LARGE,
        metadata: |number| json!({"name": format!("large-{number}"), "namespace": "tenant"}),
        content: |_| large_spec().to_owned(),
    });
    api.generate(Generated {
        kind: "Namespace",
        count: 5_000,
        metadata: |number| json!({"name": format!("namespace-{number}"), "labels": {"team": "a"}}),
        content: |_| {
            "\"spec\":{\"finalizers\":[\"kubernetes\"]},\"status\":{\"phase\":\"Active\"}".to_owned()
        },
    });
    initial.into_iter().for_each(|how| api.fault(Fault::NoInitialEvents(how)));
    api
}

fn large_spec() -> &'static str {
    static SPEC: OnceLock<String> = OnceLock::new();
    SPEC.get_or_init(|| {
        let padding = "x".repeat(100);
        let port = |number| {
            format!(
                "{{\"name\":\"port-{number}\",\"protocol\":\"TCP\",\"appProtocol\":\"example.com/{padding}\",\
                 \"port\":{number},\"targetPort\":{number}}}"
            )
        };
        let ports: Vec<String> = (1..=6_000).map(port).collect();
        format!("\"spec\":{{\"clusterIP\":\"10.0.200.1\",\"ports\":[{}]}}", ports.join(","))
    })
}

/// Returns a page at an address, or an empty text if no server listens.
fn get_page(address: SocketAddr, path: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let _ = stream.read_to_string(&mut text);
    }
    text
}

fn has_line(page: &str, line: &str) -> bool {
    page.lines().any(|found| found == line)
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback");
    listener.local_addr().expect("an address")
}

#[allow(clippy::print_stderr)] // The figure belongs in the log of the run.
fn assert_below(what: &str, group: &MemoryCgroup, limit: u64) {
    let peak = group.peak();
    eprintln!("{what}: at most {} MiB of {} MiB", peak >> 20, limit >> 20);
    assert!(peak < limit / 10 * 9, "{what}: {} MiB of {} MiB", peak >> 20, limit >> 20);
}

fn assert_agent_starts(initial: Option<InitialEvents>) {
    let (api, dir, group) =
        (api_with_large_services(initial), AgentDir::new(), MemoryCgroup::new(AGENT_LIMIT));
    let metrics = free_address();
    let kubeconfig = api.kubeconfig().to_str().expect("a path");
    let enter = group.launcher();
    let agent = Agent::start_through(
        &dir,
        &enter.each_ref().map(String::as_str),
        &["--kubeconfig", kubeconfig, "--node", "n1", "--metrics", &metrics.to_string()],
    );
    START.until("the agent is synced", || has_line(&get_page(metrics, "/metrics"), "portico_synced 1"));
    let page = get_page(metrics, "/metrics");
    for line in ["portico_services 1", "portico_objects_rejected 215", "portico_source_outage 0"] {
        assert!(has_line(&page, line), "{line}\n{page}");
    }
    // One line names each service, and at most a hundred are named.
    let log = agent.log();
    assert_eq!(log.matches("Service tenant/large-7:").count(), 1);
    assert_eq!(log.matches("Service tenant/large-").count(), 100);
    drop(agent);
    assert_below(&format!("the agent, {initial:?}"), &group, AGENT_LIMIT);
}

#[test]
fn agent_starts_with_215_services_of_6000_ports_from_the_watch_cache() {
    assert_agent_starts(None);
}

#[test]
fn agent_starts_with_215_services_of_6000_ports_in_pages() {
    assert_agent_starts(Some(InitialEvents::Error(500)));
}

#[test]
fn rejected_service_is_a_metric_until_it_is_deleted_and_no_outage() {
    let (api, dir) = (ApiServer::double(), AgentDir::new());
    let (metrics, mut broken) = (free_address(), service("broken", 2, 80));
    api.put(service("honest", 1, 80));
    broken["spec"]["ports"] = (1..=5_000)
        .map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"}))
        .collect();
    let kubeconfig = api.kubeconfig().to_str().expect("a path");
    let agent = Agent::start_with(
        &dir,
        &["--kubeconfig", kubeconfig, "--node", "n1", "--metrics", &metrics.to_string()],
    );
    let has = |line: &str| has_line(&get_page(metrics, "/metrics"), line);
    START.until("the agent is synced", || has("portico_synced 1"));
    assert!(has("portico_objects_rejected 0"));
    api.put(broken);
    START.until("the rejection is counted", || has("portico_objects_rejected 1"));
    assert!(has("portico_source_outage 0") && has("portico_source_outages_total 0"));
    assert_eq!(agent.log().matches("Service default/broken: ").count(), 1, "{}", agent.log());
    api.delete("Service", "default", "broken");
    START.until("the rejection is no longer counted", || has("portico_objects_rejected 0"));
}

fn assert_webhook_starts(initial: Option<InitialEvents>) {
    let (api, dir, group) =
        (api_with_large_services(initial), AgentDir::new(), MemoryCgroup::new(WEBHOOK_LIMIT));
    let admin = free_address();
    let [shell, rest @ ..] = group.launcher();
    let mut command = Command::new(shell);
    command.args(rest).arg(program("portico-webhook")).arg("--kubeconfig").arg(api.kubeconfig());
    command.args(["--register", "none", "--listen", "127.0.0.1:0", "--admin", &admin.to_string()]);
    let log = dir.join("webhook.log");
    let out = File::create(&log).expect("make the log");
    let mut webhook = ChildGuard::spawn(command.stdin(Stdio::null()).stderr(out));
    START.until("the webhook is ready", || {
        let ended = webhook.try_wait().expect("poll the webhook");
        assert!(ended.is_none(), "{ended:?}: {}", std::fs::read_to_string(&log).unwrap_or_default());
        get_page(admin, "/readyz").starts_with("HTTP/1.1 200")
    });
    let page = get_page(admin, "/metrics");
    for line in [
        "portico_webhook_services 1",
        "portico_webhook_objects_rejected 215",
        "portico_webhook_source_outage 0",
    ] {
        assert!(has_line(&page, line), "{line}\n{page}");
    }
    drop(webhook);
    assert_below(&format!("the webhook, {initial:?}"), &group, WEBHOOK_LIMIT);
}

#[test]
fn webhook_starts_with_215_services_of_6000_ports_from_the_watch_cache() {
    assert_webhook_starts(None);
}

#[test]
fn webhook_starts_with_215_services_of_6000_ports_in_pages() {
    assert_webhook_starts(Some(InitialEvents::Error(500)));
}

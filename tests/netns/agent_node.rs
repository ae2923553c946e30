//! Conditions of the node: CNI files that appear later, an address or a port in use, and a directory that cannot be
//! written.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::agent::{Agent, AgentDir};
use test_support::backend_pod::pod_with_backends;
use test_support::backend_server::backend_of;
use test_support::namespace::{in_new_netns, run};
use test_support::pod::Pod;

const METRICS: &str = "127.0.0.1:9477";

/// A service at 10.96.0.1:80 with this backend, and one at 10.96.0.2:80 that is relayed.
fn manifest(backend: &str) -> String {
    let of = |name: &str, address: &str, mode: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}","annotations":{{"portico.dev/mode":"{mode}"}}}},
              "spec":{{"clusterIP":"{address}","ports":[{{"port":80}}]}}}},
            {{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
              "metadata":{{"name":"{name}-1","labels":{{"kubernetes.io/service-name":"{name}"}}}},
              "ports":[{{"name":"","port":8080}}],"endpoints":[{{"addresses":["{backend}"]}}]}}"#
        )
    };
    let (kernel, relayed) = (of("web", "10.96.0.1", "kernel"), of("relayed", "10.96.0.2", "relay"));
    format!(r#"{{"apiVersion":"v1","kind":"List","items":[{kernel},{relayed}]}}"#)
}

fn with_node(body: impl FnOnce(&AgentDir) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("services.json", &manifest("10.1.0.1"));
        body(&dir);
    });
}

fn attachments(agent: &Agent) -> Vec<Value> {
    agent.status()["attachments"].as_array().expect("a list").clone()
}

/// Writes the result that libcni caches for a pod (api.go).
fn write_result(dir: &Path, name: &str, pod: &Pod) {
    let cached = json!({
        "kind": "cniCacheV1", "containerId": name, "networkName": "net", "ifName": "eth0", "config": "e30=",
        "netns": pod.path(),
        "result": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": pod.path()}]},
    });
    fs::write(dir.join(format!("net-{name}-eth0")), cached.to_string()).expect("write a CNI result");
}

fn conflist(entry: &Value) -> String {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, entry]}).to_string()
}

/// Returns the time until the agent has this number of attachments.
fn recovery_time(agent: &Agent, count: usize) -> Duration {
    let start = Instant::now();
    agent.wait_until("the pods are recovered", |agent| attachments(agent).len() == count);
    start.elapsed()
}

#[test]
fn pods_from_before_the_cni_entry_are_recovered_once_it_appears() {
    with_node(|dir| {
        // The helper passes this directory to the agent for configurations and results; it does not exist yet.
        let cni = dir.join("cni");
        let agent = Agent::start(dir, &["--audit-interval", "3600"]);
        let (first, second) = (pod_with_backends(), pod_with_backends());
        fs::create_dir_all(&cni).expect("create the directory");
        write_result(&cni, "first", &first);
        fs::write(cni.join("10-net.conflist"), conflist(&json!({"type": "tuning"}))).expect("write");
        assert_eq!(attachments(&agent).len(), 0, "the network is not the agent's");
        // Like the installer, write a new file and rename it.
        let entry = json!({"type": "portico-cni", "socket": dir.socket()});
        fs::write(dir.join("new.conflist"), conflist(&entry)).expect("write");
        fs::rename(dir.join("new.conflist"), cni.join("10-net.conflist")).expect("rename");
        let took = recovery_time(&agent, 1);
        assert!(took < Duration::from_secs(3), "recovered after {took:?}");
        agent.wait_until_converged(1);
        assert_eq!(first.within(|| backend_of("10.96.0.1:80")), "a");
        // The ADD of this pod began before the entry existed, and ended after it.
        write_result(&cni, "second", &second);
        let took = recovery_time(&agent, 2);
        assert!(took < Duration::from_secs(3), "recovered after {took:?}");
    });
}

fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

#[test]
fn pods_are_served_while_the_metrics_address_is_in_use_and_metrics_once_it_is_free() {
    with_node(|dir| {
        let taken = TcpListener::bind(METRICS).expect("take the address");
        let agent = Agent::start(dir, &["--metrics", METRICS]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        assert_eq!(pod.within(|| backend_of("10.96.0.1:80")), "a");
        drop(taken);
        agent.wait_until("metrics are served", |_| {
            get(METRICS).is_some_and(|page| page.contains("portico_synced 1"))
        });
    });
}

#[test]
fn idle_metrics_clients_are_bounded_and_block_no_other_client() {
    with_node(|dir| {
        let agent = Agent::start(dir, &["--metrics", METRICS]);
        // The agent serves pods before the metrics page.
        agent.wait_until("metrics are served", |_| get(METRICS).is_some());
        let idle: Vec<TcpStream> = (0..500).map(|_| TcpStream::connect(METRICS).expect("connect")).collect();
        let page = get(METRICS).expect("a response while other clients are idle");
        assert!(page.contains("portico_synced 1"), "{page}");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("its descriptors").count();
        assert!(descriptors < 250, "{descriptors} descriptors with {} idle clients", idle.len());
    });
}

/// Starts an agent and a pod in which a process occupies the relay's port, and later releases it.
fn relayed_portals_reject_while_the_relay_port_is_in_use(portals: &[&str]) {
    with_node(|dir| {
        let agent = Agent::start(dir, portals);
        let pod = pod_with_backends();
        let taken = pod.within(|| TcpListener::bind("0.0.0.0:15999").expect("take the port"));
        taken.set_nonblocking(true).expect("do not wait");
        agent.attach("a", &pod);
        let refused = || {
            pod.within(|| TcpStream::connect("10.96.0.2:80")).err().map(|error| error.kind())
                == Some(ErrorKind::ConnectionRefused)
        };
        assert!(refused(), "the first connection after the attach");
        let error = || attachments(&agent)[0]["error"].clone();
        assert!(error().as_str().is_some_and(|error| error.contains("port 15999")), "{}", error());
        dir.write_manifest("services.json", &manifest("10.1.0.2"));
        if portals.is_empty() {
            agent.wait_until("the change is applied", |_| pod.within(|| backend_of("10.96.0.1:80")) == "b");
        }
        assert!(refused(), "after a change");
        let accepted = taken.accept().map(|_| ()).expect_err("the pod's process gets no connection");
        assert_eq!(accepted.kind(), ErrorKind::WouldBlock);
        drop(taken);
        agent.wait_until("the relay listens", |_| error().is_null());
        agent.wait_until("connections are relayed", |_| !refused());
        assert_eq!(pod.within(|| backend_of("10.96.0.2:80")), "b", "through the relay");
        assert_eq!(pod.within(|| backend_of("10.96.0.1:80")), "b");
    });
}

#[test]
fn only_relayed_portals_reject_while_the_relay_port_is_in_use() {
    relayed_portals_reject_while_the_relay_port_is_in_use(&[]);
}

#[test]
fn on_demand_portals_reject_while_the_relay_port_is_in_use() {
    relayed_portals_reject_while_the_relay_port_is_in_use(&[
        "--service-cidr",
        "10.96.0.0/16",
        "--portals",
        "on-demand",
    ]);
}

#[test]
fn failed_write_of_a_record_is_retried() {
    with_node(|dir| {
        fs::create_dir_all(dir.state()).expect("make the state directory");
        // A file in place of the directory makes each write fail.
        let records = dir.state().join("attachments");
        fs::write(&records, "").expect("write a file");
        let agent = Agent::start(dir, &[]);
        let pod = pod_with_backends();
        agent.attach("a", &pod);
        agent.wait_until("the failure is reported", |agent| agent.status()["recordsUnwritten"] == 1);
        fs::remove_file(&records).expect("remove the file");
        agent.wait_until("the record is written", |agent| agent.status()["recordsUnwritten"] == 0);
        assert_eq!(fs::read_dir(&records).expect("the records").count(), 1);
    });
}

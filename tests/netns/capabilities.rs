//! The real agent with the capabilities of the chart, and with fewer.
//!
//! setpriv drops all other capabilities permanently, as a container runtime does. The pod's network namespace is
//! bind-mounted to a file, as by containerd and CRI-O.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use agent_ipc::{Attachment, Reply, Request};
use nix::sched::{CloneFlags, unshare};
use test_support::agent::{Agent, AgentDir, TIMEOUT, attachment};
use test_support::backend_server::{REPLY_TIMEOUT, backend_of, serve};
use test_support::namespace::{add_address, in_new_netns, load, run};
use test_support::pod::Pod;

use crate::node_agent::{from_outside, node_report, with_service};
use crate::node_network::{NODE, NODE_ON_LINK};

/// The capabilities of the chart's DaemonSet. tests/chart/pods.rs checks that the chart has the same.
const CHART: &str = "+net_admin,+sys_admin";
const RANGE: [&str; 2] = ["--service-cidr", "10.96.0.0/16"];

/// Services `web` at 10.96.0.1 (the kernel's) and `slow` at 10.96.0.2 (the relay's), port 80, TCP and UDP, at `backend`.
fn manifest(backend: &str) -> String {
    let of = |name: &str, address: &str, annotations: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}","annotations":{{{annotations}}}}},
          "spec":{{"clusterIP":"{address}","ports":[{{"name":"t","port":80}},{{"name":"u","port":80,"protocol":"UDP"}}]}}}},
        {{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
          "metadata":{{"name":"{name}-1","labels":{{"kubernetes.io/service-name":"{name}"}}}},
          "ports":[{{"name":"t","port":8080}},{{"name":"u","port":8080,"protocol":"UDP"}}],
          "endpoints":[{{"addresses":["{backend}"]}}]}}"#
        )
    };
    let (web, slow) = (of("web", "10.96.0.1", ""), of("slow", "10.96.0.2", r#""portico.dev/mode":"relay""#));
    format!(r#"{{"apiVersion":"v1","kind":"List","items":[{web},{slow}]}}"#)
}

/// Runs `body` on a node with its own mount namespace.
fn with_node(body: impl FnOnce(&AgentDir) + Send) {
    in_new_netns(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("a new mount namespace: start with scripts/netns-test");
        run("mount", &["--make-rprivate", "/"], "");
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("services.json", &manifest("10.1.0.1"));
        body(&dir);
    });
}

/// Starts an agent with only these capabilities.
fn start_agent_with_capabilities(dir: &AgentDir, capabilities: &str, args: &[&str]) -> Agent {
    let bounds =
        format!("--bounding-set=-all{}{capabilities}", if capabilities.is_empty() { "" } else { "," });
    let by = ["setpriv", &bounds, "--inh-caps=-all", "--no-new-privs"];
    let manifests = dir.manifests();
    let all = [&["--manifests", manifests.to_str().expect("a path")][..], &RANGE, args].concat();
    Agent::start_through(dir, &by, &all)
}

/// Starts a UDP server on this address that replies with its name.
fn serve_udp(name: &'static str, address: &str) {
    let socket = UdpSocket::bind(address).expect("listen");
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
}

/// A pod that contains backends a and b, without a route to services.
fn pod_with_backends() -> Pod {
    let pod = Pod::new();
    pod.within(|| {
        for (name, address) in [("a", "10.1.0.1"), ("b", "10.1.0.2")] {
            serve(name, &format!("{address}:8080"));
            serve_udp(name, &format!("{address}:8080"));
        }
        add_address("10.1.0.9");
    });
    pod
}

/// Bind-mounts the pod's network namespace to a file, as a runtime does.
fn bind_mount_netns(dir: &AgentDir, pod: &Pod) -> PathBuf {
    let path = dir.join("cni-1");
    File::create(&path).expect("make a file");
    pod.within(|| run("mount", &["--bind", "/proc/self/ns/net", path.to_str().expect("a path")], ""));
    path
}

/// Attaches a pod as the plugin does: with a file descriptor of its network namespace, and the path in the request.
fn attach(dir: &AgentDir, pod: &Pod, netns: &Path) -> Reply {
    let file = File::open(netns).expect("open the network namespace");
    let addresses = vec!["10.1.0.9".parse().expect("an address")];
    let attachment = Attachment { netns: netns.to_owned(), addresses, ..attachment("a", pod) };
    let request = Request::Attach(attachment);
    agent_ipc::send_request(&dir.socket(), &request, Some(file.as_fd()), TIMEOUT).expect("an answer").0
}

fn udp_backend_of(pod: &Pod, portal: &str) -> String {
    pod.within(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(portal).expect("a portal");
        socket.set_read_timeout(Some(REPLY_TIMEOUT)).expect("a time-out");
        socket.send(b"?").expect("send");
        let mut buffer = [0; 16];
        let len = socket.recv(&mut buffer).unwrap_or_else(|why| panic!("no reply from {portal}: {why}"));
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    })
}

/// Asserts that both portals lead to this backend over both protocols.
fn assert_all_reach(pod: &Pod, name: &str) {
    for portal in ["10.96.0.1:80", "10.96.0.2:80"] {
        assert_eq!(pod.within(|| backend_of(portal)), name, "{portal}");
        assert_eq!(udp_backend_of(pod, portal), name, "{portal}");
    }
}

fn attachment_count(agent: &Agent) -> usize {
    agent.status()["attachments"].as_array().map(Vec::len).expect("a list")
}

#[test]
fn capabilities_of_the_chart_suffice_for_every_function_of_the_agent() {
    with_node(|dir| {
        let audited = ["--audit-interval", "1"];
        let agent = start_agent_with_capabilities(dir, CHART, &audited);
        let pod = pod_with_backends();
        let netns = bind_mount_netns(dir, &pod);
        assert_eq!(attach(dir, &pod, &netns), Reply::Done, "{}", agent.log());
        assert_all_reach(&pod, "a");
        dir.write_manifest("services.json", &manifest("10.1.0.2"));
        agent.wait_until("the change is applied", |agent| {
            agent.status()["views"]["all"]["revision"].as_u64() > Some(1)
        });
        agent.wait_until_converged(2);
        assert_all_reach(&pod, "b");
        pod.within(|| load("flush ruleset\n"));
        agent.wait_until("the table is repaired", |agent| agent.status()["counts"]["repairs"] == 1);
        agent.wait_until_converged(2);
        assert_all_reach(&pod, "b");
        // A second agent with the same capabilities takes over and recovers the pod.
        let second = start_agent_with_capabilities(dir, CHART, &[&audited[..], &["--take-over"]].concat());
        // The first agent serves until the second one is ready.
        second.wait_until("the second agent has taken over", |agent| {
            agent.log().contains("handover complete; standing by")
        });
        assert_eq!(attachment_count(&second), 1);
        assert_all_reach(&pod, "b");
        drop(agent);
        // A third agent recovers the pod only from its record.
        second.kill();
        let third = start_agent_with_capabilities(dir, CHART, &audited);
        third.wait_until_converged(1);
        assert_eq!(attachment_count(&third), 1);
        assert_all_reach(&pod, "b");
        // Like runtimes, although the agent has it open.
        run("umount", &["--lazy", netns.to_str().expect("a path")], "");
        fs::remove_file(&netns).expect("remove the file");
        third.wait_until("the attachment is removed", |agent| attachment_count(agent) == 0);
        assert!(!third.log().contains("ERROR"), "{}", third.log());
    });
}

#[test]
fn every_capability_of_the_chart_is_needed_to_attach_a_pod() {
    for capabilities in ["", "+net_admin", "+sys_admin"] {
        with_node(|dir| {
            let _agent = start_agent_with_capabilities(dir, capabilities, &[]);
            let pod = pod_with_backends();
            let netns = bind_mount_netns(dir, &pod);
            let Reply::Refused { message, .. } = attach(dir, &pod, &netns) else {
                panic!("a pod is attached with only {capabilities:?}");
            };
            assert!(message.contains("not permitted"), "{capabilities:?}: {message}");
        });
    }
}

#[test]
fn netns_path_of_a_process_is_reopened_with_one_more_capability() {
    for (capabilities, recovered) in [(CHART, 0), ("+net_admin,+sys_admin,+sys_ptrace", 1)] {
        with_node(|dir| {
            let pod = pod_with_backends();
            let agent = start_agent_with_capabilities(dir, capabilities, &[]);
            // The agent opens no path to attach the pod, because it has the file descriptor.
            assert_eq!(attach(dir, &pod, Path::new(&pod.path())), Reply::Done, "{}", agent.log());
            assert_all_reach(&pod, "a");
            agent.kill();
            let agent = start_agent_with_capabilities(dir, capabilities, &[]);
            assert_eq!(attachment_count(&agent), recovered, "{capabilities}: {}", agent.log());
        });
    }
}

#[test]
fn capabilities_of_the_chart_suffice_for_node_portals() {
    with_service(|network, dir| {
        let flags = ["--node", "n1", "--node-portals", "--cluster-cidr", "10.1.0.0/16"];
        let agent = start_agent_with_capabilities(dir, CHART, &flags);
        agent.wait_until("the node is programmed", |agent| node_report(agent)["programmed"] == true);
        assert_eq!(from_outside(network, NODE[0]), format!("remote {}", NODE_ON_LINK[0]));
        let tables = || run("nft", &["list", "tables"], "");
        agent.wait_until("the anchor table exists", |_| tables().contains("portico-anchor"));
        agent.wait_until("the health of the node is served", |_| is_healthy_page());
        assert!(!agent.log().contains("ERROR") && !agent.log().contains("failed"), "{}", agent.log());
    });
}

/// Whether the page that load balancers request of kube-proxy reports a healthy node.
fn is_healthy_page() -> bool {
    let request = |mut stream: TcpStream| -> std::io::Result<String> {
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    TcpStream::connect((NODE[0], 10_256)).and_then(request).is_ok_and(|reply| reply.contains(" 200 "))
}

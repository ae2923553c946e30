//! The DNS servers with which the agent is compared: CoreDNS, Unbound and dnsmasq, with the same names.
//!
//! They run in a pod. CoreDNS has the Corefile of the Kubernetes addon without upstreams, and reaches the API server of
//! the node through a relay of this process. The names of the others are local data.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::Value;
use test_support::apiserver::ApiServer;
use test_support::child_guard::ChildGuard;
use test_support::coredns::CoreDns;
use test_support::dns::query;
use test_support::eventually::Wait;
use test_support::pod::Pod;
use test_support::temp_dir::TempDir;

use super::queries::{connect, is_answered, service_name};
use crate::cluster_objects::node_port_cluster_ip;
use crate::kube_proxy_process::create_objects;

/// The address of the pod of the servers.
pub(crate) const SERVER: &str = "10.1.2.2";
/// A peer loads the names first.
const START: Wait = Wait { timeout: Duration::from_secs(120), interval: Duration::from_millis(20) };

/// A running DNS server.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// The cluster IP of its portal, and its port in the pod.
    pub(crate) cluster_ip: &'static str,
    pub(crate) port: u16,
    pub(crate) process: ChildGuard,
    _api: Option<ApiServer>,
    _dir: TempDir,
}

/// Starts the servers in a pod. CoreDNS is the first, if there is one.
pub(crate) fn start(pod: &Pod, services: usize) -> Vec<Peer> {
    let mut peers: Vec<Peer> =
        core_dns_program().map(|program| core_dns(&program, pod, services)).into_iter().collect();
    peers.push(unbound(pod, services));
    peers.push(dnsmasq(pod, services));
    let last = query(1, &service_name(services - 1), RecordType::A);
    for peer in &peers {
        let is_ready = || is_answered(&connect(&format!("{SERVER}:{}", peer.port)), &last);
        pod.within(|| START.until(&format!("{} answers", peer.name), is_ready));
    }
    peers
}

/// The program, if there is also an API server for it.
fn core_dns_program() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS").filter(|assets| !assets.is_empty()).and(CoreDns::program())
}

fn core_dns(program: &Path, pod: &Pod, services: usize) -> Peer {
    let api = ApiServer::real();
    create_objects(&api, services);
    let kubeconfig = api.kubeconfig().display().to_string();
    relay_api(pod, api_port(api.kubeconfig()));
    let dir = TempDir::new("coredns");
    let corefile = dir.write(
        "Corefile",
        format!(
            ".:53 {{\n errors\n health\n ready\n kubernetes cluster.local in-addr.arpa ip6.arpa {{\n  \
             kubeconfig {kubeconfig} test\n  pods insecure\n  fallthrough in-addr.arpa ip6.arpa\n  ttl 30\n }}\n \
             prometheus :9153\n cache 30\n loadbalance\n}}\n"
        ),
    );
    let mut command = Command::new(program);
    command.arg("-conf").arg(corefile);
    Peer { _api: Some(api), ..peer("CoreDNS", "10.0.0.10", 53, pod, command, dir) }
}

fn unbound(pod: &Pod, services: usize) -> Peer {
    let (dir, port) = (TempDir::new("unbound"), 5_301);
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let mut text = format!(
        "server:\n interface: {SERVER}\n port: {port}\n access-control: 0.0.0.0/0 allow\n num-threads: {threads}\n \
         do-daemonize: no\n use-syslog: no\n username: \"\"\n chroot: \"\"\n directory: \"{}\"\n pidfile: \"\"\n \
         module-config: \"iterator\"\n local-zone: \"cluster.local.\" static\n",
        dir.path().display()
    );
    for index in 0..services {
        let (name, address) = (service_name(index), node_port_cluster_ip(index));
        writeln!(text, " local-data: \"{name} 5 IN A {address}\"").expect("text");
    }
    let mut command = Command::new("unbound");
    command.arg("-c").arg(dir.write("unbound.conf", text));
    peer("Unbound", "10.0.0.11", port, pod, command, dir)
}

fn dnsmasq(pod: &Pod, services: usize) -> Peer {
    let (dir, port) = (TempDir::new("dnsmasq"), 5_302);
    let mut hosts = String::new();
    for index in 0..services {
        writeln!(hosts, "{} {}", node_port_cluster_ip(index), service_name(index).trim_end_matches('.'))
            .expect("text");
    }
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
    ]);
    command.args(["--user=root", "--group=root", "--pid-file", "--local=/cluster.local/", "--local-ttl=5"]);
    command.arg(format!("--port={port}")).arg(format!("--listen-address={SERVER}"));
    command.arg(format!("--addn-hosts={}", dir.write("hosts", hosts).display()));
    peer("dnsmasq", "10.0.0.12", port, pod, command, dir)
}

fn peer(
    name: &'static str,
    cluster_ip: &'static str,
    port: u16,
    pod: &Pod,
    mut command: Command,
    dir: TempDir,
) -> Peer {
    let log = fs::File::create(dir.join("log")).expect("create a log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let process = pod.within(|| ChildGuard::spawn(&mut command));
    Peer { name, cluster_ip, port, process, _api: None, _dir: dir }
}

fn api_port(kubeconfig: &Path) -> u16 {
    let config = fs::read_to_string(kubeconfig).expect("a kubeconfig");
    let config: Value = serde_json::from_str(&config).expect("a kubeconfig in JSON");
    let url = config["clusters"][0]["cluster"]["server"].as_str().expect("a URL");
    let (_, port) = url.rsplit_once(':').expect("a port");
    port.parse().expect("a port")
}

/// Lets a pod reach a port of this network namespace's loopback address at the same port of its own.
fn relay_api(pod: &Pod, port: u16) {
    let address = (Ipv4Addr::LOCALHOST, port);
    let listener = pod.within(|| TcpListener::bind(address).expect("listen in the pod"));
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(address) else { continue };
            let (from_client, from_server) = (client.try_clone(), server.try_clone());
            thread::spawn(move || copy(from_client, server));
            thread::spawn(move || copy(from_server, client));
        }
    });
}

fn copy(from: io::Result<TcpStream>, mut to: TcpStream) {
    if let Ok(mut from) = from {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    }
}

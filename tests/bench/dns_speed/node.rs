//! The node of the benchmark: the agent with DNS, its objects, and the servers that clients in pods ask.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use agent_ipc::{Attachment, Reply, Request};
use netns_nft::{DnsRedirect, DnsTable, DnsTableSettings};
use serde_json::{Value, json};
use test_support::agent::{Agent, AgentDir};
use test_support::agent_dns::{dns_attachment, wait_until_armed};
use test_support::apiserver::ApiServer;
use test_support::pod::Pod;

use super::peers::{Peer, SERVER, start};
use super::process::{last_of, own_cpus, pin_thread};
use super::queries::service_queries;
use crate::kube_proxy_process::create_objects;
use crate::routed_pod::routed_pod;

/// The addresses of the cluster's DNS.
pub(crate) const DNS: &str = "10.0.0.10";
const DNS6: &str = "fd00:96::a";
/// The time after which a table that nothing renews redirects no more: longer than the benchmark.
const ARMED_TIME: Duration = Duration::from_secs(3_600);

/// Whether the agent answers the queries of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dns {
    On,
    Off,
}

/// Starts an agent with DNS on an API server.
pub(crate) fn start_agent(dir: &AgentDir, api: &ApiServer, args: &[&str]) -> Agent {
    let kubeconfig = api.kubeconfig().to_str().expect("a path");
    let bounds = ["--namespace-elements-max", "1000000", "--table-elements-max", "1000000"];
    let ranges = ["--service-cidr", "10.0.0.0/16", "--service-cidr", "fd00:96::/112"];
    let agent = Agent::start_with(dir, &[&["--kubeconfig", kubeconfig], &bounds[..], &ranges, args].concat());
    agent.wait_until("the agent is synced", |agent| agent.status()["synced"] == true);
    agent
}

/// Attaches a pod. If the agent should answer its queries, it does so a little later.
pub(crate) fn attach(agent: &Agent, name: &str, pod: &Pod, dns: Dns) {
    let mut attachment: Attachment = dns_attachment(name, pod, &[DNS, DNS6]);
    if dns == Dns::Off {
        attachment.annotations = BTreeMap::from([("dns".to_owned(), "off".to_owned())]);
    }
    assert_eq!(agent.request(&Request::Attach(attachment), Some(pod)), Reply::Done, "{}", agent.log());
}

/// Gives a pod without a link an address and a default route of both families.
pub(crate) fn add_routes(pod: &Pod) {
    for (family, address) in [("-4", "10.1.0.5/32"), ("-6", "fd00:1::5/64")] {
        pod.ip(&[family, "address", "add", address, "dev", "lo", "nodad"]);
        pod.ip(&[family, "route", "add", "default", "dev", "lo"]);
    }
}

/// The service of the cluster's DNS.
pub(crate) fn kube_dns() -> Value {
    let mut service = dns_service("kube-dns", DNS);
    service["spec"]["clusterIPs"] = json!([DNS, DNS6]);
    service["spec"]["ipFamilies"] = json!(["IPv4", "IPv6"]);
    service["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    service
}

fn dns_service(name: &str, cluster_ip: &str) -> Value {
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"clusterIP": cluster_ip, "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}})
}

fn dns_slice(name: &str, port: u16) -> Value {
    json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{name}-a"), "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [SERVER], "conditions": {"ready": true}}],
        "ports": [{"name": "dns", "port": port, "protocol": "UDP"}]})
}

/// What the servers of a benchmark are, in the order of its rows.
pub(crate) struct Servers {
    pub(crate) queries: Vec<Vec<u8>>,
    pub(crate) services: usize,
    pub(crate) agent: Agent,
    /// The clients' pods: of the agent, of the peers, and of the echo server.
    pub(crate) pod: Pod,
    pub(crate) peers_pod: Pod,
    pub(crate) echo_pod: Pod,
    pub(crate) peers: Vec<Peer>,
    _server_pod: Pod,
    _echo: DnsTable,
    _dir: AgentDir,
    _api: ApiServer,
}

impl Servers {
    /// Starts the agent and the peers with the names of these services.
    pub(crate) fn start(services: usize) -> Self {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward packets");
        let [pod, server_pod, peers_pod, echo_pod] = [1, 2, 3, 4].map(routed_pod);
        let peers = start(&server_pod, services);
        let api = ApiServer::double();
        create_objects(&api, services);
        api.put(kube_dns());
        for peer in &peers {
            if peer.cluster_ip == DNS {
                api.put(dns_slice("kube-dns", peer.port));
            } else {
                let name = peer.name.to_lowercase();
                api.put(dns_service(&name, peer.cluster_ip));
                api.put(dns_slice(&name, peer.port));
            }
        }
        let dir = AgentDir::new();
        let agent = start_agent(&dir, &api, &["--portals", "all", "--dns"]);
        attach(&agent, "served", &pod, Dns::On);
        attach(&agent, "of-peers", &peers_pod, Dns::Off);
        attach(&agent, "echo", &echo_pod, Dns::Off);
        wait_until_armed(&agent, 1);
        Self {
            queries: service_queries(services),
            services,
            agent,
            _echo: echo(&echo_pod),
            pod,
            peers_pod,
            echo_pod,
            peers,
            _server_pod: server_pod,
            _dir: dir,
            _api: api,
        }
    }

    /// CoreDNS, if it runs.
    pub(crate) fn core_dns(&self) -> Option<usize> {
        self.peers.iter().position(|peer| peer.cluster_ip == DNS)
    }
}

/// Starts a server in a pod that sends each query back, behind the rules of the agent for the cluster's DNS. It runs on
/// the last CPU.
fn echo(pod: &Pod) -> DnsTable {
    let socket = pod.within(|| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    let SocketAddr::V4(address) = socket.local_addr().expect("an address") else { panic!("an IPv4 address") };
    thread::spawn(move || {
        pin_thread(&last_of(&own_cpus()));
        let mut buffer = [0; 1_232];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], peer);
        }
    });
    let redirect = DnsRedirect {
        address: DNS.parse().expect("an address"),
        udp_port: address.port(),
        tcp_port: address.port(),
    };
    let settings = DnsTableSettings { armed_time: ARMED_TIME, ..DnsTableSettings::default() };
    let socket = pod.netns.socket().expect("a socket in the pod");
    let (table, _) = DnsTable::create(socket, &[redirect], settings).expect("the DNS table");
    table.arm().expect("arm the table");
    table
}

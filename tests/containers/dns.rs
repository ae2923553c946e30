//! Unmodified DNS clients in containers, whose queries the agent answers in the container's network namespace: dig,
//! glibc, musl, c-ares, and busybox.
//!
//! The containers have the machine's programs and libraries, and the resolv.conf that the kubelet writes for a pod with
//! dnsPolicy ClusterFirst. The cluster's DNS server is next to the node and counts its queries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::dns::{UPSTREAM_ANSWER, UpstreamLog};
use test_support::eventually::{eventually, eventually_equal};
use test_support::namespace::run;

use crate::agent::Agent;
use crate::backend::{A, B};
use crate::containerd::Containerd;
use crate::manifest::{WEB, WEB6, set_backends, write};
use crate::network::{Master, Network, network};
use crate::node::{CNI_BIN, ROOTFS, built, on_a_node};
use crate::podman::Podman;
use crate::runtime::{Container, Runtime};

/// The addresses of the cluster's DNS.
const DNS: [&str; 2] = ["10.96.0.10", "fd96::a"];
/// The endpoint of the cluster's DNS, next to the node.
const ENDPOINT: &str = "10.77.0.53";
const SEARCHES: [&str; 4] =
    ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"];
/// A name outside of the cluster, with an IPv4 address only.
const EXTERNAL: &str = "www.example.com";
/// A name that does not exist.
const MISSING: &str = "missing";
/// The time after which glibc, dig and c-ares repeat a query.
const RETRY_TIME: Duration = Duration::from_secs(5);

/// A program that prints the addresses of a name.
#[derive(Debug, Clone, Copy)]
struct Client {
    /// The command of the container's shell; the variable `name` is the name.
    command: &'static str,
    /// Whether the client uses the search list.
    has_search: bool,
}

const fn client(command: &'static str) -> Client {
    Client { command, has_search: true }
}

const CLIENTS: [Client; 5] = [
    client("/usr/bin/getent ahosts $name"),
    client("/usr/bin/dig +short +search $name A $name AAAA"),
    client("/bin/getaddrinfo-musl $name"),
    client("/bin/getaddrinfo-ares $name"),
    Client { has_search: false, ..client("/bin/busybox nslookup $name | /bin/busybox sed 1,/^$/d") },
];

impl Client {
    /// Returns the addresses of each name.
    fn resolve(self, container: &Container<'_>, names: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        let Self { command, .. } = self;
        let script = format!("for name in {}; do echo \"= $name\"; {command}; done; true", names.join(" "));
        let output = container.exec(&["/bin/sh", "-c", &script]).expect("a shell");
        let answers = output.split("= ").skip(1).map(|answer| {
            let (name, listing) = answer.split_once('\n').expect("a line with the name");
            let addresses = listing.split_whitespace().filter(|word| word.parse::<IpAddr>().is_ok());
            (name.to_owned(), addresses.map(str::to_owned).collect())
        });
        answers.collect()
    }
}

/// The names of the cluster, and one that does not exist, with the addresses that each client must print.
fn expected(client: Client) -> BTreeMap<String, BTreeSet<String>> {
    let (web, db): ([&str; 2], [&str; 2]) = ([WEB, WEB6], [A.address, A.address6]);
    let mut names = vec![
        ("web.default.svc.cluster.local", &web[..]),
        ("db-0.db.default.svc.cluster.local", &db[..]),
        (MISSING, &[]),
    ];
    if client.has_search {
        names.extend([("web", &web[..]), ("web.default.svc", &web[..]), ("db-0.db", &db[..])]);
    }
    let owned = |addresses: &[&str]| addresses.iter().map(|address| (*address).to_owned()).collect();
    names.into_iter().map(|(name, addresses)| (name.to_owned(), owned(addresses))).collect()
}

/// Writes the services: web, db with a named endpoint, and the cluster's DNS.
fn write_manifests() {
    set_backends(&[A, B]);
    let meta = |namespace: &str, name: &str, service: &str| json!({"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": service}});
    let slice = |meta: Value, family: &str, ports: Value, endpoint: Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta,
               "addressType": family, "ports": ports, "endpoints": [endpoint]})
    };
    let service = |meta: Value, addresses: Value, ports: &Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta,
               "spec": {"clusterIP": addresses[0], "clusterIPs": addresses, "ports": ports,
                        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}})
    };
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP"},
                       {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]);
    let http = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    let named = |address: &str| json!({"addresses": [address], "hostname": "db-0"});
    write(
        "dns",
        vec![
            service(meta("kube-system", "kube-dns", ""), json!(DNS), &ports),
            slice(
                meta("kube-system", "kube-dns-4", "kube-dns"),
                "IPv4",
                ports,
                json!({"addresses": [ENDPOINT]}),
            ),
            service(meta("default", "db", ""), json!(["None"]), &http),
            slice(meta("default", "db-4", "db"), "IPv4", http.clone(), named(A.address)),
            slice(meta("default", "db-6", "db"), "IPv6", http, named(A.address6)),
        ],
    );
}

/// Adds the machine's programs and libraries, and clients that Debian does not contain, to the containers' files.
fn add_clients() {
    let inside = |path: &str| format!("{ROOTFS}/{path}");
    fs::create_dir(inside("usr")).expect("a mount point");
    run("mount", &["--bind", "-o", "ro", "/usr", &inside("usr")], "");
    for dir in ["lib", "lib64"] {
        symlink(format!("usr/{dir}"), inside(dir)).expect("a link to libraries");
    }
    fs::write(inside("etc/nsswitch.conf"), "hosts: files dns\n").expect("the configuration of glibc");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("containers/dns");
    let source = |name: &str| sources.join(name).display().to_string();
    let musl = [&source("getaddrinfo.c"), "-static", "-o", &inside("bin/getaddrinfo-musl")];
    run("musl-gcc", &musl, "");
    run("cc", &[&source("ares.c"), "-o", &inside("bin/getaddrinfo-ares"), "-lcares"], "");
}

/// Writes the resolv.conf of containers, also of running ones, as the kubelet does.
fn set_nameserver(server: &str) {
    let text = format!("search {}\nnameserver {server}\noptions ndots:5\n", SEARCHES.join(" "));
    fs::write(format!("{ROOTFS}/etc/resolv.conf"), text).expect("write resolv.conf");
}

/// A network that passes the DNS configuration and the name of the pod to the plugin, as containerd's CRI plugin does.
fn configure(master: Master) {
    let dns = json!({"servers": DNS, "searches": SEARCHES, "options": ["ndots:5"]});
    let portico = json!({"runtimeConfig": {"dns": dns}});
    Network { master, has_default_route: master == Master::Bridge, portico: Some(portico), ..network() }
        .configure();
    let plugin = format!("{CNI_BIN}/portico-cni");
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=client;K8S_POD_UID=uid-1";
    fs::remove_file(&plugin).expect("remove the link to the plugin");
    let script = format!("#!/bin/sh\nCNI_ARGS='{args}' exec {}\n", built("portico-cni").display());
    fs::write(&plugin, script).expect("write a script");
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).expect("make the script executable");
}

fn containerd() -> Box<dyn Runtime> {
    Box::new(Containerd::start())
}

fn podman() -> Box<dyn Runtime> {
    Box::new(Podman::new())
}

/// Runs `body` with a container whose DNS queries the agent answers.
fn with_container(
    master: Master,
    runtime: fn() -> Box<dyn Runtime>,
    body: impl FnOnce(&Agent, &UpstreamLog, &Container<'_>) + Send,
) {
    on_a_node(|node| {
        if master == Master::Bridge {
            node.lan.bridge();
        }
        let upstream = node.lan.serve_dns(ENDPOINT);
        add_clients();
        set_nameserver(DNS[0]);
        configure(master);
        write_manifests();
        let agent = Agent::start_as(Path::new("/run/portico"), &["--dns"]);
        let runtime = runtime();
        let container = Container::start(&*runtime, "client", "pods");
        eventually("the agent answers the pod", || {
            let status = agent.status()?;
            if status["dns"]["pods"][0]["armed"] == true { Ok(()) } else { Err(status["dns"].to_string()) }
        });
        body(&agent, &upstream, &container);
        container.remove();
        agent.wait_until_attached(0);
    });
}

/// The queries that the agent answered, and those of them that ended the walk of a search list.
fn counts(agent: &Agent) -> [u64; 2] {
    let totals = agent.status().expect("a status")["dns"]["totals"].clone();
    ["queries", "collapsed"].map(|counter| totals[counter].as_u64().expect("a number"))
}

/// Asserts that each client resolves the names of the cluster and an external name without a repeated query.
fn assert_names_resolve(agent: &Agent, upstream: &UpstreamLog, container: &Container<'_>, servers: &[&str]) {
    for server in servers {
        set_nameserver(server);
        if server.contains(':') {
            wait_until_ipv6_is_usable(container);
        }
        for client in CLIENTS {
            let expected = expected(client);
            let names: Vec<&str> = expected.keys().map(String::as_str).collect();
            let start = Instant::now();
            assert_eq!(client.resolve(container, &names), expected, "{client:?} with {server}");
            assert!(start.elapsed() < RETRY_TIME, "{client:?} with {server}: {:?}", start.elapsed());
            assert_external_name_costs_two_queries(agent, upstream, container, client);
        }
        let page =
            container.exec(&["/bin/timeout", "5", "/bin/wget", "-q", "-O", "-", "http://db-0.db:8080/"]);
        assert_eq!(page.as_deref(), Ok("a\n"), "wget with {server}");
    }
}

/// Waits until the kernel has verified that the pod's IPv6 address is unique: for a macvlan, about 2 s after its start.
fn wait_until_ipv6_is_usable(container: &Container<'_>) {
    let tentative = || container.within(|| run("ip", &["-6", "-o", "address", "show", "tentative"], ""));
    eventually_equal("no IPv6 address is tentative", &String::new(), tentative);
}

/// The names of the cluster that the cluster's DNS server was asked for.
fn upstream_names(upstream: &UpstreamLog) -> BTreeSet<String> {
    let names = upstream.queries().into_iter().map(|(_, name, _)| name);
    names.filter(|name| name.ends_with("cluster.local.")).collect()
}

fn assert_external_name_costs_two_queries(
    agent: &Agent,
    upstream: &UpstreamLog,
    container: &Container<'_>,
    client: Client,
) {
    let [queries, collapsed] = counts(agent);
    let answer = client.resolve(container, &[EXTERNAL]);
    assert_eq!(answer[EXTERNAL], [UPSTREAM_ANSWER.to_owned()].into(), "{client:?}");
    assert_eq!(upstream_names(upstream), BTreeSet::new(), "{client:?}");
    let walks = if client.has_search { 2 } else { 0 };
    eventually_equal(&format!("{client:?} sends one query for each family"), &[2, walks], || {
        let [queries_now, collapsed_now] = counts(agent);
        [queries_now - queries, collapsed_now - collapsed]
    });
}

#[test]
fn dns_clients_in_a_bridged_container_of_containerd_resolve_names() {
    with_container(Master::Bridge, containerd, |agent, upstream, container| {
        assert_names_resolve(agent, upstream, container, &DNS);
    });
}

#[test]
fn dns_clients_in_a_macvlan_container_of_containerd_resolve_names() {
    with_container(Master::Macvlan, containerd, |agent, upstream, container| {
        assert_names_resolve(agent, upstream, container, &DNS);
    });
}

#[test]
fn dns_clients_in_a_bridged_container_of_podman_resolve_names() {
    with_container(Master::Bridge, podman, |agent, upstream, container| {
        assert_names_resolve(agent, upstream, container, &DNS[..1]);
    });
}

/// Forwards queries to a server, until the sender of `running` is dropped. Returns the number of responses.
fn forward(own: &UdpSocket, upstream: &UdpSocket, running: &Receiver<()>) -> usize {
    let mut buffer = [0; 4096];
    let mut responses = 0;
    while running.try_recv() == Err(TryRecvError::Empty) {
        let Ok((length, client)) = own.recv_from(&mut buffer) else { continue };
        upstream.send(&buffer[..length]).expect("send a query");
        let length = upstream.recv(&mut buffer).expect("a response");
        own.send_to(&buffer[..length], client).expect("send a response");
        responses += 1;
    }
    responses
}

#[test]
fn resolver_on_the_loopback_address_of_a_container_forwards_to_the_agent() {
    with_container(Master::Bridge, containerd, |agent, _, container| {
        set_nameserver("127.0.0.1");
        let (own, upstream) = container.within(|| {
            let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("an unused port");
            let upstream = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
            upstream.connect((DNS[0], 53)).expect("a route");
            (own, upstream)
        });
        own.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        upstream.set_read_timeout(Some(RETRY_TIME)).expect("a timeout");
        let responses = thread::scope(|scope| {
            let (stop, running) = channel();
            let forwarder = scope.spawn(move || forward(&own, &upstream, &running));
            let client = CLIENTS[0];
            let expected = expected(client);
            let names: Vec<&str> = expected.keys().map(String::as_str).collect();
            let answers = client.resolve(container, &names);
            drop(stop);
            assert_eq!(answers, expected);
            forwarder.join().expect("a forwarder")
        });
        assert_eq!(counts(agent)[0], responses as u64, "the agent answered each query");
    });
}

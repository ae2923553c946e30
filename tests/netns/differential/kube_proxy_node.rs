//! `KubeProxyNode`: a node with the real kube-proxy, which follows the snapshots of a random cluster.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use netns_nft::Socket;
use serde_json::Value;
use test_support::apiserver::ApiServer;
use test_support::differential::node_profile::NodeProfile;
use test_support::differential::random_cluster::RandomCluster;
use test_support::kube_proxy::KubeProxy;
use test_support::namespace::run;

const TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const FAMILIES: [&str; 2] = ["ip", "ip6"];

/// A node with kube-proxy.
pub(crate) struct KubeProxyNode {
    pub(crate) api: ApiServer,
    profile: NodeProfile,
    proxy: KubeProxy,
    socket: Socket,
    /// The kind, namespace and name of each object.
    objects: BTreeSet<[String; 3]>,
}

fn identity(object: &Value) -> [String; 3] {
    let metadata = &object["metadata"];
    [&object["kind"], &metadata["namespace"], &metadata["name"]]
        .map(|text| text.as_str().expect("a text").to_owned())
}

impl KubeProxyNode {
    /// Starts kube-proxy in this network namespace, with a cluster without services.
    pub(crate) fn start(profile: &NodeProfile) -> Self {
        let program = KubeProxy::program().expect("KUBE_PROXY");
        let api = ApiServer::double();
        profile.objects().into_iter().for_each(|object| api.put(object));
        let proxy = KubeProxy::start(&program, profile.kube_proxy_config(api.kubeconfig()));
        let socket = Socket::open().expect("a socket");
        Self { api, profile: *profile, proxy, socket, objects: BTreeSet::new() }
    }

    /// Replaces the objects with those of a snapshot, and waits until kube-proxy has programmed them.
    pub(crate) fn program(&mut self, snapshot: u16, services: usize) -> RandomCluster {
        let cluster = RandomCluster::new(snapshot, services, &self.profile);
        let objects: BTreeSet<[String; 3]> = cluster.objects().map(identity).collect();
        for [kind, namespace, name] in self.objects.difference(&objects) {
            self.api.delete(kind, namespace, name);
        }
        cluster.objects().for_each(|object| self.api.put(object.clone()));
        self.objects = objects;
        let port = RandomCluster::sentinel_port(snapshot);
        let (start, mut generation) = (Instant::now(), None);
        while !FAMILIES.iter().all(|family| has_sentinel(family, port)) {
            // Without a change of the ruleset, another look is useless.
            while generation == Some(self.socket.generation().expect("a generation")) {
                assert!(
                    start.elapsed() < TIMEOUT,
                    "kube-proxy has no snapshot {snapshot}: {}",
                    self.proxy.log()
                );
                thread::sleep(POLL_INTERVAL);
            }
            generation = Some(self.socket.generation().expect("a generation"));
        }
        cluster
    }
}

/// Whether the table has the port of the sentinel, and its endpoint with the same port.
fn has_sentinel(family: &str, port: u16) -> bool {
    let tables = run("nft", &["list", "tables"], "");
    if !tables.contains(&format!("table {family} kube-proxy")) {
        return false;
    }
    let table = run("nft", &["list", "table", family, "kube-proxy"], "");
    let frontend = format!(". tcp . {port} :");
    table.contains(&frontend) && table.contains(&format!(" . {port} }}"))
}

//! The real kube-proxy with a real API server, as a peer.
//!
//! It runs if the environment variable `KUBE_PROXY` is the path of the program; `KUBEBUILDER_ASSETS` then is the directory
//! of etcd and kube-apiserver. kube-proxy is in the nftables mode with its default intervals.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::agent_speed::memory_mb;
use crate::cluster_objects::{NODE, node, node_port_service, slice};
use crate::http_status::get;
use bench_report::Spread;
use netns_nft::Socket;
use serde_json::json;
use test_support::apiserver::ApiServer;
use test_support::eventually::Wait;
use test_support::kube_proxy::KubeProxy;

/// The number of clients that create objects.
const CLIENTS: usize = 4;
/// The namespaces of `cluster_objects::service`.
const NAMESPACES: usize = 100;
/// kube-proxy programs changes at most once a second, the first one immediately.
const PAUSE: Duration = Duration::from_secs(3);
const WAIT: Wait = Wait { timeout: Duration::from_secs(300), interval: Duration::from_millis(1) };
/// The interval of requests for metrics, which must not disturb the sync.
const METRICS_INTERVAL: Duration = Duration::from_millis(200);
const FULL_SYNC: &str = "kubeproxy_sync_full_proxy_rules_duration_seconds";

/// The figures of kube-proxy, in ms and MB.
pub(crate) struct KubeProxyFigures {
    pub(crate) program: Spread,
    pub(crate) change: Spread,
    pub(crate) resident: Spread,
    pub(crate) peak: Spread,
}

/// Measures kube-proxy in this network namespace, if there is one.
pub(crate) fn kube_proxy(services: usize, changes: usize) -> Option<KubeProxyFigures> {
    let program = KubeProxy::program()?;
    let api = ApiServer::real();
    create_objects(&api, services);
    let proxy = start(&program, &api);
    let program = first_sync();
    let socket = Socket::open().expect("a socket");
    let one = |number: usize| {
        thread::sleep(PAUSE);
        let before = socket.generation().expect("a generation");
        let start = Instant::now();
        api.put(slice(number * 7_919 % services, number + 1));
        WAIT.until("kube-proxy applies the change", || {
            (socket.generation().expect("a generation") != before)
                .then(|| start.elapsed().as_secs_f64() * 1e3)
        })
    };
    Some(KubeProxyFigures {
        program,
        change: Spread::of((0..changes).map(one).collect()),
        resident: memory_mb(proxy.id(), "VmRSS:"),
        peak: memory_mb(proxy.id(), "VmHWM:"),
    })
}

/// Creates a node, namespaces, and services with node ports and three endpoints each.
pub(crate) fn create_objects(api: &ApiServer, services: usize) {
    api.put(node());
    for number in 0..NAMESPACES {
        api.put(json!({"kind": "Namespace", "metadata": {"name": format!("n{number}")}}));
    }
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                for index in (client..services).step_by(CLIENTS) {
                    api.put(node_port_service(index));
                    api.put(slice(index, 0));
                }
            });
        }
    });
}

fn start(program: &Path, api: &ApiServer) -> KubeProxy {
    let config = json!({"mode": "nftables", "clientConnection": {"kubeconfig": api.kubeconfig()},
        "hostnameOverride": NODE, "clusterCIDR": "10.128.0.0/9"});
    KubeProxy::start(program, config)
}

/// Returns the duration of the first sync of the rules of IPv4, of which kube-proxy keeps the sum and the number.
fn first_sync() -> Spread {
    let seconds = WAIT.until("kube-proxy is synced", || {
        let page = get(10_249, "/metrics")?;
        let value = |suffix: &str| {
            let name = format!("{FULL_SYNC}_{suffix}{{ip_family=\"IPv4\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok())
        };
        thread::sleep(METRICS_INTERVAL);
        Some(value("sum")? / value("count").filter(|count| *count > 0.0)?)
    });
    Spread::one(seconds * 1e3)
}

//! `PeerProxy`: the service proxy from which a node moves to Portico, and back.
//!
//! Without the real program, its rules were recorded, and a server answers at its ports. `migration_real` records the
//! rules again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;
use test_support::agent::TIMEOUT;
use test_support::apiserver::ApiServer;
use test_support::kube_proxy::KubeProxy;
use test_support::namespace::{load, run};

pub(crate) const WEB_IP: &str = "10.0.5.11";
pub(crate) const ECHO_IP: &str = "10.0.5.17";
pub(crate) const DNS_IP: &str = "10.0.5.18";

const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1.7e+09\n";

/// A mode of kube-proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    Nftables,
    Iptables,
}

impl ProxyMode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// Loads the recorded rules, whatever the network namespace has.
    pub(crate) fn load_rules(self) {
        match self {
            Self::Nftables => load(include_str!("kube-proxy-nftables.nft")),
            Self::Iptables => {
                run("iptables-restore", &["--noflush"], include_str!("kube-proxy-iptables.rules"));
                run("ip6tables-restore", &["--noflush"], include_str!("kube-proxy-ip6tables.rules"));
            }
        }
    }
}

/// A running kube-proxy.
pub(crate) enum PeerProxy {
    Recorded { is_over: Arc<AtomicBool>, servers: Vec<JoinHandle<()>> },
    Real { _process: KubeProxy },
}

impl PeerProxy {
    /// Loads the recorded rules, and answers at the ports.
    pub(crate) fn recorded(mode: ProxyMode) -> Self {
        mode.load_rules();
        let is_over = Arc::new(AtomicBool::new(false));
        let config = json!({"kubeproxy.config.k8s.io": {"mode": mode.name(), "nodePortAddresses": null,
            "clusterCIDR": "10.1.0.0/16", "detectLocalMode": "ClusterCIDR", "healthzBindAddress": "0.0.0.0:10256",
            "metricsBindAddress": "127.0.0.1:10249", "iptables": {"localhostNodePorts": true}}});
        let config = config.to_string();
        let pages = [
            (10_249, vec![("/proxyMode", mode.name()), ("/metrics", SYNCED), ("/configz", &config)]),
            (10_256, vec![("/healthz", "{\"lastUpdated\": \"2026-11-28T00:00:00Z\"}")]),
        ];
        let servers = pages.map(|(port, pages)| {
            let is_over = Arc::clone(&is_over);
            let pages = pages.into_iter().map(|(path, body)| (path, body.to_owned())).collect::<Vec<_>>();
            thread::spawn(move || serve(port, &pages, &is_over))
        });
        Self::Recorded { is_over, servers: servers.into() }
    }

    /// Starts the program that the variable `KUBE_PROXY` names.
    pub(crate) fn real(mode: ProxyMode, api: &ApiServer) -> Self {
        let program = KubeProxy::program().expect("KUBE_PROXY: the path of kube-proxy");
        let config = json!({"mode": mode.name(), "clientConnection": {"kubeconfig": api.kubeconfig()},
            "hostnameOverride": "n1", "clusterCIDR": "10.1.0.0/16"});
        Self::Real { _process: KubeProxy::start(&program, config) }
    }

    /// Ends the proxy. Its rules stay, as those of the real one.
    pub(crate) fn stop(self) {}
}

impl Drop for PeerProxy {
    fn drop(&mut self) {
        if let Self::Recorded { is_over, servers } = self {
            is_over.store(true, Relaxed);
            servers.drain(..).for_each(|server| drop(server.join()));
        }
    }
}

/// Serves pages at a port, as soon as no other process has it.
fn serve(port: u16, pages: &[(&str, String)], is_over: &AtomicBool) {
    let start = Instant::now();
    let address = SocketAddr::from(([0, 0, 0, 0], port));
    let listener = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(_) if is_over.load(Relaxed) => return,
            Err(error) => assert!(start.elapsed() < 2 * TIMEOUT, "{port}: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    listener.set_nonblocking(true).expect("accept without waiting");
    while !is_over.load(Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        stream.set_nonblocking(false).expect("wait for the request");
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap_or_default();
        let request = String::from_utf8_lossy(&request[..length]).into_owned();
        let page = pages.iter().find(|(path, _)| request.starts_with(&format!("GET {path} ")));
        let (status, body) = page.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", body.as_str()));
        let _ = write!(stream, "HTTP/1.0 {status}\r\n\r\n{body}");
    }
}

/// Whether the network namespace has rules of kube-proxy.
pub(crate) fn has_kube_proxy_rules() -> bool {
    let ruleset = run("nft", &["list", "chains"], "");
    ["table ip kube-proxy", "table ip6 kube-proxy", "KUBE-SERVICES", "KUBE-SEP-", "KUBE-PROXY-CANARY"]
        .iter()
        .any(|text| ruleset.contains(text))
}

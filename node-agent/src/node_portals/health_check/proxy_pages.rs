//! The pages of kube-proxy itself, which load balancers and tools request from every node.
//!
//! Cloud providers check `:10256/healthz` for services with `externalTrafficPolicy: Cluster` (KEP-3836), and
//! the conformance tests of Kubernetes read `127.0.0.1:10249/proxyMode`. While a kube-proxy runs on the node, it has these ports;
//! when it stops, Portico takes them over within a second.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use daemon::{ConnectionLimits, Page, PageConnections, Pages, serve_pages};

use super::check_page::{healthz_page, livez_page, proxy_mode_page};
use super::port_binding::{ListenScope, listen};
use super::proxy_health::ProxyHealth;

const HEALTH_PORT: u16 = 10_256;
const MODE_PORT: u16 = 10_249;
/// The limits of connections to a port.
const LIMITS: ConnectionLimits = ConnectionLimits { total: 128, of_a_peer: 64 };

/// Serves `:10256/healthz`, `:10256/livez` and `127.0.0.1:10249/proxyMode` until dropped. Needs a tokio runtime whose
/// threads are in the node's network namespace.
pub async fn serve_proxy_pages(health: Arc<ProxyHealth>) {
    tokio::join!(
        serve(ListenScope::Node, HEALTH_PORT, HealthPages { health }),
        serve(ListenScope::Loopback, MODE_PORT, ModePages),
    );
}

async fn serve(scope: ListenScope, port: u16, pages: impl Pages) {
    let on_failure = |error: &std::io::Error, failures| {
        if failures == 1 {
            tracing::info!(port, %error, "another process has a port of kube-proxy; waiting for it");
        }
    };
    let listener = listen(scope, port, on_failure).await;
    tracing::info!(port, "serving a port of kube-proxy");
    serve_pages(listener, PageConnections::new(LIMITS), Arc::new(pages)).await;
}

struct HealthPages {
    health: Arc<ProxyHealth>,
}

impl Pages for HealthPages {
    async fn page(&self, path: &str) -> Option<Page> {
        let page = match path {
            "/healthz" => healthz_page,
            "/livez" => livez_page,
            _ => return None,
        };
        Some(page(self.health.status(Instant::now()), SystemTime::now()))
    }

    fn has_any_method(&self) -> bool {
        true
    }
}

struct ModePages;

impl Pages for ModePages {
    async fn page(&self, path: &str) -> Option<Page> {
        (path == "/proxyMode").then(proxy_mode_page)
    }

    fn has_any_method(&self) -> bool {
        true
    }
}

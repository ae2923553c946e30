//! The pages of kube-proxy itself, which load balancers and tools request from every node.
//!
//! Cloud providers check `:10256/healthz` for services with `externalTrafficPolicy: Cluster` (KEP-3836), and
//! the conformance tests of Kubernetes read `127.0.0.1:10249/proxyMode`. While a kube-proxy runs on the node, it has these ports;
//! when it stops, Portico takes them over within a second, unless a kube-proxy is to have them.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use daemon::{ConnectionLimits, HeaderName, HeaderValue, Page, PageConnections, Pages, serve_pages};
use tokio::sync::watch::Receiver;

use super::check_page::{healthz_page, livez_page, proxy_mode_page};
use super::port_binding::{ListenScope, listen};
use super::proxy_health::ProxyHealth;

/// The port at which load balancers check kube-proxy.
pub const HEALTH_PORT: u16 = 10_256;
/// The port of the metrics and the mode of kube-proxy.
pub const MODE_PORT: u16 = 10_249;
/// The header by which the pages of Portico are distinguished from those of kube-proxy.
const SERVER: HeaderName = HeaderName::from_static("server");
pub(crate) const SERVER_NAME: &str = "portico";
const OWN_SERVER: HeaderValue = HeaderValue::from_static(SERVER_NAME);
/// The limits of connections to a port.
const LIMITS: ConnectionLimits = ConnectionLimits { total: 128, of_a_peer: 64 };

/// The ports of kube-proxy that the agent has, or waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortClaims {
    /// Port 10256, and the health-check ports of services.
    pub health: bool,
    /// Port 10249 of the loopback address.
    pub mode: bool,
}

impl PortClaims {
    /// Both ports, or none of them.
    #[must_use]
    pub const fn both(is_claimed: bool) -> Self {
        Self { health: is_claimed, mode: is_claimed }
    }
}

/// Serves `:10256/healthz`, `:10256/livez` and `127.0.0.1:10249/proxyMode` while the ports are claimed, until dropped.
/// Needs a tokio runtime whose threads are in the node's network namespace.
pub async fn serve_proxy_pages(health: Arc<ProxyHealth>, claims: Receiver<PortClaims>) {
    let has_health = |claims: &PortClaims| claims.health;
    let has_mode = |claims: &PortClaims| claims.mode;
    tokio::join!(
        serve_while(claims.clone(), has_health, || {
            serve(ListenScope::Node, HEALTH_PORT, HealthPages { health: Arc::clone(&health) })
        }),
        serve_while(claims, has_mode, || serve(ListenScope::Loopback, MODE_PORT, ModePages)),
    );
}

/// Serves a port whenever it is claimed, until the sender of claims is dropped.
async fn serve_while<F: Future<Output = ()>>(
    mut claims: Receiver<PortClaims>,
    is_claimed: impl Fn(&PortClaims) -> bool,
    serve: impl Fn() -> F,
) {
    while claims.wait_for(&is_claimed).await.is_ok() {
        tokio::select! {
            () = serve() => {}
            _ = claims.wait_for(|claims| !is_claimed(claims)) => {}
        }
    }
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
        let page = page(self.health.status(Instant::now()), SystemTime::now());
        Some(page.with_header(SERVER, OWN_SERVER))
    }

    fn has_any_method(&self) -> bool {
        true
    }
}

struct ModePages;

impl Pages for ModePages {
    async fn page(&self, path: &str) -> Option<Page> {
        (path == "/proxyMode").then(|| proxy_mode_page().with_header(SERVER, OWN_SERVER))
    }

    fn has_any_method(&self) -> bool {
        true
    }
}

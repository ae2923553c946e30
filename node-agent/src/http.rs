//! The pages `/metrics`, `/healthz` and `/readyz`, which Prometheus and the kubelet request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::{ConnectionLimits, Page, PageConnections, Pages, StatusCode, serve_pages};
use support::Backoff;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::metrics::metrics;
use crate::reporter::Reporter;

/// The limits of connections. The address can be reachable only through one node, so a peer can have all of them.
const LIMITS: ConnectionLimits = ConnectionLimits { total: 64, of_a_peer: 64 };
/// The delays before another attempt to bind the address.
const BIND_RETRY_FIRST: Duration = Duration::from_secs(1);
const BIND_RETRY_MAX: Duration = Duration::from_secs(60);

/// Serves at this address until aborted. If the address is in use, binding is retried: pods do not depend on metrics.
pub(crate) fn serve(address: SocketAddr, reporter: Reporter) -> AbortHandle {
    let serving = async move {
        let listener = listen(address).await;
        serve_pages(listener, PageConnections::new(LIMITS), Arc::new(AgentPages { reporter })).await;
    };
    tokio::spawn(serving).abort_handle()
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut backoff = Backoff::new(BIND_RETRY_FIRST, BIND_RETRY_MAX);
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(address);
                tracing::info!(%address, "serving /metrics, /healthz and /readyz");
                return listener;
            }
            Err(error) => error,
        };
        let delay = backoff.next_delay();
        let retry_in_s = delay.as_secs();
        tracing::warn!(%address, %error, retry_in_s, "failed to listen for metrics; will retry");
        tokio::time::sleep(delay).await;
    }
}

/// The pages of the agent. Each one needs a report, so that an event loop that hangs is not healthy.
struct AgentPages {
    reporter: Reporter,
}

impl Pages for AgentPages {
    async fn page(&self, path: &str) -> Option<Page> {
        if !["/metrics", "/healthz", "/readyz"].contains(&path) {
            return None;
        }
        let Ok(report) = self.reporter.report().await else {
            return Some(Page::line(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"));
        };
        Some(match path {
            "/metrics" => Page::metrics(metrics(&report)),
            "/readyz" if !report.synced => {
                let reason = report.outage.unwrap_or_else(|| "not all objects have been read".to_owned());
                let text = format!("initial sync not complete: {reason}");
                Page::line(StatusCode::SERVICE_UNAVAILABLE, &text)
            }
            _ => Page::line(StatusCode::OK, "ok"),
        })
    }
}

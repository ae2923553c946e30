//! `Admin`: serves /metrics, /healthz and /readyz over plain HTTP, for Prometheus and for the kubelet.

use std::sync::Arc;

use daemon::{ConnectionLimits, Page, PageConnections, Pages, StatusCode, serve_pages};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::certificate::CertResolver;
use crate::clock::now_s;
use crate::counters::Counters;
use crate::listener::{Phase, Server};
use crate::metrics::{Report, metrics};
use crate::namespaces::Namespaces;
use crate::services::ServiceState;

/// The limits of connections; probes of the kubelet are answered even if other clients are silent.
const LIMITS: ConnectionLimits = ConnectionLimits { total: 64, of_a_peer: 16 };

/// The data of the pages.
pub(crate) struct Admin {
    pub(crate) server: Arc<Server>,
    pub(crate) resolver: Arc<CertResolver>,
    pub(crate) services: watch::Receiver<ServiceState>,
    pub(crate) namespaces: Namespaces,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) counters: Counters,
}

impl Pages for Admin {
    async fn page(&self, path: &str) -> Option<Page> {
        let reasons = self.unready_reasons();
        Some(match path {
            "/metrics" => Page::metrics(metrics(&self.report(reasons.is_empty()))),
            "/healthz" => Page::line(StatusCode::OK, "ok"),
            "/readyz" if reasons.is_empty() => Page::line(StatusCode::OK, "ok"),
            "/readyz" => {
                let text = format!("not ready: {}", reasons.join("; "));
                Page::line(StatusCode::SERVICE_UNAVAILABLE, &text)
            }
            _ => return None,
        })
    }
}

impl Admin {
    /// Serves until the process exits.
    pub(crate) async fn serve(self, listener: TcpListener) {
        serve_pages(listener, PageConnections::new(LIMITS), Arc::new(self)).await;
    }

    /// Returns the reasons why no requests should be sent to this replica.
    fn unready_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if *self.phase.borrow() > Phase::Serving {
            reasons.push("shutting down".to_owned());
        }
        if self.resolver.ends_s().is_none_or(|ends_s| ends_s <= now_s()) {
            reasons.push("no valid certificate".to_owned());
        }
        let services = self.services.borrow();
        if !services.is_synced {
            let reason = services.outage.as_deref().unwrap_or("initial sync in progress");
            reasons.push(format!("services are not known: {reason}"));
        }
        reasons
    }

    fn report(&self, is_ready: bool) -> Report {
        let services = self.services.borrow();
        Report {
            is_ready,
            is_synced: services.is_synced,
            has_outage: services.outage.is_some(),
            objects_rejected: services.rejected + self.namespaces.refused(),
            services: services.snapshot.service_count(),
            connections: self.server.load().connections(),
            in_flight_bytes: self.server.load().bytes(),
            certificate_expiry_s: self.resolver.ends_s(),
            counts: self.counters.snapshot(),
        }
    }
}

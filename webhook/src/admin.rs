//! `Admin`: serves /metrics, /healthz and /readyz over plain HTTP, for Prometheus and for the kubelet.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::body::Body;
use crate::certificate::CertResolver;
use crate::clock::now_s;
use crate::counters::Counters;
use crate::listener::{Phase, Server};
use crate::load::{Limits, Load};
use crate::metrics::{Report, metrics};
use crate::namespaces::Namespaces;
use crate::services::ServiceState;

/// The limits at a time. Beyond them, the oldest connection without a request is closed, of the peer with most
/// connections: probes of the kubelet are answered even if other clients are silent.
const LIMITS: Limits =
    Limits { connections: 64, connections_of_a_peer: 16, requests: 64, bytes: 0, large: 0 };
/// The time limit of a connection.
const CLIENT_MAX: Duration = Duration::from_secs(5);
/// The wait after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The data of the pages.
pub(crate) struct Admin {
    pub(crate) server: Arc<Server>,
    pub(crate) resolver: Arc<CertResolver>,
    pub(crate) services: watch::Receiver<ServiceState>,
    pub(crate) namespaces: Namespaces,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) counters: Counters,
}

impl Admin {
    /// Serves until the process exits.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let load = Load::new(LIMITS);
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                load.close_one();
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            };
            let Some(permit) = load.connection(peer.ip()) else { continue };
            let admin = Arc::clone(&self);
            tokio::spawn(async move {
                let service =
                    service_fn(|request| std::future::ready(Ok::<_, Infallible>(admin.respond(&request))));
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).keep_alive(false);
                let serving = builder.serve_connection(TokioIo::new(stream), service);
                // A client can disconnect at any time.
                tokio::select! {
                    _ = timeout(CLIENT_MAX, serving) => {}
                    () = permit.closed() => {}
                }
            });
            load.at_most(LIMITS.connections * 2).await;
        }
    }

    fn respond(&self, request: &Request<Incoming>) -> Response<Body> {
        let reasons = self.unready_reasons();
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET, "/readyz") if reasons.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET, "/readyz") => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join("; ")))
            }
            (&Method::GET, "/metrics") => (StatusCode::OK, metrics(&self.report(reasons.is_empty()))),
            (&Method::GET, _) => (
                StatusCode::NOT_FOUND,
                "not found; this server serves /metrics, /healthz and /readyz\n".to_owned(),
            ),
            _ => (StatusCode::METHOD_NOT_ALLOWED, "the method must be GET\n".to_owned()),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let text_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text_type);
        response
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

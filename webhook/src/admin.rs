//! /metrics, /healthz and /readyz over plain HTTP, for Prometheus and for the kubelet.
//!
//! What must not go in here: what the numbers mean.

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
use crate::listener::{Phase, Server};
use crate::load::{Limits, Load};
use crate::metrics::{Report, metrics};
use crate::namespaces::Namespaces;
use crate::services::ServiceState;
use crate::tally::Tallied;

/// How many may ask at once. For one more the oldest that has not asked yet goes, of the peer that has the most: the
/// kubelet's probes are answered, whoever else is silent.
const LIMITS: Limits =
    Limits { connections: 64, connections_of_a_peer: 16, requests: 64, bytes: 0, large: 0 };
/// A client has so long to ask and to take the answer.
const CLIENT_MAX: Duration = Duration::from_secs(5);
/// The pause when no connection can be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// All that is told of this program.
pub(crate) struct Admin {
    pub(crate) server: Arc<Server>,
    pub(crate) shown: Arc<CertResolver>,
    pub(crate) known: watch::Receiver<ServiceState>,
    pub(crate) namespaces: Namespaces,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) tallied: Tallied,
}

impl Admin {
    /// Serves for ever.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let load = Load::new(LIMITS);
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                load.close_one();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Some(place) = load.connection(peer.ip()) else { continue };
            let admin = Arc::clone(&self);
            tokio::spawn(async move {
                let service =
                    service_fn(|request| std::future::ready(Ok::<_, Infallible>(admin.answer(&request))));
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).keep_alive(false);
                let serving = builder.serve_connection(TokioIo::new(stream), service);
                // A client that goes away is nobody's concern.
                tokio::select! {
                    _ = timeout(CLIENT_MAX, serving) => {}
                    () = place.closed() => {}
                }
            });
            load.at_most(LIMITS.connections * 2).await;
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let lacks = self.lacks();
        let (status, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET, "/readyz") if lacks.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
            (&Method::GET, "/readyz") => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", lacks.join("; ")))
            }
            (&Method::GET, "/metrics") => (StatusCode::OK, metrics(&self.report(lacks.is_empty()))),
            (&Method::GET, _) => {
                (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n".to_owned())
            }
            _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let text_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text_type);
        response
    }

    /// What there must be before requests are to be sent here.
    fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        if *self.phase.borrow() > Phase::Serving {
            lacks.push("it is ending".to_owned());
        }
        if self.shown.ends_s().is_none_or(|ends_s| ends_s <= now_s()) {
            lacks.push("there is no certificate that is valid".to_owned());
        }
        let known = self.known.borrow();
        if !known.is_synced {
            let why = known.outage.as_deref().unwrap_or("they have not all been read");
            lacks.push(format!("services are not known yet: {why}"));
        }
        lacks
    }

    fn report(&self, is_ready: bool) -> Report {
        let known = self.known.borrow();
        Report {
            is_ready,
            is_synced: known.is_synced,
            has_trouble: known.outage.is_some(),
            objects_refused: known.rejected + self.namespaces.refused(),
            services: known.snapshot.service_count(),
            connections: self.server.load().connections(),
            held_bytes: self.server.load().bytes(),
            certificate_ends_s: self.shown.ends_s(),
            tally: self.tallied.tally(),
        }
    }
}

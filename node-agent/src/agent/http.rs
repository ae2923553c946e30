//! /metrics, /healthz and /readyz, for Prometheus and for the kubelet.
//!
//! What must not go in here: what the numbers mean.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use crate::agent::driver::{Message, report};
use crate::agent::metrics::metrics;

/// A client has so long for the head of its request.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Listens; the answer says where, and serves from then on until it is aborted.
pub(crate) async fn serve(
    address: SocketAddr,
    sender: UnboundedSender<Message>,
) -> std::io::Result<(SocketAddr, AbortHandle)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept a connection for metrics");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let sender = sender.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| answer(request, sender.clone()));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_PATIENCE)
                    .serve_connection(TokioIo::new(stream), answer);
                // A client that goes away is nobody's concern.
                let _ = connection.await;
            });
        }
    });
    Ok((address, serving.abort_handle()))
}

async fn answer(
    request: Request<Incoming>,
    sender: UnboundedSender<Message>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET"));
    }
    let path = request.uri().path();
    if !["/metrics", "/healthz", "/readyz"].contains(&path) {
        return Ok(text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz"));
    }
    let Ok(report) = report(&sender).await else {
        return Ok(text(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"));
    };
    Ok(match path {
        "/metrics" => {
            let mut page = text(StatusCode::OK, &metrics(&report));
            page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
            page
        }
        "/readyz" if !report.synced => {
            let why = report.trouble.unwrap_or_else(|| "they have not all been read".to_owned());
            text(StatusCode::SERVICE_UNAVAILABLE, &format!("services and endpoints are not known yet: {why}"))
        }
        _ => text(StatusCode::OK, "ok"),
    })
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response
}

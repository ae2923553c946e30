//! The HTTP server for `/metrics`, `/healthz` and `/readyz`, which Prometheus and the kubelet request.

use std::collections::VecDeque;
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
use support::Backoff;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use crate::event_loop::{Message, report};
use crate::metrics::metrics;

/// The time in which a client must send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum duration of a client's connection.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// The maximum number of connections; a further one replaces the oldest.
const CLIENTS_MAX: usize = 64;
/// The maximum size of the head of a request.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// The delay after a failure to accept, which usually means that the process has no free file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The delays before another attempt to bind the address.
const BIND_RETRY_FIRST: Duration = Duration::from_secs(1);
const BIND_RETRY_MAX: Duration = Duration::from_secs(60);
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves at this address until aborted. If the address is in use, binding is retried: pods do not depend on metrics.
pub(crate) fn serve(address: SocketAddr, sender: UnboundedSender<Message>) -> AbortHandle {
    let serving = async move {
        let listener = listen(address).await;
        let mut clients: VecDeque<AbortOnDrop> = VecDeque::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept connection for metrics");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            clients.retain(|client| !client.0.is_finished());
            if clients.len() >= CLIENTS_MAX {
                // Closes the oldest connection, which is probably idle.
                clients.pop_front();
            }
            let sender = sender.clone();
            let client = tokio::spawn(tokio::time::timeout(CLIENT_TIMEOUT, async move {
                let service = service_fn(|request| respond(request, sender.clone()));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_buf_size(REQUEST_BYTES_MAX)
                    .serve_connection(TokioIo::new(stream), service);
                // Errors mean that the client disconnected, or sent an invalid request.
                let _ = connection.await;
            }));
            clients.push_back(AbortOnDrop(client.abort_handle()));
        }
    };
    tokio::spawn(serving).abort_handle()
}

/// The task of a client, which is aborted on drop.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
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

async fn respond(
    request: Request<Incoming>,
    sender: UnboundedSender<Message>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; use GET"));
    }
    let path = request.uri().path();
    if !["/metrics", "/healthz", "/readyz"].contains(&path) {
        let message = "not found; this server serves /metrics, /healthz and /readyz";
        return Ok(text(StatusCode::NOT_FOUND, message));
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
            let reason = report.outage.unwrap_or_else(|| "not all objects have been read".to_owned());
            let message = format!("initial sync not complete: {reason}");
            text(StatusCode::SERVICE_UNAVAILABLE, &message)
        }
        _ => text(StatusCode::OK, "ok"),
    })
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response
}

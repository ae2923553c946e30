//! /metrics, /healthz and /readyz, for Prometheus and for the kubelet.
//!
//! What must not go in here: what the numbers mean.

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
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use crate::event_loop::{Message, report};
use crate::metrics::metrics;

/// A client has so long for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// One connection of a client lasts so long, whatever it does.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// So many clients are connected at a time; one more takes the place of the oldest.
const CLIENTS_MAX: usize = 64;
/// The head of a request takes no more than this.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// After a failure to accept, which has to do with this machine's limits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// While the address is taken it is tried again so much later, twice as late each time.
const BIND_RETRY_FIRST: Duration = Duration::from_secs(1);
const BIND_RETRY_MAX: Duration = Duration::from_secs(60);
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves at this address until it is aborted. While the address is taken, that is tried again: pods need no metrics.
pub(crate) fn serve(address: SocketAddr, sender: UnboundedSender<Message>) -> AbortHandle {
    let serving = async move {
        let listener = listen(address).await;
        let mut clients: VecDeque<AbortOnDrop> = VecDeque::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection for metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            clients.retain(|client| !client.0.is_finished());
            if clients.len() >= CLIENTS_MAX {
                // The oldest has had its answer, or does not want one.
                clients.pop_front();
            }
            let sender = sender.clone();
            let client = tokio::spawn(tokio::time::timeout(CLIENT_TIMEOUT, async move {
                let answer = service_fn(|request| answer(request, sender.clone()));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .max_buf_size(REQUEST_BYTES_MAX)
                    .serve_connection(TokioIo::new(stream), answer);
                // A client that goes away is nobody's concern.
                let _ = connection.await;
            }));
            clients.push_back(AbortOnDrop(client.abort_handle()));
        }
    };
    tokio::spawn(serving).abort_handle()
}

/// A client's task, which ends with this.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut pause = BIND_RETRY_FIRST;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let address = listener.local_addr().unwrap_or(address);
                tracing::info!(%address, "serving /metrics, /healthz and /readyz");
                return listener;
            }
            Err(error) => {
                let retry_in_s = pause.as_secs();
                tracing::warn!(%address, %error, retry_in_s, "failed to serve metrics, tried again later");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(BIND_RETRY_MAX);
    }
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

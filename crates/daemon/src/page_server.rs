//! `serve_pages`: a small HTTP/1.1 server for short pages, such as metrics and health checks.
//!
//! Every client can be hostile: the number of connections, the size of a request's head and the duration of a
//! connection are bounded, and a peer with many connections cannot keep others out (see `connection_table`). Bodies of
//! requests are ignored, and a connection serves one request.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connection_table::{ConnectionLimits, ConnectionTable};

/// The maximum size of the head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The time in which a client must send the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum duration of a connection: the default timeout of a Prometheus scrape.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The delay after a failure to accept, which usually means that the process has no free file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The content type of text for people.
const TEXT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The content type of metrics.
const METRICS_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The response to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Page {
    /// Returns a page with this content type.
    pub fn new(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        Self { status, headers: vec![(CONTENT_TYPE, content_type)], body: body.into() }
            .with_header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
    }

    /// Returns a page with one line of text.
    #[must_use]
    pub fn line(status: StatusCode, text: &str) -> Self {
        Self::new(status, TEXT_TYPE, format!("{text}\n"))
    }

    /// Returns a page with metrics in the text format of Prometheus.
    #[must_use]
    pub fn metrics(text: String) -> Self {
        Self::new(StatusCode::OK, METRICS_TYPE, text)
    }

    /// Returns the status code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

/// The pages of a server.
pub trait Pages: Send + Sync + 'static {
    /// Returns the page at this path for a GET request, or none if there is no such page.
    fn page(&self, path: &str) -> impl Future<Output = Option<Page>> + Send;

    /// Whether requests with other methods get the same pages. Load balancers also check with HEAD and OPTIONS.
    fn has_any_method(&self) -> bool {
        false
    }
}

/// The connections of one or several page servers, within common limits. Clones share them.
#[derive(Debug, Clone)]
pub struct PageConnections {
    limits: ConnectionLimits,
    table: Arc<Mutex<ConnectionTable>>,
}

impl PageConnections {
    /// Returns an empty set with these limits.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        Self { limits, table: Arc::default() }
    }

    fn connect(&self, peer: IpAddr) -> Option<ConnectionPermit> {
        let (id, close) = self.table().connect(self.limits, peer)?;
        Some(ConnectionPermit { connections: self.clone(), id, close })
    }

    fn table(&self) -> MutexGuard<'_, ConnectionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection within the limits; dropping it ends it.
struct ConnectionPermit {
    connections: PageConnections,
    id: u64,
    close: Arc<Notify>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.table().disconnect(self.id);
    }
}

/// Serves pages until the future is dropped, which closes all connections.
pub async fn serve_pages(listener: TcpListener, connections: PageConnections, pages: Arc<impl Pages>) {
    let mut tasks = JoinSet::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept connection");
                connections.table().close_one();
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        let Some(permit) = connections.connect(peer.ip()) else { continue };
        tasks.spawn(serve_connection(stream, permit, Arc::clone(&pages)));
        // Connections that were closed to make room end soon.
        while tasks.len() > connections.limits.total * 2 {
            tasks.join_next().await;
        }
    }
}

async fn serve_connection(stream: TcpStream, permit: ConnectionPermit, pages: Arc<impl Pages>) {
    let service = service_fn(|request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(respond(&*pages, &request).await.into_response()) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.max_buf_size(HEAD_BYTES_MAX).keep_alive(false);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // Errors mean that the client disconnected, or sent an invalid request.
    tokio::select! {
        _ = timeout(CONNECTION_TIMEOUT, connection) => {}
        () = permit.close.notified() => {}
    }
}

async fn respond(pages: &impl Pages, request: &Request<Incoming>) -> Page {
    if request.method() != Method::GET && !pages.has_any_method() {
        return Page::line(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; use GET");
    }
    let page = pages.page(request.uri().path()).await;
    page.unwrap_or_else(|| Page::line(StatusCode::NOT_FOUND, "not found"))
}

#[cfg(test)]
mod tests;

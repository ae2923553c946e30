//! The HTTPS server: accepts connections, performs the TLS handshake, and serves HTTP/1.1 and HTTP/2.
//!
//! A client error closes only its connection and is counted. On shutdown, requests in flight are completed.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::ConnectionLimits;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::body::Body;
use crate::counters::Counters;
use crate::idle_timeout::{IdleTimeoutStream, InFlight};
use crate::load::{ConnectionLoad, Limits, Load};
use crate::request_handler::RequestHandler;

/// The limits at a time. An API server has one or two connections, with several requests.
const LIMITS: Limits = Limits {
    connections: ConnectionLimits { total: 1_000, of_a_peer: 250 },
    requests: 512,
    bytes: 44 << 20,
    large: 4,
};
/// The limit of connections that are closing while further ones are accepted.
const CLOSING_MAX: usize = 250;
/// The limits of buffers of a connection that are not charged to a request: in the kernel for each direction, and in HTTP
/// for each direction.
const SOCKET_BUFFER_BYTES: u32 = 64 << 10;
const HTTP_BUFFER_BYTES: usize = 64 << 10;
/// The HTTP/2 windows: the unread data of one request, and of all requests on a connection.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 128 << 10;
/// The limit of the head of a request, in bytes.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// The limit of requests that a client resets before they are accepted, and of its protocol errors.
const RESETS_MAX: usize = 20;
/// The length of the accept queue.
const BACKLOG: u32 = 1_024;
/// The time in which an idle client can react to the graceful shutdown of its connection.
const GOODBYE_MAX: Duration = Duration::from_millis(250);
/// The time limit of a TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// The time after which sent data that the client does not acknowledge closes the connection, in milliseconds.
const UNACKED_MAX_MS: u32 = 20_000;
/// The limit of concurrent requests on a connection.
const STREAMS_MAX: u32 = 128;
/// The interval of HTTP/2 pings to an idle client, and the time limit of its reply.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_MAX: Duration = Duration::from_secs(10);
/// The grace period of requests in flight on shutdown.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// The wait after a failed accept, for example if file descriptors are exhausted.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The phase of the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Normal operation.
    Serving,
    /// /readyz fails, and requests are still served.
    Draining,
    /// No connections are accepted.
    Ending,
}

/// The HTTPS server.
pub(crate) struct Server {
    acceptor: TlsAcceptor,
    handler: Arc<RequestHandler>,
    counters: Counters,
    load: Load,
}

impl Server {
    pub(crate) fn new(config: ServerConfig, handler: RequestHandler, counters: Counters) -> Self {
        let (acceptor, handler) = (TlsAcceptor::from(Arc::new(config)), Arc::new(handler));
        Self { acceptor, handler, counters, load: Load::new(LIMITS) }
    }

    /// Returns the load of connections and requests.
    pub(crate) fn load(&self) -> &Load {
        &self.load
    }

    /// Serves until the last phase, and until requests in flight are completed.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, mut phase: watch::Receiver<Phase>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|phase| *phase == Phase::Ending) => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept connection");
                    // File descriptors may be exhausted.
                    self.load.close_one();
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let Some(permit) = self.load.connection(peer.ip()) else {
                self.counters.closed("too_many");
                continue;
            };
            let (server, phase) = (Arc::clone(&self), phase.clone());
            tokio::spawn(async move {
                if let Err(reason) = Arc::clone(&server).connection(stream, Arc::new(permit), phase).await {
                    server.counters.closed(reason);
                }
            });
            self.load.at_most(LIMITS.connections.total + CLOSING_MAX).await;
        }
        drop(listener);
        if timeout(SHUTDOWN_MAX, self.load.at_most(0)).await.is_err() {
            tracing::warn!("shutdown timeout; dropping in-flight requests");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        permit: Arc<ConnectionLoad>,
        phase: watch::Receiver<Phase>,
    ) -> Result<(), &'static str> {
        // Responses are sent without delay, and dropped with the connection if the client does not read them.
        let _ = stream.set_nodelay(true);
        let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &UNACKED_MAX_MS);
        let stream = tokio::select! {
            stream = timeout(HANDSHAKE_MAX, self.acceptor.accept(stream)) => stream,
            () = permit.closed() => return Err("pressure"),
        };
        let stream = stream.map_err(|_| "slow_handshake")?.map_err(|error| handshake_failure(&error))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let in_flight = InFlight::default();
        let stream = TokioIo::new(IdleTimeoutStream::new(stream, in_flight.clone(), is_http2));
        let (server, requests, now) = (Arc::clone(&self), in_flight.clone(), phase.clone());
        let of_request = Arc::clone(&permit);
        let service = service_fn(move |request| {
            Arc::clone(&server).handle(request, Arc::clone(&of_request), requests.clone(), now.clone())
        });
        let result = if is_http2 {
            serve_until_closed(http2().serve_connection(stream, service), &in_flight, &permit, phase).await
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HTTP_BUFFER_BYTES);
            serve_until_closed(builder.serve_connection(stream, service), &in_flight, &permit, phase).await
        };
        let Some(result) = result else { return Err("pressure") };
        result.map_err(|error| if is_timeout(&error) { "idle_or_slow" } else { "broken" })
    }

    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<ConnectionLoad>,
        in_flight: InFlight,
        phase: watch::Receiver<Phase>,
    ) -> Result<Response<Body>, Infallible> {
        let _guard = in_flight.begin();
        let is_http1 = request.version() < Version::HTTP_2;
        let mut response = self.handler.handle(request, &connection).await;
        if is_http1 && *phase.borrow() > Phase::Serving {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Returns a listener whose connections have small buffers in the kernel.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit the sizes; the TCP window is negotiated before `accept`.
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn http2() -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    builder.keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_MAX);
    builder.initial_stream_window_size(STREAM_WINDOW_BYTES);
    builder.initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder.max_send_buf_size(HTTP_BUFFER_BYTES).max_header_list_size(HEAD_BYTES_MAX);
    builder.max_pending_accept_reset_streams(RESETS_MAX).max_local_error_reset_streams(RESETS_MAX);
    builder
}

/// Serves a connection until the client closes it, until its permit is revoked, or until the requests in flight at shutdown
/// are completed. Returns none if the permit was revoked.
async fn serve_until_closed<C: GracefulConnection>(
    connection: C,
    in_flight: &InFlight,
    permit: &ConnectionLoad,
    mut phase: watch::Receiver<Phase>,
) -> Option<C::Output> {
    let mut connection = pin!(connection);
    tokio::select! {
        result = &mut connection => return Some(result),
        () = permit.closed() => {
            if permit.is_in_use() {
                return None;
            }
            // A graceful shutdown, so that no request of an honest client is lost.
            connection.as_mut().graceful_shutdown();
            let _ = timeout(GOODBYE_MAX, connection).await;
            return None;
        }
        () = wait_for_end(&mut phase) => {}
    }
    // A client that has just connected is about to send a request; the response announces the end of the connection.
    if in_flight.finished() > 0 {
        connection.as_mut().graceful_shutdown();
    }
    tokio::select! {
        result = &mut connection => Some(result),
        () = permit.closed() => None,
    }
}

async fn wait_for_end(phase: &mut watch::Receiver<Phase>) {
    // The sender lives until the process exits.
    let _ = phase.wait_for(|phase| *phase == Phase::Ending).await;
}

/// Returns the reason of a failed handshake, as a label.
fn handshake_failure(error: &io::Error) -> &'static str {
    use rustls::Error as Tls;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
        Some(Tls::InvalidMessage(_)) => "not_tls",
        Some(Tls::NoCertificatesPresented | Tls::InvalidCertificate(_)) => "client_certificate",
        Some(Tls::AlertReceived(_)) => "client_refuses",
        // rustls returns this if there is no certificate for the requested name.
        Some(Tls::General(_)) => "no_such_name",
        Some(_) => "no_terms",
        None => "gone",
    }
}

/// Whether a timeout of the client caused the error.
fn is_timeout(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        cause = error.source();
    }
    error.is_timeout()
}

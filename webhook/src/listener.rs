//! The HTTPS server: connections come, prove to be TLS, bring requests, and go.
//!
//! What a client does wrong closes its connection and is counted; nobody else notices. At the end those that are there
//! finish what they have begun. What must not go in here: what a request says.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

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
use crate::load::{ConnectionLoad, Limits, Load};
use crate::mutate::Mutate;
use crate::patient::{Busy, Patient};
use crate::tally::Tallied;

/// What there may be at a time. An API server has a connection or two, and some requests on it.
const LIMITS: Limits =
    Limits { connections: 1_000, connections_of_a_peer: 250, requests: 512, bytes: 44 << 20, large: 4 };
/// So many connections may still be closing when further ones are taken.
const CLOSING_MAX: usize = 250;
/// What a connection may hold in buffers that no request is charged with: in the kernel for each direction, in HTTP for
/// each direction.
const SOCKET_BUFFER_BYTES: u32 = 64 << 10;
const HTTP_BUFFER_BYTES: usize = 64 << 10;
/// What a client may send of one HTTP/2 request, and of all on its connection, before it is read.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 128 << 10;
/// How long the head of a request may be, in bytes.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// Requests that a client takes back faster than they are seen, and faults of a client, before it is cut off.
const RESETS_MAX: usize = 20;
/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1_024;
/// An idle client is told that its connection ends, and has so long to take note of it.
const GOODBYE_MAX: Duration = Duration::from_millis(250);
/// How long a client may take to come to terms about TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long what was sent may wait for a client to take it, in milliseconds.
const TAKE_MAX_MS: u32 = 20_000;
/// How many requests one connection may have under way.
const STREAMS_MAX: u32 = 128;
/// How often an idle HTTP/2 client is asked whether it is there, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_MAX: Duration = Duration::from_secs(10);
/// How long requests that are under way at the end may take.
const FINISH_MAX: Duration = Duration::from_secs(10);
/// The pause when no connection can be taken, for want of descriptors perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not at all.
    Serving,
    /// Requests are still taken, but are to go elsewhere.
    Draining,
    /// None is taken any more.
    Ending,
}

/// Answers connections.
pub(crate) struct Server {
    acceptor: TlsAcceptor,
    mutate: Arc<Mutate>,
    tallied: Tallied,
    load: Load,
}

impl Server {
    pub(crate) fn new(config: ServerConfig, mutate: Mutate, tallied: Tallied) -> Self {
        let (acceptor, mutate) = (TlsAcceptor::from(Arc::new(config)), Arc::new(mutate));
        Self { acceptor, mutate, tallied, load: Load::new(LIMITS) }
    }

    /// What connections and requests hold.
    pub(crate) fn load(&self) -> &Load {
        &self.load
    }

    /// Serves until the last phase, and until what was begun is finished.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, mut phase: watch::Receiver<Phase>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|phase| *phase == Phase::Ending) => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    // For want of descriptors perhaps.
                    self.load.close_one();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = self.load.connection(peer.ip()) else {
                self.tallied.closed("too_many");
                continue;
            };
            let (server, phase) = (Arc::clone(&self), phase.clone());
            tokio::spawn(async move {
                if let Err(why) = Arc::clone(&server).connection(stream, Arc::new(place), phase).await {
                    server.tallied.closed(why);
                }
            });
            self.load.at_most(LIMITS.connections + CLOSING_MAX).await;
        }
        drop(listener);
        if timeout(FINISH_MAX, self.load.at_most(0)).await.is_err() {
            tracing::warn!("some requests have not ended");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        place: Arc<ConnectionLoad>,
        phase: watch::Receiver<Phase>,
    ) -> Result<(), &'static str> {
        // An answer is one packet where it can be; one that nobody takes is not kept.
        let _ = stream.set_nodelay(true);
        let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &TAKE_MAX_MS);
        let stream = tokio::select! {
            stream = timeout(HANDSHAKE_MAX, self.acceptor.accept(stream)) => stream,
            () = place.closed() => return Err("pressure"),
        };
        let stream = stream.map_err(|_| "slow_handshake")?.map_err(|error| why(&error))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let busy = Busy::default();
        let stream = TokioIo::new(Patient::new(stream, busy.clone(), is_http2));
        let (server, answering, now) = (Arc::clone(&self), busy.clone(), phase.clone());
        let held = Arc::clone(&place);
        let service = service_fn(move |request| {
            Arc::clone(&server).answer(request, Arc::clone(&held), answering.clone(), now.clone())
        });
        let ended = if is_http2 {
            finished(http2().serve_connection(stream, service), &busy, &place, phase).await
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HTTP_BUFFER_BYTES);
            finished(builder.serve_connection(stream, service), &busy, &place, phase).await
        };
        let Some(ended) = ended else { return Err("pressure") };
        ended.map_err(|error| if is_timeout(&error) { "idle_or_slow" } else { "broken" })
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<ConnectionLoad>,
        busy: Busy,
        phase: watch::Receiver<Phase>,
    ) -> Result<Response<Body>, Infallible> {
        let _answering = busy.answering();
        let is_http1 = request.version() < Version::HTTP_2;
        let mut response = self.mutate.answer(request, &connection).await;
        if is_http1 && *phase.borrow() > Phase::Serving {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// A listener whose connections have small buffers in the kernel.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // What is accepted has those of its listener; the window is agreed upon before that.
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

/// Serves a connection until its client ends it, until its place is needed, or until we end and what was begun is
/// finished. None: the place was needed.
async fn finished<C: GracefulConnection>(
    connection: C,
    busy: &Busy,
    place: &ConnectionLoad,
    mut phase: watch::Receiver<Phase>,
) -> Option<C::Output> {
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => return Some(ended),
        () = place.closed() => {
            if place.is_in_use() {
                return None;
            }
            // Whoever is idle is told, so that no request of an honest client is lost.
            connection.as_mut().graceful_shutdown();
            let _ = timeout(GOODBYE_MAX, connection).await;
            return None;
        }
        () = ending(&mut phase) => {}
    }
    // Whoever has just connected is about to ask: the answer will say that it is the last.
    if busy.ended() > 0 {
        connection.as_mut().graceful_shutdown();
    }
    tokio::select! {
        ended = &mut connection => Some(ended),
        () = place.closed() => None,
    }
}

async fn ending(phase: &mut watch::Receiver<Phase>) {
    // Whoever tells it is gone only at the very end.
    let _ = phase.wait_for(|phase| *phase == Phase::Ending).await;
}

/// Why a handshake failed.
fn why(error: &io::Error) -> &'static str {
    use rustls::Error as Tls;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
        Some(Tls::InvalidMessage(_)) => "not_tls",
        Some(Tls::NoCertificatesPresented | Tls::InvalidCertificate(_)) => "client_certificate",
        Some(Tls::AlertReceived(_)) => "client_refuses",
        // So it says where no certificate is for the name that the client asks for.
        Some(Tls::General(_)) => "no_such_name",
        Some(_) => "no_terms",
        None => "gone",
    }
}

/// Whether the cause of an error is that the client's time was over.
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

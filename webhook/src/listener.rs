//! The HTTPS server: connections come, prove to be TLS, bring requests, and go.
//!
//! What a client does wrong closes its connection and is counted; nobody else notices. At the end those that are there
//! finish what they have begun. What must not go in here: what a request says.

use std::convert::Infallible;
use std::error::Error;
use std::io;
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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::body::Body;
use crate::mutate::Mutate;
use crate::patient::{Busy, Patient};
use crate::tally::Tallied;

/// How many connections there may be.
const CONNECTIONS_MAX: usize = 2_000;
/// How long a client may take to come to terms about TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long what was sent may wait for a client to take it, in milliseconds.
const TAKE_MAX_MS: u32 = 20_000;
/// How many requests one connection may have under way.
const STREAMS_MAX: u32 = 250;
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
    places: Arc<Semaphore>,
}

impl Server {
    pub(crate) fn new(config: ServerConfig, mutate: Mutate, tallied: Tallied) -> Self {
        let (acceptor, mutate) = (TlsAcceptor::from(Arc::new(config)), Arc::new(mutate));
        Self { acceptor, mutate, tallied, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        CONNECTIONS_MAX - self.places.available_permits()
    }

    /// Serves until the last phase, and until what was begun is finished.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, mut phase: watch::Receiver<Phase>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|phase| *phase == Phase::Ending) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                self.tallied.closed("too_many");
                continue;
            };
            let (server, phase) = (Arc::clone(&self), phase.clone());
            tokio::spawn(async move {
                if let Err(why) = Arc::clone(&server).connection(stream, phase).await {
                    server.tallied.closed(why);
                }
                drop(place);
            });
        }
        drop(listener);
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        if timeout(FINISH_MAX, self.places.acquire_many(all)).await.is_err() {
            tracing::warn!("some requests have not ended");
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        phase: watch::Receiver<Phase>,
    ) -> Result<(), &'static str> {
        // An answer is one packet where it can be; one that nobody takes is not kept.
        let _ = stream.set_nodelay(true);
        let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &TAKE_MAX_MS);
        let stream = timeout(HANDSHAKE_MAX, self.acceptor.accept(stream)).await;
        let stream = stream.map_err(|_| "slow_handshake")?.map_err(|error| why(&error))?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let busy = Busy::default();
        let stream = TokioIo::new(Patient::new(stream, busy.clone(), is_http2));
        let (server, answering, now) = (Arc::clone(&self), busy.clone(), phase.clone());
        let service =
            service_fn(move |request| Arc::clone(&server).answer(request, answering.clone(), now.clone()));
        let ended = if is_http2 {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
            builder.keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_MAX);
            finished(builder.serve_connection(stream, service), &busy, phase).await
        } else {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(None);
            finished(builder.serve_connection(stream, service), &busy, phase).await
        };
        ended.map_err(|error| if is_timeout(&error) { "idle_or_slow" } else { "broken" })
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        busy: Busy,
        phase: watch::Receiver<Phase>,
    ) -> Result<Response<Body>, Infallible> {
        let _answering = busy.answering();
        let is_http1 = request.version() < Version::HTTP_2;
        let mut response = self.mutate.answer(request).await;
        if is_http1 && *phase.borrow() > Phase::Serving {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Serves a connection until its client ends it, or until we end and what was begun is finished.
async fn finished<C: GracefulConnection>(
    connection: C,
    busy: &Busy,
    mut phase: watch::Receiver<Phase>,
) -> C::Output {
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        _ = phase.wait_for(|phase| *phase == Phase::Ending) => {}
    }
    // Whoever has just connected is about to ask: the answer will say that it is the last.
    if busy.ended() > 0 {
        connection.as_mut().graceful_shutdown();
    }
    connection.await
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

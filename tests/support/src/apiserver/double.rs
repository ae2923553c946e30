//! The double: an HTTPS server with the objects of a store, and faults on demand.
//!
//! It has its own runtime, so that a test needs none.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{broadcast, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificates::Certificates;
use super::kind::{Kind, Target};
use super::kubeconfig;
use super::listing::{Generated, ObjectFormat, list_response};
use super::rights::ApiCall;
use super::store::{Selector, Store};
use super::watch_stream::{WatchStream, watch_response};
use super::writing::handle_object_request;
use super::{ACCOUNTS, Fault, InitialEvents};
use crate::temp_dir::TempDir;

const TOKEN: &str = "may-do-everything";
const TOKEN_WITHOUT_RIGHTS: &str = "may-do-nothing";

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A simulated API server with faults on demand.
pub struct Double {
    pub kubeconfig: PathBuf,
    pub kubeconfig_without_rights: PathBuf,
    url: String,
    ca_certificate: PathBuf,
    state: Arc<State>,
    dir: TempDir,
    /// Dropping the runtime ends its tasks.
    _runtime: Runtime,
}

/// The shared state of the double.
pub(crate) struct State {
    inner: Mutex<Inner>,
    /// Counts changes of the state, so that waiting tasks evaluate their conditions again.
    pub happened: watch::Sender<u64>,
    /// Faults that occur once in all watches.
    pub once: broadcast::Sender<Fault>,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub store: Store,
    /// Objects that are generated while they are sent.
    pub generated: Vec<Generated>,
    pub faults: Faults,
    /// The token, the method, and the path with query of each request.
    requests: Vec<(String, Method, String)>,
}

/// The lasting faults.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    pub silent: bool,
    pub held: Option<&'static str>,
    pub down: bool,
    hang: bool,
    /// Writes in this namespace get no response.
    hang_in: Option<String>,
    answer: Option<(u16, Option<u64>)>,
    denied: BTreeSet<&'static str>,
    absent: BTreeSet<&'static str>,
    garbage: Option<(&'static str, &'static str)>,
    initial: Option<InitialEvents>,
    /// The object that another client writes before the next write of a resource.
    pub race: Option<(&'static str, Value)>,
}

impl State {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no thread panics while it holds the lock")
    }

    fn notify(&self) {
        self.happened.send_modify(|count| *count += 1);
    }
}

impl Double {
    pub fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (happened, once) = (watch::Sender::new(0), broadcast::Sender::new(64));
        let state = Arc::new(State { inner: Mutex::default(), happened, once });
        let (dir, certificates) = (TempDir::new("apiserver"), Certificates::new());
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("listen on loopback");
        let address: SocketAddr = listener.local_addr().expect("an address");
        runtime.spawn(serve(listener, acceptor(&certificates), Arc::clone(&state)));
        let ca_certificate = dir.write("ca_certificate.pem", &certificates.ca_certificate);
        let url = format!("https://{address}");
        let kubeconfig = kubeconfig::write(&dir, "kubeconfig", &url, &ca_certificate, TOKEN);
        let kubeconfig_without_rights =
            kubeconfig::write(&dir, "without-rights", &url, &ca_certificate, TOKEN_WITHOUT_RIGHTS);
        Self { kubeconfig, kubeconfig_without_rights, url, ca_certificate, state, dir, _runtime: runtime }
    }

    pub fn put(&self, object: Value) {
        self.state.lock().store.put(object);
        self.state.notify();
    }

    pub fn generate(&self, generated: Generated) {
        self.state.lock().generated.push(generated);
        self.state.notify();
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        self.state.lock().store.delete(Kind::named(kind), namespace, name);
        self.state.notify();
    }

    pub fn requests(&self) -> Vec<String> {
        let taken = std::mem::take(&mut self.state.lock().requests);
        taken.into_iter().map(|(.., uri)| uri).collect()
    }

    pub fn writes(&self, account: &str) -> Vec<String> {
        let inner = self.state.lock();
        let own =
            inner.requests.iter().filter(|(token, method, _)| token == account && *method != Method::GET);
        own.map(|(_, method, uri)| format!("{method} {uri}")).collect()
    }

    pub fn created_objects(&self, kind: &str) -> Vec<(String, String, Instant)> {
        self.state.lock().store.created_objects(Kind::named(kind))
    }

    pub fn calls(&self, account: &str) -> BTreeSet<ApiCall> {
        let inner = self.state.lock();
        let own = inner.requests.iter().filter(|(token, ..)| token == account);
        own.filter_map(|(_, method, uri)| ApiCall::of(method.as_str(), uri)).collect()
    }

    pub fn kubeconfig_of_account(&self, account: &str) -> PathBuf {
        kubeconfig::write(&self.dir, account, &self.url, &self.ca_certificate, account)
    }

    pub fn fault(&self, fault: Fault) {
        let mut inner = self.state.lock();
        let faults = &mut inner.faults;
        match fault {
            Fault::Cleared => *faults = Faults::default(),
            Fault::SilentWatches => faults.silent = true,
            Fault::HoldWatches(label) => faults.held = Some(label),
            Fault::HangIn(namespace) => faults.hang_in = Some(namespace.to_owned()),
            Fault::Hang => faults.hang = true,
            Fault::Down => faults.down = true,
            Fault::Answer(status, after) => faults.answer = Some((status, after)),
            Fault::GarbageList(resource, text) => faults.garbage = Some((resource, text)),
            Fault::NoInitialEvents(how) => faults.initial = Some(how),
            Fault::Race(resource, object) => faults.race = Some((resource, object)),
            Fault::Deny(resource) => {
                faults.denied.insert(resource);
            }
            Fault::Absent(path) => {
                faults.absent.insert(path);
            }
            Fault::Expire => {
                inner.store.expire();
                // Sending fails if there is no watch.
                let _ = self.state.once.send(Fault::Expire);
            }
            Fault::CutWatches | Fault::EndWatches | Fault::Line(..) | Fault::Bookmark => {
                let _ = self.state.once.send(fault);
            }
        }
        drop(inner);
        self.state.notify();
    }
}

fn acceptor(certificates: &Certificates) -> TlsAcceptor {
    let chain =
        vec![CertificateDer::from_pem_slice(certificates.certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).expect("a key");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    TlsAcceptor::from(Arc::new(config.expect("a certificate with its key")))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let mut happened = state.happened.subscribe();
            let connection = async {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(|request| handle(Arc::clone(&state), request));
                // An error means that the client closed the connection.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            };
            let down = happened.wait_for(|_| state.lock().faults.down);
            tokio::select! {
                () = connection => {}
                _ = down => {}
            }
        });
    }
}

async fn handle(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let uri = request.uri().clone();
    let (path, query) = (uri.path().to_owned(), query(uri.query().unwrap_or_default()));
    let token = request.headers().get("Authorization").and_then(|value| value.to_str().ok());
    let user = token.and_then(|token| token.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
    state.lock().requests.push((user.clone(), request.method().clone(), uri.to_string()));
    // The sender is a field of the state, so this waits until the condition is true.
    let _ = state.happened.subscribe().wait_for(|_| !state.lock().faults.hang).await;
    let faults = state.lock().faults.clone();
    if let Some((code, after)) = faults.answer {
        let mut response = refusal(code, "requested by the test");
        if let Some(after) = after {
            response.headers_mut().insert("Retry-After", after.into());
        }
        return Ok(response);
    }
    if ![TOKEN, TOKEN_WITHOUT_RIGHTS].iter().chain(&ACCOUNTS).any(|known| *known == user) {
        return Ok(refusal(401, "Unauthorized"));
    }
    if path == "/version" {
        let version = ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion"];
        let version = version.map(|key| (key.to_owned(), Value::from("double")));
        let others = ["compiler", "platform"].map(|key| (key.to_owned(), Value::from("double")));
        return Ok(response(200, Value::Object(version.into_iter().chain(others).collect()).to_string()));
    }
    let Some(Target { kind, namespace, name }) = Target::at(&path) else {
        return Ok(refusal(404, "the server could not find the resource"));
    };
    if user == TOKEN_WITHOUT_RIGHTS || faults.denied.contains(kind.resource) {
        let what = format!("{} is forbidden: User cannot read resource \"{0}\"", kind.resource);
        return Ok(refusal(403, &what));
    }
    if faults.absent.contains(&*path) {
        return Ok(refusal(404, "the server could not find the requested resource"));
    }
    if request.method() != Method::GET && namespace.is_some() && namespace == faults.hang_in {
        let cleared = |_: &u64| state.lock().faults.hang_in != namespace;
        let _ = state.happened.subscribe().wait_for(cleared).await;
    }
    if request.method() != Method::GET || name.is_some() {
        let target = Target { kind, namespace, name };
        let method = request.method().clone();
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let (code, answer) = handle_object_request(&mut state.lock(), &method, &target, &body);
        state.notify();
        return Ok(response(code, answer.to_string()));
    }
    let selector = Selector { namespace, labels: query("labelSelector"), fields: query("fieldSelector") };
    let format = ObjectFormat { kind, is_partial: is_partial(&request) };
    let garbage = faults.garbage.filter(|(resource, _)| *resource == kind.resource);
    if query("watch") == "true" {
        let is_initial = query("sendInitialEvents") == "true";
        let refused = if garbage.is_some() { Some(InitialEvents::Status(400)) } else { faults.initial };
        if let (true, Some(InitialEvents::Status(code))) = (is_initial, refused) {
            return Ok(refusal(code, "sendInitialEvents is forbidden for watch"));
        }
        let version = query("resourceVersion").parse().unwrap_or(0);
        let seconds = query("timeoutSeconds").parse().unwrap_or(300);
        let initial = is_initial.then_some(refused);
        return Ok(watch_response(WatchStream { state, format, selector, version, seconds, initial }));
    }
    if let Some((_, text)) = garbage {
        return Ok(response(200, text.to_owned()));
    }
    Ok(list_response(&state.lock(), format, &selector, &query))
}

/// Whether only the metadata of objects is requested.
fn is_partial(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get("Accept").and_then(|value| value.to_str().ok());
    accept.is_some_and(|text| text.contains("as=PartialObjectMetadata"))
}

/// Returns a status object.
pub(crate) fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code})
}

pub(crate) fn refusal(code: u16, message: &str) -> Response<Body> {
    response(code, status(code, message).to_string())
}

fn response(code: u16, text: String) -> Response<Body> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response.headers_mut().insert("Content-Type", "application/json".parse().expect("a header"));
    response
}

/// The values of a query, by name.
pub(crate) fn query(text: &str) -> impl Fn(&str) -> String + use<> {
    let pairs: Vec<(String, String)> = text
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), decoded(value)))
        .collect();
    move |key| {
        pairs.iter().find(|(found, _)| found == key).map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).expect("two digits"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).expect("a query is text")
}

//! A real API server: `etcd` and `kube-apiserver` from a directory of binaries, on free ports of the loopback address.

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Request;
use kube_source::client;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::certificates::Certificates;
use super::kind::Kind;
use super::kubeconfig;
use super::{ACCOUNTS, NAMESPACE};
use crate::eventually::Wait;
use crate::temp_dir::TempDir;

const TOKEN: &str = "may-do-everything";
const TOKEN_WITHOUT_RIGHTS: &str = "may-do-nothing";
/// The start takes long on a busy machine.
const START: Wait = Wait { timeout: Duration::from_secs(180), interval: Duration::from_millis(100) };
const SERVER_LOG: &str = "kube-apiserver.log";

/// Sends a request to the server and returns whether it succeeded.
type SendFn = Box<dyn Fn(Request<Vec<u8>>) -> SendFuture + Send + Sync>;
type SendFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Runs a program, and kills it at the end of its standard input. Then removes the directory with the data, since a server
/// in a static variable is not dropped. Arguments: the directory, and the command.
const SUPERVISOR: &str = r#"dir="$1"; shift; "$@" & cat >&2; kill -KILL $!; wait; rm -rf "$dir""#;

/// A program that is killed when the value is dropped, or when the test process exits.
struct SupervisedProgram(Child);

impl Drop for SupervisedProgram {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A real API server. Its fields are dropped in this order.
pub struct RealServer {
    pub kubeconfig: PathBuf,
    pub kubeconfig_without_rights: PathBuf,
    kubectl: PathBuf,
    url: String,
    ca_certificate: PathBuf,
    send: SendFn,
    runtime: Runtime,
    _server: SupervisedProgram,
    _etcd: SupervisedProgram,
    dir: TempDir,
}

impl RealServer {
    pub fn start(assets: &Path, service_ranges: &str) -> Self {
        let (dir, certificates) = (TempDir::new("apiserver"), Certificates::new());
        let [etcd_port, peer_port, port] = free_ports();
        let etcd = etcd(assets, &dir, etcd_port, peer_port);
        let server = server(assets, &dir, &certificates, service_ranges, [etcd_port, port]);
        let ca_certificate = dir.write("ca_certificate.pem", &certificates.ca_certificate);
        let url = format!("https://127.0.0.1:{port}");
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let kubeconfig = kubeconfig::write(&dir, "kubeconfig", &url, &ca_certificate, TOKEN);
        let real = Self {
            send: send_fn(&runtime, kubeconfig.clone()),
            kubeconfig,
            kubeconfig_without_rights: kubeconfig::write(
                &dir,
                "without-rights",
                &url,
                &ca_certificate,
                TOKEN_WITHOUT_RIGHTS,
            ),
            kubectl: assets.join("kubectl"),
            url,
            ca_certificate,
            runtime,
            _server: server,
            _etcd: etcd,
            dir,
        };
        // The server creates the default namespace some time after its first responses.
        for path in ["/readyz?verbose", "/api/v1/namespaces/default"] {
            real.retry(|| Request::get(path).body(Vec::new()).expect("a request"));
        }
        real
    }

    pub fn kubeconfig_of_account(&self, account: &str) -> PathBuf {
        kubeconfig::write(&self.dir, account, &self.url, &self.ca_certificate, account)
    }

    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        // kubectl caches what it discovers.
        command.arg("--cache-dir").arg(self.dir.path().join("kubectl"));
        let output =
            command.output().unwrap_or_else(|error| panic!("start {}: {error}", self.kubectl.display()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    pub fn put(&self, object: &Value) {
        let kind = Kind::of(object);
        let mut object = object.clone();
        object["apiVersion"] = kind.api_version().into();
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let namespace = Some(text("namespace")).filter(|text| !text.is_empty());
        let path = kind.path(namespace.as_deref().unwrap_or("default"), &text("name"));
        self.apply(&path, &object);
        if !object["status"].is_null() {
            self.apply(&format!("{path}/status"), &object);
        }
    }

    /// Applies an object on the server, which removes omitted fields.
    fn apply(&self, path: &str, object: &Value) {
        let request = || {
            Request::patch(format!("{path}?fieldManager=tests&force=true"))
                .header("Content-Type", "application/apply-patch+yaml")
                .body(object.to_string().into_bytes())
                .expect("a request")
        };
        self.retry(request);
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let path = Kind::named(kind).path(namespace, name);
        let request = || {
            let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
            let request = Request::delete(&path).header("Content-Type", "application/json");
            request.body(options.to_string().into_bytes()).expect("a request")
        };
        let result = self.send(request());
        assert!(result.is_ok() || result.as_ref().is_err_and(|why| why.contains("not found")), "{result:?}");
    }

    /// Sends a request until it succeeds, since a starting server rejects some requests.
    fn retry(&self, request: impl Fn() -> Request<Vec<u8>>) {
        START.try_until(|| self.send(request())).unwrap_or_else(|why| {
            let log = std::fs::read_to_string(self.dir.path().join(SERVER_LOG)).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            panic!("{}: {why}; the last lines of the log in reverse order: {last:#?}", request().uri());
        });
    }

    fn send(&self, request: Request<Vec<u8>>) -> Result<(), String> {
        wait(&self.runtime, (self.send)(request))
    }
}

fn send_fn(runtime: &Runtime, kubeconfig: PathBuf) -> SendFn {
    let client = wait(runtime, async move { client(Some(&kubeconfig)).await });
    let client = client.expect("a client for the kubeconfig just written");
    Box::new(move |request| {
        let client = client.clone();
        Box::pin(
            async move { client.request_text(request).await.map(drop).map_err(|error| error.to_string()) },
        )
    })
}

/// Waits on another runtime, so that a test can use any runtime.
fn wait<T: Send + 'static>(runtime: &Runtime, step: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        // Sending fails only if the test has failed already.
        let _ = sender.send(step.await);
    });
    receiver.recv().expect("the step ends")
}

fn etcd(assets: &Path, dir: &TempDir, port: u16, peer_port: u16) -> SupervisedProgram {
    let (url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new(assets.join("etcd"));
    command.arg("--data-dir").arg(dir.path().join("etcd"));
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.arg("--initial-cluster").arg(format!("default={peer_url}"));
    // The data is temporary and need not be durable.
    command.arg("--unsafe-no-fsync");
    start(&command, dir, "etcd.log")
}

fn server(
    assets: &Path,
    dir: &TempDir,
    certificates: &Certificates,
    service_ranges: &str,
    [etcd_port, port]: [u16; 2],
) -> SupervisedProgram {
    let accounts = ACCOUNTS.map(|name| {
        let user = format!("system:serviceaccount:{NAMESPACE}:{name}");
        format!("{name},{user},{name},\"system:serviceaccounts,system:serviceaccounts:{NAMESPACE}\"\n")
    });
    let tokens = format!("{TOKEN},admin,1,system:masters\n{TOKEN_WITHOUT_RIGHTS},without-rights,2,\n");
    let tokens = dir.write("tokens", &(tokens + &accounts.concat()));
    let certificate = dir.write("server.pem", &certificates.certificate);
    let key = dir.write("server.key", &certificates.key);
    let mut command = Command::new(assets.join("kube-apiserver"));
    command.arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"));
    command.arg("--cert-dir").arg(dir.path().join("certificates"));
    command.arg("--tls-cert-file").arg(&certificate).arg("--tls-private-key-file").arg(&key);
    // Without a default route, as in the network namespace of a test, the server cannot determine an address.
    command.args(["--bind-address=127.0.0.1", "--advertise-address=192.0.2.1"]);
    command.arg(format!("--secure-port={port}"));
    command.arg("--service-account-issuer=https://portico.test");
    let public_key = dir.write("server.pub", &certificates.public_key);
    command.arg("--service-account-key-file").arg(&public_key);
    command.arg("--service-account-signing-key-file").arg(&key);
    command.arg(format!("--service-cluster-ip-range={service_ranges}")).arg("--authorization-mode=RBAC");
    // Benchmarks have more services than the standard range of node ports.
    command.arg("--service-node-port-range=1024-65535");
    command.arg("--token-auth-file").arg(&tokens);
    command.arg("--disable-admission-plugins=ServiceAccount");
    start(&command, dir, SERVER_LOG)
}

fn start(program: &Command, dir: &TempDir, log: &str) -> SupervisedProgram {
    let log = std::fs::File::create(dir.path().join(log)).expect("create a log");
    let errors = log.try_clone().expect("a second handle");
    let mut command = Command::new("sh");
    command
        .args(["-c", SUPERVISOR, "sh"])
        .arg(dir.path())
        .arg(program.get_program())
        .args(program.get_args());
    command.stdin(Stdio::piped()).stdout(log).stderr(errors);
    SupervisedProgram(
        command.spawn().unwrap_or_else(|error| panic!("start {:?}: {error}", program.get_program())),
    )
}

/// Returns distinct ports that were free at the same time.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

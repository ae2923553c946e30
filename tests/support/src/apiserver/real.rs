//! A real API server: `etcd` and `kube-apiserver` from a folder of binaries, on free ports of the loopback address.

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use kube_source::client;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::certificates::Certificates;
use super::kind::Kind;
use super::kubeconfig;
use super::{ACCOUNTS, NAMESPACE};
use crate::temp_dir::TempDir;

const TOKEN: &str = "may-do-everything";
const TOKEN_OF_STRANGER: &str = "may-do-nothing";
/// How long the programs may take to come up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
const SERVER_LOG: &str = "kube-apiserver.log";
/// How often a server that is coming up is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Sends a request to the server and says whether it was granted.
type Asking = Box<dyn Fn(Request<Vec<u8>>) -> Granted + Send + Sync>;
type Granted = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A program that ends with the value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real API server. Fields end in this order.
pub struct Real {
    pub kubeconfig: PathBuf,
    pub stranger: PathBuf,
    kubectl: PathBuf,
    url: String,
    authority: PathBuf,
    ask: Asking,
    runtime: Runtime,
    _server: Program,
    _etcd: Program,
    folder: TempDir,
}

impl Real {
    pub fn start(assets: &Path) -> Self {
        let (folder, certificates) = (TempDir::new("apiserver"), Certificates::new());
        let [etcd_port, peer_port, port] = free_ports();
        let etcd = etcd(assets, &folder, etcd_port, peer_port);
        let server = server(assets, &folder, &certificates, etcd_port, port);
        let authority = folder.write("authority.pem", &certificates.authority);
        let url = format!("https://127.0.0.1:{port}");
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let kubeconfig = kubeconfig::write(&folder, "kubeconfig", &url, &authority, TOKEN);
        let real = Self {
            ask: asking(&runtime, kubeconfig.clone()),
            kubeconfig,
            stranger: kubeconfig::write(&folder, "stranger", &url, &authority, TOKEN_OF_STRANGER),
            kubectl: assets.join("kubectl"),
            url,
            authority,
            runtime,
            _server: server,
            _etcd: etcd,
            folder,
        };
        // It makes this namespace and these ranges itself, some time after it has begun to answer.
        for path in ["/readyz?verbose", "/api/v1/namespaces/default"] {
            real.until_well(|| Request::get(path).body(Vec::new()).expect("a request"));
        }
        real
    }

    pub fn kubeconfig_of_account(&self, account: &str) -> PathBuf {
        kubeconfig::write(&self.folder, account, &self.url, &self.authority, account)
    }

    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        // What it finds out of a server it keeps.
        command.arg("--cache-dir").arg(self.folder.path().join("kubectl"));
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

    /// Server-side apply creates or updates, and what is left out goes.
    fn apply(&self, path: &str, object: &Value) {
        let request = || {
            Request::patch(format!("{path}?fieldManager=tests&force=true"))
                .header("Content-Type", "application/apply-patch+yaml")
                .body(object.to_string().into_bytes())
                .expect("a request")
        };
        self.until_well(request);
    }

    pub fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let path = Kind::named(kind).path(namespace, name);
        let request = || {
            let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
            let request = Request::delete(&path).header("Content-Type", "application/json");
            request.body(options.to_string().into_bytes()).expect("a request")
        };
        let answer = self.ask(request());
        assert!(answer.is_ok() || answer.as_ref().is_err_and(|why| why.contains("not found")), "{answer:?}");
    }

    /// Asks until the answer is good: a server that has just begun refuses some things for a while.
    fn until_well(&self, request: impl Fn() -> Request<Vec<u8>>) {
        let began = Instant::now();
        loop {
            match self.ask(request()) {
                Ok(()) => return,
                Err(why) => {
                    let log = self.folder.path().join(SERVER_LOG);
                    let log = std::fs::read_to_string(log).unwrap_or_default();
                    let last: Vec<&str> = log.lines().rev().take(5).collect();
                    let uri = request().uri().to_string();
                    assert!(
                        began.elapsed() < PATIENCE,
                        "{uri}: {why}; its log ends backwards with {last:#?}"
                    );
                }
            }
            wait(&self.runtime, async { tokio::time::sleep(ASK_INTERVAL).await });
        }
    }

    fn ask(&self, request: Request<Vec<u8>>) -> Result<(), String> {
        wait(&self.runtime, (self.ask)(request))
    }
}

fn asking(runtime: &Runtime, kubeconfig: PathBuf) -> Asking {
    let client = wait(runtime, async move { client(Some(&kubeconfig)).await });
    let client = client.expect("a client for the kubeconfig just written");
    Box::new(move |request| {
        let client = client.clone();
        Box::pin(
            async move { client.request_text(request).await.map(drop).map_err(|error| error.to_string()) },
        )
    })
}

/// Waits on a runtime of its own, so that a test may be on any.
fn wait<T: Send + 'static>(runtime: &Runtime, step: impl Future<Output = T> + Send + 'static) -> T {
    let (say, heard) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        // Nobody listens only where the test has failed already.
        let _ = say.send(step.await);
    });
    heard.recv().expect("the step ends")
}

fn etcd(assets: &Path, folder: &TempDir, port: u16, peer_port: u16) -> Program {
    let (url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new(assets.join("etcd"));
    command.arg("--data-dir").arg(folder.path().join("etcd"));
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.arg("--initial-cluster").arg(format!("default={peer_url}"));
    // It is thrown away: nothing needs to reach a disk.
    command.arg("--unsafe-no-fsync");
    start(command, folder, "etcd.log")
}

fn server(
    assets: &Path,
    folder: &TempDir,
    certificates: &Certificates,
    etcd_port: u16,
    port: u16,
) -> Program {
    let accounts = ACCOUNTS.map(|name| {
        let user = format!("system:serviceaccount:{NAMESPACE}:{name}");
        format!("{name},{user},{name},\"system:serviceaccounts,system:serviceaccounts:{NAMESPACE}\"\n")
    });
    let tokens = format!("{TOKEN},admin,1,system:masters\n{TOKEN_OF_STRANGER},stranger,2,\n");
    let tokens = folder.write("tokens", &(tokens + &accounts.concat()));
    let certificate = folder.write("server.pem", &certificates.certificate);
    let key = folder.write("server.key", &certificates.key);
    let mut command = Command::new(assets.join("kube-apiserver"));
    command.arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"));
    command.arg("--cert-dir").arg(folder.path().join("certificates"));
    command.arg("--tls-cert-file").arg(&certificate).arg("--tls-private-key-file").arg(&key);
    // An address to advertise, since a namespace of a test's own may have no default route to guess it from.
    command.args(["--bind-address=127.0.0.1", "--advertise-address=192.0.2.1"]);
    command.arg(format!("--secure-port={port}"));
    command.arg("--service-account-issuer=https://portico.test");
    let public_key = folder.write("server.pub", &certificates.public_key);
    command.arg("--service-account-key-file").arg(&public_key);
    command.arg("--service-account-signing-key-file").arg(&key);
    command.args(["--service-cluster-ip-range=10.0.0.0/16", "--authorization-mode=RBAC"]);
    command.arg("--token-auth-file").arg(&tokens);
    command.arg("--disable-admission-plugins=ServiceAccount");
    start(command, folder, SERVER_LOG)
}

fn start(mut command: Command, folder: &TempDir, log: &str) -> Program {
    let log = std::fs::File::create(folder.path().join(log)).expect("make a log");
    let errors = log.try_clone().expect("a second handle");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    Program(command.spawn().unwrap_or_else(|error| panic!("start {:?}: {error}", command.get_program())))
}

/// Free a moment ago, all at once, so that no two are the same.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}

//! Puts the parts together, and runs them until SIGTERM.
//!
//! At the end /readyz says no first; requests go on being answered while others learn of it, then what is under way is
//! finished. What must not go in here: what any part does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube_source::{FileWatch, ReadOptions, WatchScope, watch_cluster, watch_files};
use proxy_core::admission::InjectOptions;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::admin::Admin;
use crate::admission::Admitter;
use crate::api::Api;
use crate::args::{ClusterArgs, RegisterArg, ServeArgs, SourceArgs, TlsArgs};
use crate::certificate::files::CertificateFiles;
use crate::certificate::secret::CaSecret;
use crate::certificate::{CertLifetimes, CertResolver, CertificateAuthority};
use crate::clock::now_s;
use crate::controller::{ConfigMapController, ControllerOptions, LimitOptions, Usage};
use crate::listener::{Phase, Server};
use crate::log;
use crate::mutate::Mutate;
use crate::namespaces::Namespaces;
use crate::registration::{Address, CaBundle, Registration};
use crate::remembered::Remembered;
use crate::services::{ChangedNamespaces, ServiceState, follow};
use crate::tally::Tallied;

/// How far the source of services may be ahead.
const SOURCE_AHEAD: usize = 64;
/// How many threads answer.
const THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    log::start(args.log_format, args.log_level);
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let served = runtime.block_on(serve(args));
    runtime.shutdown_background();
    served
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let ServeArgs { listen, admin, mode, drain, source, tls, cluster, log_format: _, log_level: _ } = args;
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).context("wait for SIGTERM")?,
        signal(SignalKind::interrupt()).context("wait for SIGINT")?,
    );
    let listener = crate::listener::listen(listen).with_context(|| format!("listen at {listen}"))?;
    let address = listener.local_addr().context("see where it listens")?;
    let tallied = Tallied::default();
    let (phases, phase) = watch::channel(Phase::Serving);
    let Source { told, api, namespaces, _watches } = Source::open(source).await?;
    let (tell, known) = watch::channel(ServiceState::default());
    let touched = ChangedNamespaces::default();
    tokio::spawn(follow(told, tell, touched.clone()));
    let shown = Arc::new(CertResolver::default());
    let config = server_config(&tls, &shown)?;
    let vouching = certificate(tls, &cluster, address, api.as_ref(), &shown)?;
    if let Some(api) = api.clone() {
        let options = controller_options(&cluster);
        tokio::spawn(ConfigMapController::new(api, options, known.clone(), touched, tallied.clone()).run());
    }
    let admitter = Admitter {
        options: InjectOptions { mode: mode.into(), ..InjectOptions::default() },
        known: known.clone(),
        namespaces: namespaces.clone(),
        remembered: Remembered::default(),
        excepted: cluster.excepted(),
        tallied: tallied.clone(),
    };
    let server = Arc::new(Server::new(config, Mutate::new(admitter, tallied.clone()), tallied.clone()));
    let serving = tokio::spawn(Arc::clone(&server).serve(listener, phase.clone()));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving /mutate");
    let listener = TcpListener::bind(admin).await.with_context(|| format!("serve metrics at {admin}"))?;
    let address = listener.local_addr().context("see where it serves metrics")?;
    tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    let admin = Admin { server, shown, known: known.clone(), namespaces, phase, tallied };
    tokio::spawn(Arc::new(admin).serve(listener));
    if let Some(api) = api.filter(|_| cluster.register != RegisterArg::None) {
        let mut known = known.clone();
        tokio::spawn(async move {
            // Calls that come before all services are known would wait.
            if known.wait_for(|known| known.is_synced).await.is_ok() {
                registration(cluster).run(api, vouching).await;
            }
        });
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(drain_s = drain.as_secs(), "ending: requests are still answered");
    phases.send_replace(Phase::Draining);
    tokio::time::sleep(drain).await;
    phases.send_replace(Phase::Ending);
    serving.await.context("finish what was begun")?;
    tracing::info!("ended");
    Ok(())
}

/// Where services come from.
struct Source {
    told: Receiver<kube_source::Event>,
    api: Option<Api>,
    namespaces: Namespaces,
    _watches: Vec<FileWatch>,
}

impl Source {
    async fn open(args: SourceArgs) -> anyhow::Result<Self> {
        let SourceArgs { manifests, kubeconfig, portal_nets } = args;
        let (tell, told) = channel(SOURCE_AHEAD);
        if !manifests.is_empty() {
            let (namespaces, watch) = Namespaces::watch(manifests.clone()).context("watch the manifests")?;
            let services = watch_files(manifests, ReadOptions { portal_nets }, None, tell);
            let watches = vec![watch, services.context("watch the manifests")?];
            return Ok(Self { told, api: None, namespaces, _watches: watches });
        }
        let client = kube_source::client(kubeconfig.as_deref()).await;
        let client = client.context("without an API server, --manifests names files and folders")?;
        tokio::spawn(watch_cluster(client.clone(), WatchScope::Services, tell));
        let api = Api(client);
        let namespaces = Namespaces::start(api.clone());
        Ok(Self { told, api: Some(api), namespaces, _watches: Vec::new() })
    }
}

/// How TLS is spoken: 1.3 alone, with whatever certificate is shown at the moment.
fn server_config(tls: &TlsArgs, shown: &Arc<CertResolver>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&TLS13]).context("speak TLS 1.3")?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let read = || format!("read {}", path.display());
            for root in CertificateDer::pem_file_iter(path).with_context(read)? {
                roots.add(root.with_context(read)?).with_context(read)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.with_context(read)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::clone(shown) as Arc<_>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // An API server keeps its connections; what is resumed would outlive a certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Shows a certificate from now on, and tells who vouches for it.
fn certificate(
    tls: TlsArgs,
    cluster: &ClusterArgs,
    address: SocketAddr,
    api: Option<&Api>,
    shown: &Arc<CertResolver>,
) -> anyhow::Result<watch::Receiver<CaBundle>> {
    let TlsArgs { tls_cert, tls_key, tls_ca, ca_out, client_ca: _, leaf_life, ca_life } = tls;
    let (tell, vouching) = watch::channel(CaBundle::Unknown);
    let shown = Arc::clone(shown);
    if let (Some(certificate), Some(key)) = (tls_cert, tls_key) {
        CertificateFiles { certificate, key, ca: tls_ca }.watch(shown, tell)?;
        return Ok(vouching);
    }
    let lifetimes = CertLifetimes { leaf: leaf_life, ca: ca_life };
    let names = names(cluster, address);
    if let Some(api) = api {
        let (namespace, name) = (cluster.namespace.clone(), format!("{}-tls", cluster.name));
        let secret = CaSecret { api: api.clone(), namespace, name, names, lifetimes };
        tokio::spawn(secret.run(shown, tell));
        return Ok(vouching);
    }
    let mut authority = CertificateAuthority::new(&names, lifetimes, now_s())?;
    if let Some(path) = &ca_out {
        std::fs::write(path, &authority.bundle).with_context(|| format!("write {}", path.display()))?;
    }
    shown.set(authority.serving_cert()?);
    tokio::spawn(async move {
        loop {
            let due = authority.renewal_in(&names, now_s()).max(Duration::from_secs(1));
            tokio::time::sleep(due).await;
            let Ok(Some(renewed)) = authority.renew(&names, lifetimes, now_s()) else { continue };
            if let Some(path) = &ca_out
                && let Err(error) = std::fs::write(path, &renewed.bundle)
            {
                tracing::error!(path = %path.display(), %error, "write who vouches for the certificate");
            }
            if let Ok(usable) = renewed.serving_cert() {
                shown.set(usable);
            }
            authority = renewed;
        }
    });
    Ok(vouching)
}

/// Everything by which somebody may reach us.
fn names(cluster: &ClusterArgs, address: SocketAddr) -> Vec<String> {
    let ClusterArgs { service, namespace, url, .. } = cluster;
    let mut names = vec![format!("{service}.{namespace}.svc"), "localhost".to_owned()];
    let host = url.as_deref().and_then(|url| url.parse::<http::Uri>().ok()?.host().map(str::to_owned));
    names.extend(host.map(|host| host.trim_matches(['[', ']']).to_owned()));
    let loopback = ["127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(loopback.into_iter().chain([address.ip().to_string()]));
    names.sort();
    names.dedup();
    names
}

fn controller_options(cluster: &ClusterArgs) -> ControllerOptions {
    let quota = Usage { count: cluster.config_maps_max, bytes: cluster.config_map_bytes_max };
    let limits = LimitOptions { external: cluster.limits.external(), limits: cluster.limits.limits() };
    ControllerOptions { grace: cluster.config_map_grace, quota, excepted: cluster.excepted(), limits }
}

fn registration(cluster: ClusterArgs) -> Registration {
    let excepted = cluster.excepted();
    let ClusterArgs { register, name, namespace, service, url, .. } = cluster;
    let own = Address::Service { namespace, name: service };
    let is_managed = register == RegisterArg::All;
    Registration { name, excepted, address: url.map_or(own, Address::Url), is_managed }
}

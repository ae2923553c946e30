//! Starts the parts of the webhook and runs them until SIGTERM.
//!
//! On shutdown, /readyz fails first, while requests are still served until the API server's connections have moved to other
//! replicas. Then requests in flight are completed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use daemon::{Shutdown, start_log};
use kube_source::{FileWatch, ReadOptions, WatchScope, watch_cluster, watch_files};
use proxy_core::admission::InjectOptions;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::admin::Admin;
use crate::admission_handler::AdmissionHandler;
use crate::api::Api;
use crate::args::{ClusterArgs, RegisterArg, ServeArgs, SourceArgs, TlsArgs};
use crate::certificate::files::CertificateFiles;
use crate::certificate::secret::CaSecret;
use crate::certificate::{CertLifetimes, CertResolver, CertificateAuthority};
use crate::clock::now_s;
use crate::controller::{ConfigMapController, ControllerOptions, LimitOptions, Usage};
use crate::counters::Counters;
use crate::listener::{Phase, Server};
use crate::namespaces::Namespaces;
use crate::registration::{Address, CaBundle, Registration};
use crate::render_cache::RenderCache;
use crate::request_handler::RequestHandler;
use crate::services::{ChangedNamespaces, ServiceState, follow};

/// The length of the queue of events from the source of services.
const EVENT_QUEUE_LEN: usize = 64;
/// The number of worker threads.
const THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: ServeArgs) -> anyhow::Result<()> {
    start_log(args.log_format, args.log_level);
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let runtime = runtime.context("failed to start runtime")?;
    let served = runtime.block_on(serve(args));
    runtime.shutdown_background();
    served
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let ServeArgs { listen, admin, mode, drain, source, tls, cluster, log_format: _, log_level: _ } = args;
    let shutdown = Shutdown::listen()?;
    let listener =
        crate::listener::listen(listen).with_context(|| format!("failed to listen on {listen}"))?;
    let address = listener.local_addr().context("failed to read the listen address")?;
    let counters = Counters::default();
    let (phases, phase) = watch::channel(Phase::Serving);
    let Source { events, api, namespaces, _watches } = Source::open(source).await?;
    let (state, services) = watch::channel(ServiceState::default());
    let changed = ChangedNamespaces::default();
    tokio::spawn(follow(events, state, changed.clone()));
    let resolver = Arc::new(CertResolver::default());
    let config = server_config(&tls, &resolver)?;
    let ca_bundle = certificate(tls, &cluster, address, api.as_ref(), &resolver)?;
    if let Some(api) = api.clone() {
        let options = controller_options(&cluster);
        tokio::spawn(
            ConfigMapController::new(api, options, services.clone(), changed, counters.clone()).run(),
        );
    }
    let admission = AdmissionHandler {
        options: InjectOptions { mode: mode.into(), ..InjectOptions::default() },
        services: services.clone(),
        namespaces: namespaces.clone(),
        render_cache: RenderCache::default(),
        excepted: cluster.excepted(),
        counters: counters.clone(),
    };
    let handler = RequestHandler::new(admission, counters.clone());
    let server = Arc::new(Server::new(config, handler, counters.clone()));
    let serving = tokio::spawn(Arc::clone(&server).serve(listener, phase.clone()));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving /mutate");
    let listener =
        TcpListener::bind(admin).await.with_context(|| format!("failed to listen on {admin} for metrics"))?;
    let address = listener.local_addr().context("failed to read the listen address of metrics")?;
    tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    let admin = Admin { server, resolver, services: services.clone(), namespaces, phase, counters };
    tokio::spawn(admin.serve(listener));
    if let Some(api) = api.filter(|_| cluster.register != RegisterArg::None) {
        let mut services = services.clone();
        tokio::spawn(async move {
            // Requests before the initial sync would wait.
            if services.wait_for(|services| services.is_synced).await.is_ok() {
                registration(cluster).run(api, ca_bundle).await;
            }
        });
    }
    shutdown.requested().await;
    tracing::info!(drain_s = drain.as_secs(), "draining");
    phases.send_replace(Phase::Draining);
    tokio::time::sleep(drain).await;
    phases.send_replace(Phase::Ending);
    serving.await.context("failed to complete requests")?;
    tracing::info!("stopped");
    Ok(())
}

/// The source of services.
struct Source {
    events: Receiver<kube_source::Event>,
    api: Option<Api>,
    namespaces: Namespaces,
    _watches: Vec<FileWatch>,
}

impl Source {
    async fn open(args: SourceArgs) -> anyhow::Result<Self> {
        let SourceArgs { manifests, kubeconfig, portal_nets } = args;
        let (sender, events) = channel(EVENT_QUEUE_LEN);
        if !manifests.is_empty() {
            let (namespaces, watch) =
                Namespaces::watch(manifests.clone()).context("failed to watch manifests")?;
            let services = watch_files(manifests, ReadOptions { portal_nets }, None, sender);
            let watches = vec![watch, services.context("failed to watch manifests")?];
            return Ok(Self { events, api: None, namespaces, _watches: watches });
        }
        let client = kube_source::client(kubeconfig.as_deref()).await;
        let client =
            client.context("no API server available; --manifests takes files and directories instead")?;
        tokio::spawn(watch_cluster(client.clone(), WatchScope::Services, sender));
        let api = Api(client);
        let namespaces = Namespaces::start(api.clone());
        Ok(Self { events, api: Some(api), namespaces, _watches: Vec::new() })
    }
}

/// Returns the configuration of TLS: only version 1.3, with the current certificate.
fn server_config(tls: &TlsArgs, resolver: &Arc<CertResolver>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&TLS13]).context("failed to enable TLS 1.3")?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let read = || format!("failed to read {}", path.display());
            for root in CertificateDer::pem_file_iter(path).with_context(read)? {
                roots.add(root.with_context(read)?).with_context(read)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.with_context(read)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::clone(resolver) as Arc<_>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // An API server keeps its connections, and a resumed session could outlive a certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Keeps the serving certificate up to date, and returns its CA bundle.
fn certificate(
    tls: TlsArgs,
    cluster: &ClusterArgs,
    address: SocketAddr,
    api: Option<&Api>,
    resolver: &Arc<CertResolver>,
) -> anyhow::Result<watch::Receiver<CaBundle>> {
    let TlsArgs { tls_cert, tls_key, tls_ca, ca_out, client_ca: _, leaf_life, ca_life } = tls;
    let (sender, ca_bundle) = watch::channel(CaBundle::Unknown);
    let resolver = Arc::clone(resolver);
    if let (Some(certificate), Some(key)) = (tls_cert, tls_key) {
        CertificateFiles { certificate, key, ca: tls_ca }.watch(resolver, sender)?;
        return Ok(ca_bundle);
    }
    let lifetimes = CertLifetimes { leaf: leaf_life, ca: ca_life };
    let names = names(cluster, address);
    if let Some(api) = api {
        let (namespace, name) = (cluster.namespace.clone(), format!("{}-tls", cluster.name));
        let secret = CaSecret { api: api.clone(), namespace, name, names, lifetimes };
        tokio::spawn(secret.run(resolver, sender));
        return Ok(ca_bundle);
    }
    let mut authority = CertificateAuthority::new(&names, lifetimes, now_s())?;
    if let Some(path) = &ca_out {
        std::fs::write(path, &authority.bundle)
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    resolver.set(authority.serving_cert()?);
    tokio::spawn(async move {
        loop {
            let due = authority.renewal_in(&names, now_s()).max(Duration::from_secs(1));
            tokio::time::sleep(due).await;
            let Ok(Some(renewed)) = authority.renew(&names, lifetimes, now_s()) else { continue };
            if let Some(path) = &ca_out
                && let Err(error) = std::fs::write(path, &renewed.bundle)
            {
                tracing::error!(path = %path.display(), %error, "failed to write CA bundle");
            }
            if let Ok(certificate) = renewed.serving_cert() {
                resolver.set(certificate);
            }
            authority = renewed;
        }
    });
    Ok(ca_bundle)
}

/// Returns the names and addresses of the serving certificate.
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

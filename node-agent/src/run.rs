//! `portico agent`: creates the parts of the agent, and runs it until a shutdown is requested.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_ipc::{Listener, Records};
use anyhow::Context;
use daemon::{Shutdown, start_log};
use ipnet::IpNet;
use kube_source::{Event, ReadOptions, WatchScope, watch_cluster, watch_files};
use netns_nft::Socket;
use proxy_core::address::Family;
use proxy_core::node::Node;
use proxy_core::portal::NodeContext;
use proxy_core::ruleset::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, channel, unbounded_channel};

use crate::args::AgentArgs;
use crate::budget::Budget;
use crate::event_loop::{EventLoop, ExitReason};
use crate::handover::OutgoingServers;
use crate::memory_limit::memory_limit;
use crate::node_portals::{NodePortals, NodePortalsOptions};
use crate::pod_dns::DnsControl;
use crate::reconciler::{Options, Reconciler};
use crate::recovery::Recovery;
use crate::reporter::Reporter;
use crate::{allocator, cni_watch, handover, http, pod_dns, rpc_server, thread_pools};

/// The capacity of the channel from the service source.
const SOURCE_EVENTS_MAX: usize = 64;
/// The default number of relay threads is the number of CPUs, at most this.
const RELAY_THREADS_MAX: usize = 4;
/// Descriptors reserved for other purposes than relayed connections: at least two for each pod, and the agent's own.
const RESERVED_DESCRIPTORS: usize = 2_048;
/// The number of descriptors per relayed connection, including some reserve.
const CONNECTION_DESCRIPTORS: usize = 3;
/// The memory of an idle relayed connection, most of it in the kernel; measured: 9.7 KB.
const CONNECTION_BYTES: u64 = 12 << 10;
/// A quarter of the memory limit is for the relay (see `Budget`): one half of that for idle connections.
const CONNECTIONS_DIVISOR: u64 = 8;
/// The other half is for full socket buffers: normally a half of it, for short times all of it.
const BUFFERS_DIVISOR: u64 = 16;
/// The memory limit that is assumed if there is no limit.
const MEMORY_DEFAULT: u64 = 8 << 30;
/// The capacity of the channel from the relay. If it is full, later connections report the use of a portal again.
const USES_MAX: usize = 4_096;
/// The time that running jobs have at the end. Transactions are atomic, so a job can be aborted.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the agent until SIGTERM or SIGINT.
pub fn run(args: AgentArgs) -> anyhow::Result<()> {
    allocator::limit();
    start_log(args.log_format, args.log_level);
    let runtime = runtime()?;
    let result = runtime.block_on(serve(args));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    result
}

fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(thread_pools::THREADS).enable_all();
    builder.build().context("failed to start runtime")
}

async fn serve(args: AgentArgs) -> anyhow::Result<()> {
    let options = options(&args);
    let node_options = node_portals_options(&args, &options)?;
    let relay_options = relay_options(&args);
    let AgentArgs {
        socket,
        state_dir,
        metrics,
        node,
        manifests,
        kubeconfig,
        portal_nets,
        take_over,
        drain,
        cni_cache,
        cni_conf,
        dns,
        nat_priority,
        ..
    } = args;
    let shutdown = Shutdown::listen()?;
    std::fs::create_dir_all(&state_dir)
        .with_context(|| format!("failed to create state directory {}", state_dir.display()))?;
    let predecessor = if take_over { handover::request(&socket)? } else { None };
    let dns_server = pod_dns::start_server(&dns, nat_priority, predecessor.as_ref())?;
    let listener =
        Listener::bind(&socket).with_context(|| format!("failed to listen on {}", socket.display()))?;
    let ownership = listener.ownership();
    let (sender, messages) = unbounded_channel();
    let (relay_uses, uses) = channel(USES_MAX);
    let relay = Arc::new(relay::Relay::start(relay_options, &relay_uses)?);
    let records = Records::new(&state_dir);
    let (conf, cache) = (cni_conf.clone(), cni_cache.clone());
    let recovery = Recovery { records, state_dir, cni_cache, cni_conf, socket: socket.clone() };
    let reconciler = Reconciler::new(options, Instant::now());
    let mut event_loop =
        EventLoop::new(reconciler, recovery, Arc::clone(&relay), predecessor, sender.clone());
    if let Some(server) = &dns_server {
        event_loop.set_dns(DnsControl::start(Arc::clone(server), &sender)?);
    }
    event_loop.recover().await?;
    start_node_portals(node_options, &mut event_loop, &relay)?;
    let (source, _file_watch) = if manifests.is_empty() {
        (cluster_source(kubeconfig.as_deref(), node, dns.dns).await?, None)
    } else {
        let (source, file_watch) = file_source(manifests, portal_nets, node)?;
        (source, Some(file_watch))
    };
    let metrics_server =
        metrics.0.map(|address| http::serve(address, Reporter::new(sender.clone(), dns_server.clone())));
    if let Err(error) = cni_watch::watch(conf, cache, sender.clone()) {
        tracing::warn!(%error, "failed to watch CNI directories; existing pods are found at the next audit");
    }
    rpc_server::serve(listener, dns_server.clone(), sender).context("failed to start socket thread")?;
    tracing::info!(socket = %socket.display(), version = VERSION, memory_limit = memory_limit(), "agent started");
    let reason = event_loop.run(source, messages, uses, shutdown.requested()).await;
    event_loop.wait_for_jobs().await;
    metrics_server.inspect(tokio::task::AbortHandle::abort);
    let servers = OutgoingServers { relay: &relay, dns: dns_server.as_ref() };
    if let ExitReason::Handover(request) = reason {
        handover::hand_over(request, ownership, servers, drain, &shutdown).await?;
    } else {
        // Requests fail at once instead of after a timeout.
        let _ = std::fs::remove_file(&socket);
        servers.shut_down(true, drain).await;
    }
    tracing::info!("agent stopped; rules left in place");
    Ok(())
}

fn options(args: &AgentArgs) -> Options {
    let AgentArgs { nat_priority, relay_port, counters, .. } = *args;
    Options {
        node: Node { name: args.node.as_deref().unwrap_or_default().into(), ..Node::default() },
        mode: args.mode.into(),
        settings: Settings { nat_priority, relay_port, counters, ..Settings::default() },
        dial_from_node: args.dial_from_node.clone(),
        programming_mode: args.portals.programming_mode(args.on_demand_above),
        portal_idle: args.portal_idle,
        external: args.allowed.external_policy(),
        limits: args.allowed.portal_limits(),
        budget: Budget {
            limit: memory_limit(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        },
        has_node_portals: args.node_portals.node_portals.is_some(),
        dns: args.dns.settings(),
        service_ranges: args.service_ranges.clone(),
        apply_interval: args.apply_interval,
        audit_interval: args.audit_interval,
    }
}

/// Starts node portals if they are enabled, otherwise warns of a table that no agent updates.
fn start_node_portals(
    options: Option<NodePortalsOptions>,
    event_loop: &mut EventLoop,
    relay: &Arc<relay::Relay>,
) -> anyhow::Result<()> {
    if let Some(options) = options {
        event_loop.set_node_portals(NodePortals::start(options, relay)?);
    } else if Socket::open().and_then(|socket| socket.has_node_table()).unwrap_or(false) {
        tracing::warn!(
            "the node has a table of node portals, which no agent updates; enable --node-portals, or remove it with \
             `portico uninstall --node-portals`"
        );
    }
    Ok(())
}

/// The options of node portals, if they are enabled.
fn node_portals_options(args: &AgentArgs, options: &Options) -> anyhow::Result<Option<NodePortalsOptions>> {
    let Some(mode) = args.node_portals.node_portals else { return Ok(None) };
    let pods = NodeContext {
        node: options.node.clone(),
        external: options.external.clone(),
        limits: options.limits,
        ..NodeContext::default()
    };
    let state = args.node_portals.options(pods).map_err(anyhow::Error::msg)?;
    let has_loopback = Family::BOTH.into_iter().any(|family| state.addresses.has_localhost(family));
    Ok(Some(NodePortalsOptions {
        mode,
        state,
        loopback_port: if has_loopback { args.relay_port } else { 0 },
        has_anchor: !args.node_portals.no_anchor_table,
        audit_interval: args.audit_interval,
    }))
}

/// The options of the relay. The number of connections is limited by descriptors and by memory.
fn relay_options(args: &AgentArgs) -> relay::Options {
    let AgentArgs { relay_threads: threads, relay_port: port, .. } = *args;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if threads == 0 { processors.min(RELAY_THREADS_MAX) } else { threads };
    let descriptors = raise_descriptor_limit();
    let reserved = RESERVED_DESCRIPTORS + if args.dns.dns { pod_dns::DESCRIPTORS } else { 0 };
    let reserved = reserved.min(descriptors / 2);
    let by_descriptors = (descriptors - reserved) / CONNECTION_DESCRIPTORS;
    let memory = memory_limit().unwrap_or(MEMORY_DEFAULT);
    let to_usize = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let by_memory = to_usize(memory / CONNECTIONS_DIVISOR / CONNECTION_BYTES);
    let connections_max = by_descriptors.min(by_memory).max(1);
    relay::Options { workers, port, connections_max, buffer_bytes_max: to_usize(memory / BUFFERS_DIVISOR) }
}

/// Raises the soft limit of file descriptors to the hard limit, and returns it.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    // None: there is no limit.
    current.and_then(|current| current.try_into().ok()).unwrap_or(1 << 20)
}

/// Watches manifest files and directories.
fn file_source(
    manifests: Vec<PathBuf>,
    portal_nets: Vec<IpNet>,
    node: Option<String>,
) -> anyhow::Result<(Receiver<Event>, impl Sized)> {
    let (sender, source) = channel(SOURCE_EVENTS_MAX);
    let options = ReadOptions { portal_nets };
    let watch = watch_files(manifests, options, node, sender).context("failed to watch manifests")?;
    Ok((source, watch))
}

/// Watches the API server.
async fn cluster_source(
    kubeconfig: Option<&Path>,
    node: Option<String>,
    has_names: bool,
) -> anyhow::Result<Receiver<Event>> {
    let client = kube_source::client(kubeconfig)
        .await
        .context("failed to create API client; without an API server, pass --manifests")?;
    let (sender, source) = channel(SOURCE_EVENTS_MAX);
    tokio::spawn(watch_cluster(client, WatchScope::Proxy { node, has_names }, sender));
    Ok(source)
}

/// Connects to the API server as the agent does, and returns its version.
pub fn probe_api_server(kubeconfig: Option<&Path>) -> anyhow::Result<String> {
    runtime()?.block_on(async {
        let client = kube_source::client(kubeconfig).await?;
        Ok(kube_source::probe(&client).await?)
    })
}

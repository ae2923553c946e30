//! `portico agent`: puts the parts together and runs until it is told to stop.
//!
//! What must not go in here: what any part does.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use agent_ipc::{Listener, Records};
use anyhow::Context;
use daemon::{Shutdown, start_log};
use kube_source::{Event, ReadOptions, WatchScope, watch_cluster, watch_files};
use proxy_core::node::Node;
use proxy_core::ruleset::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, channel, unbounded_channel};

use crate::args::AgentArgs;
use crate::budget::Budget;
use crate::event_loop::{EventLoop, ExitReason};
use crate::handover::{leave, succeed};
use crate::memory_limit::memory_limit;
use crate::reconciler::{Options, Reconciler};
use crate::recovery::Recovery;
use crate::{allocator, cni_watch, http, rpc_server, thread_pools};

/// How far the source of services may be ahead.
const SOURCE_AHEAD: usize = 64;
/// More threads relay only where the operator says so.
const RELAY_THREADS_MAX: usize = 4;
/// Descriptors that are not for relayed connections: two and more for each pod, and the agent's own.
const RESERVED: usize = 2_048;
/// What a relayed connection takes, with some room.
const DESCRIPTORS_EACH: usize = 3;
/// What an idle relayed connection takes of the memory limit, most of it in the kernel: 9.7 KB were measured.
const CONNECTION_BYTES: u64 = 12 << 10;
/// Of the quarter of the memory limit that is for the relay (`Budget`), one half is for connections, whatever they do.
const CONNECTIONS_SHARE: u64 = 8;
/// The other half is for full socket buffers: half of that as a rule, and all of it for a moment.
const BUFFERS_SHARE: u64 = 16;
/// What is shared where there is no limit.
const MEMORY_DEFAULT: u64 = 8 << 30;
/// So many uses of portals on demand may wait to be programmed; others are reported again by later connections.
const USES_WAITING_MAX: usize = 4_096;

/// Runs the agent until SIGTERM or SIGINT.
pub fn run(args: AgentArgs) -> anyhow::Result<()> {
    allocator::limit();
    start_log(args.log_format, args.log_level);
    let runtime = runtime()?;
    let done = runtime.block_on(serve(args));
    // Jobs that are under way end by themselves; a transaction is whole or not at all.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(thread_pools::THREADS).enable_all();
    builder.build().context("start the runtime")
}

async fn serve(args: AgentArgs) -> anyhow::Result<()> {
    let options = options(&args);
    let AgentArgs {
        socket,
        state_dir,
        metrics,
        node,
        manifests,
        kubeconfig,
        portal_nets,
        relay_threads,
        relay_port,
        take_over,
        drain,
        cni_cache,
        cni_conf,
        ..
    } = args;
    let shutdown = Shutdown::listen()?;
    std::fs::create_dir_all(&state_dir)
        .with_context(|| format!("make the state directory {}", state_dir.display()))?;
    let predecessor = if take_over { succeed(&socket)? } else { None };
    let listener = Listener::bind(&socket).with_context(|| format!("listen at {}", socket.display()))?;
    let claim = listener.ownership();
    let (sender, messages) = unbounded_channel();
    let records = Records::new(&state_dir);
    let watched = (cni_conf.clone(), cni_cache.clone());
    let adopter = Recovery { records, state_dir, cni_cache, cni_conf, socket: socket.clone() };
    let (tell_used, uses) = channel(USES_WAITING_MAX);
    let relay = Arc::new(relay::Relay::start(relay_options(relay_threads, relay_port), &tell_used)?);
    let agent = Reconciler::new(options, Instant::now());
    let mut driver = EventLoop::new(agent, adopter, Arc::clone(&relay), predecessor, sender.clone());
    driver.adopt().await?;
    let (source, _watch) = if manifests.is_empty() {
        (cluster(kubeconfig.as_deref(), node).await?, None)
    } else {
        let (tell, source) = channel(SOURCE_AHEAD);
        let options = ReadOptions { portal_nets };
        let watch = watch_files(manifests, options, node, tell).context("watch the manifests")?;
        (source, Some(watch))
    };
    let pages = metrics.0.map(|address| http::serve(address, sender.clone()));
    if let Err(error) = cni_watch::watch(watched.0, watched.1, sender.clone()) {
        tracing::warn!(%error, "failed to watch the CNI folders: pods from before the install are adopted at the next audit");
    }
    rpc_server::serve(listener, sender).context("start the thread of the agent's socket")?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(socket = %socket.display(), version, memory_limit = memory_limit(), "started");
    let end = driver.run(source, messages, uses, shutdown.requested()).await;
    driver.rest().await;
    if let Some(pages) = pages {
        pages.abort();
    }
    match end {
        ExitReason::Retired(retirement) => leave(retirement, claim, &relay, drain, &shutdown).await?,
        ExitReason::Stopped => {
            // Whoever asks now is told at once that nobody is there.
            let _ = std::fs::remove_file(&socket);
            relay.shut_down(drain).await;
        }
    }
    tracing::info!("stopped; what is in the kernel stays");
    Ok(())
}

fn options(args: &AgentArgs) -> Options {
    let AgentArgs { nat_priority, relay_port, counters, .. } = *args;
    Options {
        node: Node { name: args.node.as_deref().unwrap_or_default().into(), ..Node::default() },
        mode: args.mode.into(),
        settings: Settings { nat_priority, relay_port, counters, ..Settings::default() },
        dial_from_node: args.dial_from_node.clone(),
        provision: args.portals.provision(args.on_demand_above),
        portal_idle: args.portal_idle,
        outside: args.allowed.outside(),
        bounds: args.allowed.bounds(),
        budget: Budget {
            limit: memory_limit(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        },
        service_ranges: args.service_ranges.clone(),
        apply_interval: args.apply_interval,
        audit_interval: args.audit_interval,
    }
}

/// As many connections as there are descriptors and memory for: each has two descriptors, and a share of those that
/// others need.
fn relay_options(threads: usize, port: u16) -> relay::Options {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if threads == 0 { processors.min(RELAY_THREADS_MAX) } else { threads };
    let descriptors = descriptors();
    let reserved = RESERVED.min(descriptors / 2);
    let by_descriptors = (descriptors - reserved) / DESCRIPTORS_EACH;
    let memory = memory_limit().unwrap_or(MEMORY_DEFAULT);
    let share = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let by_memory = share(memory / CONNECTIONS_SHARE / CONNECTION_BYTES);
    let connections_max = by_descriptors.min(by_memory).max(1);
    relay::Options { workers, port, connections_max, buffer_bytes_max: share(memory / BUFFERS_SHARE) }
}

/// How many descriptors this process may have; as many as an administrator allows.
fn descriptors() -> usize {
    let allowed = getrlimit(Resource::Nofile);
    let most = Rlimit { current: allowed.maximum, ..allowed };
    let current = if setrlimit(Resource::Nofile, most).is_ok() { allowed.maximum } else { allowed.current };
    // None: there is no limit.
    current.and_then(|current| current.try_into().ok()).unwrap_or(1 << 20)
}

/// What the API server tells.
async fn cluster(kubeconfig: Option<&Path>, node: Option<String>) -> anyhow::Result<Receiver<Event>> {
    let client =
        kube_source::client(kubeconfig).await.context("an agent without an API server needs --manifests")?;
    let (tell, source) = channel(SOURCE_AHEAD);
    tokio::spawn(watch_cluster(client, WatchScope::Proxy { node }, tell));
    Ok(source)
}

/// Reaches the API server as the agent would, and says which version it is.
pub fn probe_api_server(kubeconfig: Option<&Path>) -> anyhow::Result<String> {
    runtime()?.block_on(async {
        let client = kube_source::client(kubeconfig).await?;
        Ok(kube_source::probe(&client).await?)
    })
}

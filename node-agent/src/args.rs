//! The options of `portico agent`. The doc comment of an option is its help text.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use daemon::LogFormat;
use ipnet::IpNet;
use proxy_core::ruleset::Settings;

use crate::allowed::AllowedArgs;
use crate::mode_arg::ModeArg;
use crate::node_portals::NodePortalsArgs;
use crate::on_demand::{ON_DEMAND_ABOVE, ProgrammingMode};
use crate::pod_dns::DnsArgs;

/// `portico agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Path of the agent's Unix socket.
    #[arg(long, value_name = "PATH", default_value = agent_ipc::SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    /// State directory for attachment records and the ruleset snapshot; should be on tmpfs.
    #[arg(long, value_name = "DIR", default_value = agent_ipc::STATE_DIR_DEFAULT)]
    pub(crate) state_dir: PathBuf,
    /// Address for /metrics, /healthz and /readyz, or "none" to disable.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9477", value_parser = address_or_none)]
    pub(crate) metrics: ListenAddress,
    /// Name of this node; used for topology-aware and local traffic policies.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node: Option<String>,
    /// Watch these manifest files or directories instead of an API server. Repeatable.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,
    /// Path to a kubeconfig (default: in-cluster service account).
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// CIDR from which to assign cluster IPs to manifest services that lack one (one per IP family).
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16")]
    pub(crate) portal_nets: Vec<IpNet>,
    /// Service CIDR, if the cluster has no ServiceCIDR objects. Repeatable.
    #[arg(long = "service-cidr", value_name = "CIDR")]
    pub(crate) service_ranges: Vec<IpNet>,
    /// Default mode for services without a portico.dev/mode annotation.
    #[arg(long, value_enum, default_value_t = ModeArg::Kernel)]
    pub(crate) mode: ModeArg,
    /// Which portals to program: all visible ones; on-demand, those in use (the first connection is relayed); auto,
    /// on-demand above --on-demand-above portals.
    #[arg(long, value_enum, default_value_t = PortalsArg::Auto)]
    pub(crate) portals: PortalsArg,
    /// With --portals auto, use on-demand for pods that see more than this many portals when attached.
    #[arg(long, value_name = "NUMBER", default_value_t = ON_DEMAND_ABOVE)]
    pub(crate) on_demand_above: usize,
    /// Remove an on-demand portal after this many seconds without use.
    #[arg(long, value_name = "S", default_value = "600", value_parser = seconds)]
    pub(crate) portal_idle: Duration,
    /// Count connections and UDP flows per portal and backend in the kernel, for `portico status --watch`. Each backend
    /// costs memory for every CPU; see docs/operations.md.
    #[arg(long)]
    pub(crate) counters: bool,
    /// Number of relay threads (0: one per CPU, at most 4).
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) relay_threads: usize,
    /// Port the relay listens on inside each pod's network namespace.
    #[arg(long, value_name = "PORT", default_value_t = Settings::default().relay_port)]
    pub(crate) relay_port: u16,
    #[command(flatten)]
    pub(crate) allowed: AllowedArgs,
    #[command(flatten)]
    pub(crate) node_portals: NodePortalsArgs,
    #[command(flatten)]
    pub(crate) dns: DnsArgs,
    /// Comma-separated namespaces in which the annotation portico.dev/dial has an effect: backends of their services
    /// may be dialled from the node. "*" is every namespace. Repeatable.
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',')]
    pub(crate) dial_from_node: Vec<String>,
    /// Take over from a running agent, which keeps relaying until this one is ready.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Grace period for relayed connections on shutdown, in seconds.
    #[arg(long, value_name = "S", default_value = "20", value_parser = seconds)]
    pub(crate) drain: Duration,
    /// Priority of the NAT chain: -99 runs after a service-mesh sidecar's chain, -101 before it.
    #[arg(long, value_name = "NUMBER", default_value_t = -99, allow_negative_numbers = true)]
    pub(crate) nat_priority: i32,
    /// Minimum interval between kernel updates, in milliseconds; the first is applied immediately.
    #[arg(long, value_name = "MS", default_value = "10", value_parser = milliseconds)]
    pub(crate) apply_interval: Duration,
    /// Interval at which every network namespace is checked for drift, in seconds.
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    pub(crate) audit_interval: Duration,
    /// The runtime's CNI result cache, used to discover pods created before installation.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    pub(crate) cni_cache: PathBuf,
    /// The runtime's CNI configuration directory; pods of networks that reference this socket are managed.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf: PathBuf,
    /// Log format.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Log level: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: tracing::Level,
}

/// The portals that are programmed for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PortalsArg {
    /// All visible portals.
    All,
    /// Portals in use.
    OnDemand,
    /// On-demand for pods that see many portals, otherwise all.
    Auto,
}

impl PortalsArg {
    /// The mode; `Auto` is on-demand above this number of portals.
    pub(crate) const fn programming_mode(self, on_demand_above: usize) -> ProgrammingMode {
        match self {
            Self::All => ProgrammingMode::All,
            Self::OnDemand => ProgrammingMode::OnDemand,
            Self::Auto => ProgrammingMode::OnDemandAbove(on_demand_above),
        }
    }
}

/// The address to listen on, unless disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenAddress(pub(crate) Option<SocketAddr>);

fn address_or_none(text: &str) -> Result<ListenAddress, String> {
    if text == "none" {
        return Ok(ListenAddress(None));
    }
    let invalid = |_| "must be an address and port, e.g. 127.0.0.1:9477, or \"none\"".to_owned();
    text.parse().map(|address| ListenAddress(Some(address))).map_err(invalid)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    number_up_to(10_000, text).map(Duration::from_millis)
}

fn seconds(text: &str) -> Result<Duration, String> {
    number_up_to(86_400, text).and_then(|number| {
        if number == 0 { Err("must be at least 1".to_owned()) } else { Ok(Duration::from_secs(number)) }
    })
}

fn number_up_to(max: u64, text: &str) -> Result<u64, String> {
    let number: u64 = text.parse().map_err(|_| "must be a whole number".to_owned())?;
    if number > max { Err(format!("must be at most {max}")) } else { Ok(number) }
}

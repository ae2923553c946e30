//! The options of `portico agent`. What a flag means stands in its doc comment, which is also its help.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use daemon::LogFormat;
use ipnet::IpNet;
use proxy_core::ruleset::Settings;

use crate::allowed::AllowedArgs;
use crate::mode_arg::ModeArg;
use crate::on_demand::{ON_DEMAND_ABOVE, ProgrammingMode};

/// `portico agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Where the CNI plugin and `portico status` find the agent.
    #[arg(long, value_name = "PATH", default_value = agent_ipc::SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    /// Where attachments and the last ruleset are kept; best on a file system that a reboot empties.
    #[arg(long, value_name = "DIR", default_value = agent_ipc::STATE_DIR_DEFAULT)]
    pub(crate) state_dir: PathBuf,
    /// Where /metrics, /healthz and /readyz are served; "none" serves them nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9477", value_parser = address_or_none)]
    pub(crate) metrics: ListenAddress,
    /// The node on which this runs; decides which endpoints are near.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) node: Option<String>,
    /// Files and folders of Kubernetes objects to watch; no API server is asked then. May repeat.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,
    /// How to probe_api_server the API server; without it and without --manifests, the pod's own service account.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The net from which a service in a manifest without an address gets one; once for each family.
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16")]
    pub(crate) portal_nets: Vec<IpNet>,
    /// A range of service addresses, where no ServiceCIDR object tells it. May repeat.
    #[arg(long = "service-cidr", value_name = "CIDR")]
    pub(crate) service_ranges: Vec<IpNet>,
    /// How services are reached that do not say it with the annotation portico.dev/mode.
    #[arg(long, value_enum, default_value_t = ModeArg::Kernel)]
    pub(crate) mode: ModeArg,
    /// Which portals a pod gets: all that it sees; on demand those that it uses, where the first connection to
    /// one is relayed; auto is on demand where it sees more than --on-demand-above.
    #[arg(long, value_enum, default_value_t = PortalsArg::Auto)]
    pub(crate) portals: PortalsArg,
    /// With --portals auto, a pod that sees more portals than this when it is attached gets those that it uses.
    #[arg(long, value_name = "NUMBER", default_value_t = ON_DEMAND_ABOVE)]
    pub(crate) on_demand_above: usize,
    /// On demand, a portal that a pod did not use for so long goes again, in seconds.
    #[arg(long, value_name = "S", default_value = "600", value_parser = seconds)]
    pub(crate) portal_idle: Duration,
    /// Has the kernel count the connections and UDP flows that come to each portal and go to each backend, for `portico
    /// status --watch`. Each backend costs memory for every processor: docs/operations.md says how much.
    #[arg(long)]
    pub(crate) counters: bool,
    /// How many threads relay connections; 0: as many as there are processors, at most 4.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) relay_threads: usize,
    /// The port in each pod on which the relay listens.
    #[arg(long, value_name = "PORT", default_value_t = Settings::default().relay_port)]
    pub(crate) relay_port: u16,
    #[command(flatten)]
    pub(crate) allowed: AllowedArgs,
    /// The namespaces whose services may be dialled from the node, by the annotation portico.dev/dial: elsewhere it is
    /// ignored. "*" is every namespace. With commas; may repeat.
    #[arg(long, value_name = "NAMESPACES", value_delimiter = ',')]
    pub(crate) dial_from_node: Vec<String>,
    /// Takes the place of an agent that runs already: it retires, and relays what comes until all is served here.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// At the end, relayed connections have so long to end by themselves, in seconds.
    #[arg(long, value_name = "S", default_value = "20", value_parser = seconds)]
    pub(crate) drain: Duration,
    /// The priority of the chain that translates addresses: -99 is behind a mesh sidecar's, -101 before.
    #[arg(long, value_name = "NUMBER", default_value_t = -99, allow_negative_numbers = true)]
    pub(crate) nat_priority: i32,
    /// The least time between two changes in the kernel, in milliseconds; the first is made at once.
    #[arg(long, value_name = "MS", default_value = "10", value_parser = milliseconds)]
    pub(crate) apply_interval: Duration,
    /// How often every network namespace is looked at, in seconds.
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    pub(crate) audit_interval: Duration,
    /// Where the runtime keeps CNI results: pods from before the install are found there.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    pub(crate) cni_cache: PathBuf,
    /// Where the runtime finds its CNI configuration: pods of networks that name our socket are ours.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf: PathBuf,
    /// The form of the log on standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// What the log holds: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: tracing::Level,
}

/// Which portals a pod gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PortalsArg {
    /// All that it sees.
    All,
    /// Those that it uses.
    OnDemand,
    /// Those that it uses, where it sees many.
    Auto,
}

impl PortalsArg {
    /// Which portals these are, where auto means on demand above a number.
    pub(crate) const fn provision(self, on_demand_above: usize) -> ProgrammingMode {
        match self {
            Self::All => ProgrammingMode::All,
            Self::OnDemand => ProgrammingMode::OnDemand,
            Self::Auto => ProgrammingMode::OnDemandAbove(on_demand_above),
        }
    }
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenAddress(pub(crate) Option<SocketAddr>);

fn address_or_none(text: &str) -> Result<ListenAddress, String> {
    if text == "none" {
        return Ok(ListenAddress(None));
    }
    let wrong = |_| format!("\"{text}\" is no address and port, like 127.0.0.1:9477, and not \"none\"");
    text.parse().map(|address| ListenAddress(Some(address))).map_err(wrong)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    bounded(text, 10_000).map(Duration::from_millis)
}

fn seconds(text: &str) -> Result<Duration, String> {
    bounded(text, 86_400).and_then(|number| {
        if number == 0 { Err("0 is too often".to_owned()) } else { Ok(Duration::from_secs(number)) }
    })
}

fn bounded(text: &str, max: u64) -> Result<u64, String> {
    let number: u64 = text.parse().map_err(|_| format!("\"{text}\" is no whole number"))?;
    if number > max { Err(format!("{number} is more than {max}")) } else { Ok(number) }
}

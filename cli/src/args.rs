//! The command line of `portico`, as types.
//!
//! The doc comment of an argument is its `--help` text, and its description in `docs/reference/portico.md`. The
//! arguments of commands that talk to a running agent or change the node are next to their implementation.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;
use node_agent::{AgentArgs, AllowedArgs, ModeArg};
use proxy_core::admission::InjectMode;
use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;

use crate::check::CheckArgs;
use crate::conntrack::ConntrackArgs;
use crate::dns::DnsArgs;
use crate::install::InstallArgs;
use crate::migrate::MigrateArgs;
use crate::status::StatusArgs;
use crate::top::TopArgs;
use crate::uninstall::UninstallArgs;

const EXIT_CODES: &str = "Exit codes: 0 success, 1 invalid input or a problem found, 2 wrong usage.";

/// Per-pod service portals for Kubernetes: inspect, explain and run them.
#[derive(Debug, Parser)]
#[command(name = "portico", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the service environment variables a container receives.
    Env(EnvArgs),
    /// List all portals and their backends.
    Portals(PortalsArgs),
    /// Print the ruleset for a pod's network namespace.
    Rules(RulesArgs),
    /// Explain how a connection would be handled.
    Explain(ExplainArgs),
    /// Explain the answer to a DNS query of a pod, or follow the queries of a pod.
    Dns(DnsArgs),
    /// Run the node agent, which programs and maintains portals for every pod on this node.
    Agent(Box<AgentArgs>),
    /// Show the state of the running agent and any problems.
    Status(StatusArgs),
    /// Show live relay traffic per pod and portal, or the DNS queries of pods.
    Top(TopArgs),
    /// Check this node's prerequisites.
    Check(CheckArgs),
    /// Move nodes from kube-proxy to Portico, and back, without a drain.
    ///
    /// Call it again after an interruption: it continues from the state of the node.
    Migrate(Box<MigrateArgs>),
    /// Raise the limits and timeouts of connection tracking on this node, as kube-proxy does.
    Conntrack(ConntrackArgs),
    /// Install the CNI plugin and add it to the CNI configuration.
    Install(Box<InstallArgs>),
    /// Remove the CNI configuration entry, and with --purge the plugin.
    Uninstall(UninstallArgs),
    /// Print shell completions.
    Completions {
        /// Shell to complete for.
        shell: Shell,
    },
    /// Write manual pages, one per command.
    Man {
        /// Output directory.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// The manifests that a command reads.
#[derive(Debug, ClapArgs)]
pub(crate) struct InputArgs {
    /// Manifest file or directory (YAML or JSON); `-` reads standard input. Repeatable.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub(crate) files: Vec<String>,
    /// CIDR from which to assign cluster IPs to manifest services that lack one (one per IP family).
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16")]
    pub(crate) portal_nets: Vec<IpNet>,
    /// List ignored objects.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// The node of the pod, and defaults for its services.
#[derive(Debug, ClapArgs)]
pub(crate) struct NodeContextArgs {
    /// Node the pod runs on.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Zone of that node (default: from the Node object's label).
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Default mode for services without a portico.dev/mode annotation.
    #[arg(long, value_enum, default_value_t = ModeArg::Kernel)]
    pub(crate) mode: ModeArg,
    #[command(flatten)]
    pub(crate) allowed: AllowedArgs,
}

/// The table of the node's network namespace.
#[derive(Debug, Default, ClapArgs)]
pub(crate) struct NodePortalArgs {
    /// Address of the node on which node ports are served (default: the first address of the Node object in each
    /// family). Repeatable.
    #[arg(long = "nodeport-address", value_name = "IP")]
    pub(crate) nodeport_addresses: Vec<IpAddr>,
    /// Comma-separated CIDRs of pods. Connections to cluster addresses from other clients are masqueraded.
    #[arg(long = "cluster-cidr", value_name = "CIDR", value_delimiter = ',')]
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Masquerade pods, too, as clients of cluster addresses.
    #[arg(long)]
    pub(crate) masquerade_all: bool,
    /// Keep the client's address if the endpoint of a connection from outside is on this node.
    #[arg(long)]
    pub(crate) keep_client_address: bool,
    /// Port of the listener that serves node ports on the loopback addresses (0: none).
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub(crate) loopback_port: u16,
}

/// Arguments of `portico env`.
#[derive(Debug, ClapArgs)]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// Namespace of the pod.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Behave as with enableServiceLinks: false (only the default/kubernetes variables).
    #[arg(long)]
    pub(crate) no_links: bool,
    /// Instead, show what the webhook would inject into the Pod (or workload such as a Deployment) in this file, per
    /// container, with reasons.
    #[arg(long, value_name = "FILE", conflicts_with = "no_links")]
    pub(crate) pod: Option<PathBuf>,
    /// Default injection mode for pods without a portico.dev/inject annotation.
    #[arg(long, value_enum, default_value_t = InjectModeArg::Auto, requires = "pod")]
    pub(crate) inject: InjectModeArg,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = EnvOutput::Env)]
    pub(crate) output: EnvOutput,
}

/// How the webhook injects variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InjectModeArg {
    /// Prepend to `env`.
    Inline,
    /// Prepend a managed ConfigMap to `envFrom`.
    Configmap,
    /// Inline if the result is exact, otherwise a ConfigMap.
    Auto,
}

impl From<InjectModeArg> for InjectMode {
    fn from(mode: InjectModeArg) -> Self {
        match mode {
            InjectModeArg::Inline => Self::Inline,
            InjectModeArg::Configmap => Self::ConfigMap,
            InjectModeArg::Auto => Self::Auto,
        }
    }
}

/// Output formats of `portico env`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvOutput {
    /// NAME=value lines.
    Env,
    /// One JSON object.
    Json,
}

/// Arguments of `portico portals`.
#[derive(Debug, ClapArgs)]
pub(crate) struct PortalsArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) context: NodeContextArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = PortalsOutput::Table)]
    pub(crate) output: PortalsOutput,
}

/// Output formats of `portico portals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PortalsOutput {
    /// A table.
    Table,
    /// A JSON array.
    Json,
}

/// Arguments of `portico rules`.
#[derive(Debug, ClapArgs)]
pub(crate) struct RulesArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) context: NodeContextArgs,
    /// Print the table of the node's own network namespace, for clients outside the cluster and for the node itself.
    #[arg(long, conflicts_with = "counters")]
    pub(crate) node_portals: bool,
    #[command(flatten)]
    pub(crate) node: Option<NodePortalArgs>,
    /// Priority of the NAT chain (default: -99, with --node-portals -101).
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) nat_priority: Option<i32>,
    /// Add per-portal and per-backend counters.
    #[arg(long)]
    pub(crate) counters: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = RulesOutput::Nft)]
    pub(crate) output: RulesOutput,
}

/// Output formats of `portico rules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RulesOutput {
    /// Input for nft -f.
    Nft,
    /// Input for iptables-restore (IPv4), without --node-portals.
    Iptables,
    /// Input for ip6tables-restore (IPv6), without --node-portals.
    Ip6tables,
    /// One JSON object.
    Json,
}

/// Arguments of `portico explain`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) context: NodeContextArgs,
    /// Client type.
    #[arg(long, value_enum, default_value_t = ClientArg::Pod)]
    pub(crate) from: ClientArg,
    /// The client is the Pod (or workload such as a Deployment) in this file, with the portals that portico.dev/portals
    /// on it or on its namespace selects.
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    pub(crate) pod: Option<PathBuf>,
    /// Source address.
    #[arg(long, value_name = "IP")]
    pub(crate) source: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) node: Option<NodePortalArgs>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = ExplainOutput::Text)]
    pub(crate) output: ExplainOutput,
    /// Destination, e.g. tcp://10.0.0.11:6379 (IPv6 in brackets).
    #[arg(value_name = "PROTO://IP:PORT", value_parser = destination)]
    pub(crate) destination: PortalKey,
}

/// The client of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientArg {
    /// A pod on the node, by the portals in its network namespace.
    Pod,
    /// A process in the node's network namespace, by the node's portals.
    Node,
    /// A client that reaches the node from outside, by the node's portals.
    Outside,
}

/// Output formats of `portico explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExplainOutput {
    /// Step by step.
    Text,
    /// One JSON object.
    Json,
}

fn destination(text: &str) -> Result<PortalKey, String> {
    let format = "PROTO://IP:PORT, e.g. tcp://10.0.0.11:6379 or udp://[fd00::a]:53";
    let (protocol, socket) = text.split_once("://").ok_or_else(|| format!("must be {format}"))?;
    let protocol = Protocol::parse(&protocol.to_uppercase())
        .ok_or_else(|| format!("protocol {protocol} must be one of: tcp, udp, sctp"))?;
    let socket: SocketAddr =
        socket.parse().map_err(|_| format!("{socket} is not IP:PORT; must be {format}"))?;
    if socket.port() == 0 {
        return Err("port must be from 1 to 65535".to_owned());
    }
    Ok(PortalKey { address: socket.ip().to_canonical(), protocol, port: socket.port() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn reference_page_matches_the_command_line() {
        use clap::CommandFactory;
        let about = "Every command of `portico` and its flags. Each command has `--help`; `portico --version` prints \
                     the version.";
        let body = xtask::reference::commands(Args::command());
        expect_test::expect_file!["../../docs/reference/portico.md"]
            .assert_eq(&xtask::reference::page("portico", about, &body));
    }

    #[test]
    fn destination_requires_protocol_address_and_port() {
        let key = destination("UDP://[fd00::a]:53").unwrap();
        assert_eq!((key.protocol, key.port), (Protocol::Udp, 53));
        for invalid in
            ["10.0.0.1:80", "icmp://10.0.0.1:80", "tcp://10.0.0.1", "tcp://db:80", "tcp://10.0.0.1:0"]
        {
            assert!(destination(invalid).is_err(), "{invalid}");
        }
    }
}

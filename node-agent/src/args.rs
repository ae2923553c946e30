//! The command line, as types. What a flag means stands in its doc comment, which is also its help.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;
use proxy_core::inject::InjectMode;
use proxy_core::portal::PortalKey;
use proxy_core::service::{Mode, Protocol};

use crate::agent::AgentArgs;
use crate::allowed::AllowedArgs;
use crate::check::CheckArgs;
use crate::install::{InstallArgs, UninstallArgs};
use crate::status::StatusArgs;
use crate::top::TopArgs;

const EXIT_CODES: &str =
    "Exit codes: 0 answered, 1 some of the input is wrong (the rest is answered), 2 wrong usage.";

/// Service portals for pods: what a pod sees of the services in manifest files, and why.
#[derive(Debug, Parser)]
#[command(name = "portico", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to answer.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the variables that a container in a namespace gets.
    Env(EnvArgs),
    /// Print every portal: address and port, and where they lead.
    Portals(PortalsArgs),
    /// Print the rules that program a pod's network namespace.
    Rules(RulesArgs),
    /// Say what happens to a connection, and why.
    Explain(ExplainArgs),
    /// Keep the portals of all pods on this node right.
    Agent(Box<AgentArgs>),
    /// Show what the running agent keeps right, and what is wrong.
    Status(StatusArgs),
    /// Show what is relayed, pod by pod and portal by portal, as it happens.
    Top(TopArgs),
    /// Find out whether this node can do what Portico needs.
    Check(CheckArgs),
    /// Put the plugin and its entry where the container runtime looks.
    Install(Box<InstallArgs>),
    /// Take the entry away, and the plugin where nothing names it any more.
    Uninstall(UninstallArgs),
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual pages, one for each command.
    Man {
        /// The folder to write them to.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// What to read.
#[derive(Debug, ClapArgs)]
pub(crate) struct InputArgs {
    /// A file or folder of Kubernetes objects, YAML or JSON; - is standard input. May repeat.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub(crate) files: Vec<String>,
    /// The net from which a service without an address gets one; once for each family.
    #[arg(long = "portal-net", value_name = "CIDR", default_value = "10.11.0.0/16")]
    pub(crate) portal_nets: Vec<IpNet>,
    /// List what was ignored.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// From where services are seen.
#[derive(Debug, ClapArgs)]
pub(crate) struct StandpointArgs {
    /// The node on which the pod runs.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// The zone of that node; by default the label of the Node object.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// How services are reached that do not say it with the annotation portico.dev/mode.
    #[arg(long, value_enum, default_value_t = ModeArg::Kernel)]
    pub(crate) mode: ModeArg,
    #[command(flatten)]
    pub(crate) allowed: AllowedArgs,
}

/// How a service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// The kernel translates addresses.
    Kernel,
    /// A user-space relay takes connections.
    Relay,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Kernel => Self::Kernel,
            ModeArg::Relay => Self::Relay,
        }
    }
}

/// `portico env`.
#[derive(Debug, ClapArgs)]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// The namespace of the pod.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// As with enableServiceLinks: false, only the variables of default/kubernetes.
    #[arg(long)]
    pub(crate) no_links: bool,
    /// Print what the webhook puts into this pod instead, container by container, and why: a file with a Pod, or with
    /// what makes pods, such as a Deployment.
    #[arg(long, value_name = "FILE", conflicts_with = "no_links")]
    pub(crate) pod: Option<PathBuf>,
    /// How variables come into a pod that does not say it with the annotation portico.dev/inject.
    #[arg(long, value_enum, default_value_t = InjectModeArg::Auto, requires = "pod")]
    pub(crate) inject: InjectModeArg,
    /// The form of the answer.
    #[arg(short, long, value_enum, default_value_t = EnvOutput::Env)]
    pub(crate) output: EnvOutput,
}

/// How variables come into a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InjectModeArg {
    /// At the beginning of env.
    Inline,
    /// By a ConfigMap as the first of envFrom.
    Configmap,
    /// Inline where that is exact, by a ConfigMap where it is not.
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

/// Forms of `portico env`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvOutput {
    /// NAME=value lines.
    Env,
    /// One JSON object.
    Json,
}

/// `portico portals`.
#[derive(Debug, ClapArgs)]
pub(crate) struct PortalsArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) standpoint: StandpointArgs,
    /// The form of the answer.
    #[arg(short, long, value_enum, default_value_t = PortalsOutput::Table)]
    pub(crate) output: PortalsOutput,
}

/// Forms of `portico portals`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PortalsOutput {
    /// A table.
    Table,
    /// A JSON array.
    Json,
}

/// `portico rules`.
#[derive(Debug, ClapArgs)]
pub(crate) struct RulesArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) standpoint: StandpointArgs,
    /// The priority of the chain that translates addresses.
    #[arg(long, default_value_t = -99, allow_negative_numbers = true)]
    pub(crate) nat_priority: i32,
    /// Have the kernel count what comes to each portal and goes to each backend.
    #[arg(long)]
    pub(crate) counters: bool,
    /// The form of the answer.
    #[arg(short, long, value_enum, default_value_t = RulesOutput::Nft)]
    pub(crate) output: RulesOutput,
}

/// Forms of `portico rules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RulesOutput {
    /// Text for nft -f.
    Nft,
    /// Text for iptables-restore: the classic form, IPv4.
    Iptables,
    /// Text for ip6tables-restore: the classic form, IPv6.
    Ip6tables,
    /// One JSON object.
    Json,
}

/// `portico explain`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    #[command(flatten)]
    pub(crate) standpoint: StandpointArgs,
    /// Who opens the connection.
    #[arg(long, value_enum, default_value_t = ClientArg::Pod)]
    pub(crate) from: ClientArg,
    /// The source address of the connection.
    #[arg(long, value_name = "IP")]
    pub(crate) source: Option<IpAddr>,
    /// The form of the answer.
    #[arg(short, long, value_enum, default_value_t = ExplainOutput::Text)]
    pub(crate) output: ExplainOutput,
    /// Where the connection goes, such as tcp://10.0.0.11:6379; an IPv6 address stands in brackets.
    #[arg(value_name = "PROTO://IP:PORT", value_parser = destination)]
    pub(crate) destination: PortalKey,
}

/// Who opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientArg {
    /// A pod on the node.
    Pod,
    /// The node itself.
    Node,
}

/// Forms of `portico explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExplainOutput {
    /// Step by step, in words.
    Text,
    /// One JSON object.
    Json,
}

fn destination(text: &str) -> Result<PortalKey, String> {
    let form = "PROTO://IP:PORT, such as tcp://10.0.0.11:6379 or udp://[fd00::a]:53";
    let (protocol, socket) = text.split_once("://").ok_or_else(|| format!("this is not {form}"))?;
    let protocol = Protocol::parse(&protocol.to_uppercase())
        .ok_or_else(|| format!("{protocol} is not a protocol that services have: tcp, udp, sctp"))?;
    let socket: SocketAddr = socket.parse().map_err(|_| format!("{socket} is not IP:PORT in {form}"))?;
    if socket.port() == 0 {
        return Err("0 is not a port: 1 to 65535".to_owned());
    }
    Ok(PortalKey { address: socket.ip().to_canonical(), protocol, port: socket.port() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn the_reference_of_portico_is_its_command_line() {
        use clap::CommandFactory;
        let about = "Every command of `portico` and every flag. All take `--help`, and `portico --version` says \
                     which one it is.";
        let body = xtask::reference::commands(Args::command());
        expect_test::expect_file!["../../docs/reference/portico.md"]
            .assert_eq(&xtask::reference::page("portico", about, &body));
    }

    #[test]
    fn a_destination_names_protocol_address_and_port() {
        let key = destination("UDP://[fd00::a]:53").unwrap();
        assert_eq!((key.protocol, key.port), (Protocol::Udp, 53));
        for wrong in
            ["10.0.0.1:80", "icmp://10.0.0.1:80", "tcp://10.0.0.1", "tcp://db:80", "tcp://10.0.0.1:0"]
        {
            assert!(destination(wrong).is_err(), "{wrong}");
        }
    }
}

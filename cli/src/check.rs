//! `portico check`: tests the prerequisites of Portico on this node.
//!
//! Each check performs the real operation if it can: for example, it programs a ruleset in a new network namespace,
//! which disappears with the check. A check never changes the node.

mod cni;
mod corefile;
mod differences;
mod dns;
mod kernel;
mod node;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use ::dns::Name;
use agent_ipc::{Reply, Request, send_request};
use anstyle::{AnsiColor, Style};
use clap::Args;
use support::with_causes;

use crate::install::CniDirs;

const PASSED: Style = AnsiColor::Green.on_default().bold();
const FAILED: Style = AnsiColor::Red.on_default().bold();
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `portico check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Path of the agent's Unix socket.
    #[arg(long, value_name = "PATH", default_value = agent_ipc::SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    #[command(flatten)]
    pub(crate) dirs: CniDirs,
    /// Network to check (default: the first configuration by file name, which is the one that runtimes use).
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// Also check this network namespace for an agent with --node-portals: forwarding, connection tracking, local ports,
    /// firewalls, kube-proxy, the anchor table, and differences from the settings of kube-proxy.
    #[arg(long)]
    pub(crate) node_portals: bool,
    /// Also check the prerequisites of an agent with --dns: the kernel, Cilium, and plugins of the cluster's CoreDNS that
    /// Portico bypasses.
    #[arg(long)]
    pub(crate) dns: bool,
    /// Domain of the cluster, with --dns.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", requires = "dns", value_parser = domain)]
    pub(crate) cluster_domain: Name,
    /// Path to a kubeconfig (default: in-cluster service account).
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The prerequisite is met.
    Pass(String),
    /// It works, but deviates from what is recommended: the deviation, and a remedy.
    Warn(String, String),
    /// It does not work: the problem, and a remedy.
    Fail(String, String),
    /// It was not checked: the reason.
    Skip(String),
}

use Finding::{Fail, Pass, Skip, Warn};

/// Runs `portico check`. Returns false if a check failed.
pub(crate) fn run(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let mut passed = true;
    let mut report = |name: &str, finding: Finding| {
        passed &= !matches!(finding, Fail(..));
        write(out, name, &finding)
    };
    report("capabilities", kernel::capabilities())?;
    report("kernel ruleset", kernel::ruleset())?;
    let (plugin, versions) = cni::plugin(&args.dirs.cni_bin_dir);
    let cni::Findings { conflist, order, entry } =
        cni::conflist(&args.dirs.cni_conf_dir, args.network.as_deref(), &versions);
    report("CNI configuration", conflist)?;
    report("CNI plugin order", order)?;
    report("CNI entry", entry)?;
    report("CNI plugin", plugin)?;
    if args.node_portals {
        for (name, finding) in node::findings().into_iter().chain(differences::findings(&args.socket)) {
            report(name, finding)?;
        }
    }
    if args.dns {
        for (name, finding) in dns::findings(args) {
            report(name, finding)?;
        }
    }
    report("agent", agent(args))?;
    report("API server", api_server(args))?;
    Ok(passed)
}

fn domain(text: &str) -> Result<Name, &'static str> {
    Name::parse(text).ok_or("must be a domain name")
}

fn write(out: &mut impl Write, name: &str, finding: &Finding) -> std::io::Result<()> {
    match finding {
        Pass(result) => writeln!(out, "{PASSED}✓{PASSED:#} {name}: {result}"),
        Warn(problem, remedy) => writeln!(out, "{FAILED}!{FAILED:#} {name}: {problem}\n    → {remedy}"),
        Fail(problem, remedy) => writeln!(out, "{FAILED}✗{FAILED:#} {name}: {problem}\n    → {remedy}"),
        Skip(reason) => writeln!(out, "- {name}: {reason}"),
    }
}

fn agent(args: &CheckArgs) -> Finding {
    let socket = args.socket.display();
    match send_request(&args.socket, &Request::Ready, None, AGENT_TIMEOUT) {
        Ok((Reply::Done, _)) => Pass(format!("ready at {socket}")),
        Ok((Reply::Refused { message, .. }, _)) => {
            Fail(message, "see the agent's log: can it reach its service source?".to_owned())
        }
        Ok((Reply::File, _)) => Fail(
            format!("unexpected reply at {socket}: not an agent of this version"),
            "install plugin and agent of the same version".to_owned(),
        ),
        Err(error) => Fail(
            with_causes(&error),
            "start the agent (portico agent, or the DaemonSet), or set its socket with --socket".to_owned(),
        ),
    }
}

fn api_server(args: &CheckArgs) -> Finding {
    let is_in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if args.kubeconfig.is_none() && !is_in_cluster {
        return Skip(
            "no --kubeconfig and no service account; not needed by an agent with --manifests".to_owned(),
        );
    }
    let remedy = "check the address, the certificate, and the role of the service account".to_owned();
    match node_agent::probe_api_server(args.kubeconfig.as_deref()) {
        Ok(version) => Pass(format!("Kubernetes {version}; may list services and EndpointSlices")),
        Err(error) => Fail(format!("{error:#}"), remedy),
    }
}

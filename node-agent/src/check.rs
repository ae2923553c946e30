//! `portico check`: whether this node can do what Portico needs, before a pod finds out.
//!
//! Each check tries the real thing where it can: the kernel is asked to take real rules, in a network
//! namespace that ends with the check. What must not go in here: changing anything on the node.

mod cni;
mod kernel;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use attachment::{Reply, Request, ask, with_causes};
use clap::Args;

use crate::install::CniDirs;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const PATIENCE: Duration = Duration::from_secs(5);

/// `portico check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = attachment::SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    #[command(flatten)]
    pub(crate) dirs: CniDirs,
    /// The network whose pods get portals; by default the one that runtimes take, the first by its file's name.
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    /// How to reach the API server; without it the pod's own service account, where there is one.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// As it should be.
    Good(String),
    /// Works, but is not as it should be, and what to do.
    Odd(String, String),
    /// Does not work, and what to do.
    Bad(String, String),
    /// Was not looked at, and why.
    LeftOut(String),
}

use Finding::{Bad, Good, LeftOut};

/// Answers `portico check`; false where something does not work.
pub(crate) fn answer(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let mut sound = true;
    let mut show = |name: &str, finding: Finding| {
        sound &= !matches!(finding, Bad(..));
        write(out, name, &finding)
    };
    show("capabilities", kernel::capabilities())?;
    show("rules in the kernel", kernel::rules())?;
    let (plugin, versions) = cni::plugin(&args.dirs.cni_bin_dir);
    let cni::Findings { conflist, order, entry } =
        cni::conflist(&args.dirs.cni_conf_dir, args.network.as_deref(), &versions);
    show("CNI configuration", conflist)?;
    show("order of the plugins", order)?;
    show("our entry", entry)?;
    show("plugin", plugin)?;
    show("agent", agent(args))?;
    show("API server", api_server(args))?;
    Ok(sound)
}

fn write(out: &mut impl Write, name: &str, finding: &Finding) -> std::io::Result<()> {
    match finding {
        Good(what) => writeln!(out, "{GOOD}✓{GOOD:#} {name}: {what}"),
        Finding::Odd(what, to_do) => writeln!(out, "{BAD}!{BAD:#} {name}: {what}\n    → {to_do}"),
        Bad(what, to_do) => writeln!(out, "{BAD}✗{BAD:#} {name}: {what}\n    → {to_do}"),
        LeftOut(why) => writeln!(out, "- {name}: {why}"),
    }
}

fn agent(args: &CheckArgs) -> Finding {
    let socket = args.socket.display();
    match ask(&args.socket, &Request::Ready, None, PATIENCE) {
        Ok((Reply::Done, _)) => Good(format!("answers at {socket} and knows the services")),
        Ok((Reply::Refused { message, .. }, _)) => {
            Bad(message, "see the agent's log; is its source of services in reach?".to_owned())
        }
        Ok((Reply::File, _)) => Bad(
            format!("what answers at {socket} is no agent of this version"),
            "install plugin and agent of one version".to_owned(),
        ),
        Err(error) => Bad(
            with_causes(&error),
            "start it: portico agent, or the DaemonSet; --socket says where it listens".to_owned(),
        ),
    }
}

fn api_server(args: &CheckArgs) -> Finding {
    let is_in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if args.kubeconfig.is_none() && !is_in_cluster {
        return LeftOut(
            "neither --kubeconfig nor a service account; an agent on --manifests needs none".to_owned(),
        );
    }
    let to_do = "check the address, the certificate and the role of the service account".to_owned();
    match crate::agent::reach(args.kubeconfig.as_deref()) {
        Ok(version) => Good(format!("Kubernetes {version} lets us list services and endpoint slices")),
        Err(error) => Bad(format!("{error:#}"), to_do),
    }
}

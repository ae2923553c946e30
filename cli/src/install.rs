//! `portico install`: installs the CNI plugin and its configuration entry on this node; run by hand or by the DaemonSet.

use std::io::Write;
use std::path::PathBuf;

use agent_ipc::OnAgentDown;
use clap::{Args, ValueEnum};
use cni_install::{Entry, EntryMode, InstallLock, Installation};
use daemon::{LogFormat, start_log};

/// The directories of the container runtime.
#[derive(Debug, Clone, Args)]
pub(crate) struct CniDirs {
    /// The runtime's CNI plugin directory.
    #[arg(long, alias = "cni-bin", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// The runtime's CNI configuration directory.
    #[arg(long, alias = "cni-conf", value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
}

/// Arguments of `portico install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    dirs: CniDirs,
    /// Plugin binary to install (default: portico-cni next to this program).
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Whether to edit the conflist or to add a drop-in.
    #[arg(long, value_enum, default_value_t = EntryModeArg::Auto)]
    mode: EntryModeArg,
    /// Network to extend (default: the first configuration by file name, which is the one that runtimes use).
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Path of the agent's Unix socket, for the plugin.
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    socket: Option<PathBuf>,
    /// State directory of the plugin and the agent, for attachment records and the ruleset snapshot.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    state_dir: Option<PathBuf>,
    /// What the plugin does if the agent is unavailable when a pod starts: snapshot, fail or ignore.
    #[arg(long, value_name = "CHOICE", value_parser = on_agent_down)]
    on_agent_down: Option<OnAgentDown>,
    /// Keep running, and restore the installation if another program changes it.
    #[arg(long)]
    watch: bool,
    /// Log format, with --watch.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Where the entry is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EntryModeArg {
    /// Append it to the plugins of the conflist.
    Chain,
    /// Write it to a separate file, in the directory with the network's name; needs a runtime with libcni 1.3 or newer.
    DropIn,
    /// Drop-in if one of Portico's exists already, otherwise chain: nothing shows which libcni a runtime contains.
    Auto,
}

impl From<EntryModeArg> for EntryMode {
    fn from(mode: EntryModeArg) -> Self {
        match mode {
            EntryModeArg::Chain => Self::Chain,
            EntryModeArg::DropIn => Self::DropIn,
            EntryModeArg::Auto => Self::Auto,
        }
    }
}

/// Runs `portico install`.
pub(crate) fn run(args: InstallArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let InstallArgs { dirs, plugin, mode, network, socket, state_dir, on_agent_down, watch, log_format } =
        args;
    let CniDirs { cni_bin_dir, cni_conf_dir } = dirs;
    let installation = Installation {
        plugin: plugin.map_or_else(cni_install::bundled_plugin_path, Ok)?,
        bin_dir: cni_bin_dir,
        conf_dir: cni_conf_dir,
        mode: mode.into(),
        network,
        entry: Entry::new(socket.as_deref(), state_dir.as_deref(), on_agent_down)?,
    };
    if watch {
        start_log(log_format, tracing::Level::INFO);
        return cni_install::watch(&installation);
    }
    let _lock = InstallLock::acquire(&installation.dirs())?;
    let outcome = installation.reconcile()?;
    let state = |is_new: bool, action: &'static str| if is_new { action } else { "up to date" };
    let plugin = cni_install::plugin_path(&installation.bin_dir);
    writeln!(out, "{}: {}", plugin.display(), state(outcome.is_plugin_new, "installed"))?;
    writeln!(out, "{}: {}", outcome.entry.display(), state(outcome.is_entry_new, "entry added"))?;
    Ok(())
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("not an absolute path".to_owned()) }
}

fn on_agent_down(text: &str) -> Result<OnAgentDown, String> {
    let choices = OnAgentDown::ALL.map(OnAgentDown::name).join(", ");
    OnAgentDown::from_name(text).ok_or_else(|| format!("must be one of: {choices}"))
}

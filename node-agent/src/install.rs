//! `portico install` and `portico uninstall`: the CNI plugin and its configuration entry on a node, installed by hand
//! or by the DaemonSet.
//!
//! ```text
//! plugin ─► temporary file, run with VERSION ─► rename ─► conflist: edited as text ─► rename ─► the runtime reloads
//! ```
//! Container runtimes read these directories at any moment, and other programs write to them. Therefore each file is
//! either complete or absent, content of other programs stays unchanged, and the entry exists only while the plugin
//! does. Pods are not touched here.

mod atomic_write;
mod conf_file;
mod conflist;
mod drop_in;
mod install_lock;
mod installation;
mod plugin;
mod uninstall;
mod watch;

use std::io::Write;
use std::path::{Path, PathBuf};

use agent_ipc::{OnAgentDown, PLUGIN_TYPE};
use clap::Args;

use crate::agent::{LogFormat, start_log};
use crate::install::conflist::Entry;
use crate::install::install_lock::InstallLock;
use crate::install::installation::{EntryModeArg, Installation};

pub(crate) use conf_file::ConfFile;
pub(crate) use drop_in::DropIn;
pub(crate) use plugin::{plugin_banner, supported_versions};
pub(crate) use uninstall::{UninstallArgs, run as uninstall};

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

/// Runs `portico install`.
pub(crate) fn install(args: InstallArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let InstallArgs { dirs, plugin, mode, network, socket, state_dir, on_agent_down, watch, log_format } =
        args;
    let CniDirs { cni_bin_dir, cni_conf_dir } = dirs;
    let installation = Installation {
        plugin: plugin.map_or_else(plugin::bundled_plugin_path, Ok)?,
        bin_dir: cni_bin_dir,
        conf_dir: cni_conf_dir,
        mode,
        network,
        entry: Entry::new(socket.as_deref(), state_dir.as_deref(), on_agent_down)?,
    };
    if watch {
        start_log(log_format, tracing::Level::INFO);
        return watch::watch(&installation);
    }
    let _lock = InstallLock::acquire(&installation.dirs())?;
    let outcome = installation.reconcile()?;
    let state = |is_new: bool, action: &'static str| if is_new { action } else { "up to date" };
    let plugin = plugin_path(&installation.bin_dir);
    writeln!(out, "{}: {}", plugin.display(), state(outcome.is_plugin_new, "installed"))?;
    writeln!(out, "{}: {}", outcome.entry.display(), state(outcome.is_entry_new, "entry added"))?;
    Ok(())
}

/// The path of the installed plugin.
pub(crate) fn plugin_path(bin_dir: &Path) -> PathBuf {
    bin_dir.join(PLUGIN_TYPE)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("not an absolute path".to_owned()) }
}

fn on_agent_down(text: &str) -> Result<OnAgentDown, String> {
    let choices = OnAgentDown::ALL.map(OnAgentDown::name).join(", ");
    OnAgentDown::from_name(text).ok_or_else(|| format!("must be one of: {choices}"))
}

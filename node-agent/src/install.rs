//! `portico install` and `portico uninstall`: the plugin and its entry on a node, by hand and by the DaemonSet.
//!
//! ```text
//! plugin ─► temporary file, asked for VERSION ─► rename ─► conflist: text in, text out ─► rename ─► the runtime reads
//! ```
//! A container runtime reads these folders at any moment, and other programs write into them. So each file is whole or
//! not there, what is not ours stays as it is, and the entry is there only while the plugin is. What must not go in
//! here: pods.

mod claim;
mod conf_file;
mod conflist;
mod drop_in;
mod installation;
mod plugin;
mod replace;
mod uninstall;
mod watch;

use std::io::Write;
use std::path::{Path, PathBuf};

use attachment::{OnAgentDown, PLUGIN_TYPE};
use clap::Args;

use crate::agent::{LogFormat, start_log};
use crate::install::claim::Claim;
use crate::install::conflist::Entry;
use crate::install::installation::{Installation, ModeArg};

pub(crate) use conf_file::ConfFile;
pub(crate) use drop_in::DropIn;
pub(crate) use plugin::{about, versions};
pub(crate) use uninstall::{UninstallArgs, answer as uninstall};

/// Where the runtime looks.
#[derive(Debug, Clone, Args)]
pub(crate) struct CniDirs {
    /// Where the runtime finds its CNI plugins.
    #[arg(long, alias = "cni-bin", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Where the runtime finds its CNI configuration.
    #[arg(long, alias = "cni-conf", value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
}

/// `portico install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    dirs: CniDirs,
    /// The plugin to install; by default portico-cni beside this program.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Where our entry stands.
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    mode: ModeArg,
    /// The network whose pods get portals; by default the one that runtimes take, the first by its file's name.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Where the plugin finds the agent.
    #[arg(long, value_name = "PATH", value_parser = absolute)]
    socket: Option<PathBuf>,
    /// Where the plugin and the agent keep attachments and the last ruleset.
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    state_dir: Option<PathBuf>,
    /// What the plugin does with a pod while no agent is there: snapshot, fail or ignore.
    #[arg(long, value_name = "CHOICE", value_parser = on_agent_down)]
    on_agent_down: Option<OnAgentDown>,
    /// Stays, and puts back what somebody else takes away.
    #[arg(long)]
    watch: bool,
    /// The form of the log while it stays.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Answers `portico install`.
pub(crate) fn install(args: InstallArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let InstallArgs { dirs, plugin, mode, network, socket, state_dir, on_agent_down, watch, log_format } =
        args;
    let CniDirs { cni_bin_dir, cni_conf_dir } = dirs;
    let installation = Installation {
        plugin: plugin.map_or_else(plugin::beside, Ok)?,
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
    let _claim = Claim::soon(&installation.folders())?;
    let done = installation.make()?;
    let state =
        |is_new: bool, what: &str| if is_new { what.to_owned() } else { "as it should be".to_owned() };
    writeln!(
        out,
        "{}: {}",
        own_path(&installation.bin_dir).display(),
        state(done.is_plugin_new, "installed")
    )?;
    writeln!(out, "{}: {}", done.entry.display(), state(done.is_entry_new, "our entry is put in"))?;
    Ok(())
}

/// Where the plugin lies.
pub(crate) fn own_path(bin_dir: &Path) -> PathBuf {
    bin_dir.join(PLUGIN_TYPE)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("it is no absolute path".to_owned()) }
}

fn on_agent_down(text: &str) -> Result<OnAgentDown, String> {
    let choices = OnAgentDown::ALL.map(OnAgentDown::name).join(", ");
    OnAgentDown::named(text).ok_or_else(|| format!("it is none of {choices}"))
}

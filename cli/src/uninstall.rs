//! `portico uninstall`: removes the CNI configuration entry, and with `--purge` the plugin binary; with
//! `--node-portals` only the tables of node portals.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use cni_install::{PluginFate, Removal};

use crate::install::CniDirs;
use crate::manifests::print_error;

/// Arguments of `portico uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    dirs: CniDirs,
    /// The runtime's CNI result cache.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    cni_cache: PathBuf,
    /// Also delete the plugin binary if nothing references it; restart the runtime first.
    #[arg(long)]
    purge: bool,
    /// Delete only the tables of node portals. Connections through them end unless another service proxy, such as
    /// kube-proxy, is already running on the node.
    #[arg(long, conflicts_with = "purge")]
    node_portals: bool,
}

/// Runs `portico uninstall`. Returns whether everything was removed that should be.
pub(crate) fn run(args: &UninstallArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let UninstallArgs { dirs: CniDirs { cni_bin_dir, cni_conf_dir }, cni_cache, purge, node_portals } = args;
    if *node_portals {
        netns_nft::Socket::open()?.remove_node_tables().context(
            "failed to delete the tables of node portals; is an agent with --node-portals running?",
        )?;
        writeln!(out, "tables of node portals: removed")?;
        return Ok(true);
    }
    let removal = cni_install::uninstall(cni_bin_dir, cni_conf_dir, cni_cache, *purge)?;
    let Removal { edited, plugin, fate, errors } = removal;
    for path in &edited {
        writeln!(out, "{}: entry removed", path.display())?;
    }
    if edited.is_empty() && errors.is_empty() {
        writeln!(out, "{}: no entry found", cni_conf_dir.display())?;
    }
    writeln!(out, "{}: {}", plugin.display(), describe(&fate))?;
    if *purge && matches!(fate, PluginFate::KeepReferenced { .. } | PluginFate::KeepUnknown) {
        print_error(&"the plugin cannot be removed yet; try again after these pods have ended");
    }
    for error in &errors {
        print_error(&format!("{error:#}"));
    }
    Ok(errors.is_empty() && !(*purge && plugin.exists()))
}

fn describe(fate: &PluginFate) -> String {
    let kept = |reason: String| format!("kept, because {reason}: without it, DEL of these pods would fail");
    match fate {
        PluginFate::Absent => "not installed".to_owned(),
        PluginFate::KeepReferenced { first, others: 0 } => kept(format!("{} references it", first.display())),
        PluginFate::KeepReferenced { first, others } => {
            kept(format!("{} and {others} more reference it", first.display()))
        }
        PluginFate::KeepUnknown => kept("files that could not be read may reference it".to_owned()),
        PluginFate::Keep => {
            "kept, for runtimes that have not reloaded their configuration; --purge removes it".to_owned()
        }
        PluginFate::Removed => "removed".to_owned(),
        PluginFate::RemovalFailed => "not removed".to_owned(),
    }
}

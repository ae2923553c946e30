//! `Installation`: the desired state of the plugin and its entry on a node, and its reconciliation.
//!
//! The order keeps pods starting: first a plugin that runs, then the entry that refers to it.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::atomic_write::{remove_temporary, trigger_cni_reload};
use crate::conf_file::ConfFile;
use crate::conflist::{Conflist, Entry};
use crate::drop_in::DropIn;
use crate::{plugin, plugin_path};

/// Where the entry is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryMode {
    /// Append it to the plugins of the conflist.
    Chain,
    /// Write it to a separate file, in the directory with the network's name; needs a runtime with libcni 1.3 or newer.
    DropIn,
    /// Drop-in if one of Portico's exists already, otherwise chain: nothing shows which libcni a runtime contains.
    Auto,
}

/// The desired state.
#[derive(Debug)]
pub struct Installation {
    /// The path of the plugin to install.
    pub plugin: PathBuf,
    /// The runtime's plugin directory.
    pub bin_dir: PathBuf,
    /// The runtime's configuration directory.
    pub conf_dir: PathBuf,
    /// Where the entry is written.
    pub mode: EntryMode,
    /// The network to extend; by default the first configuration, which is the one that runtimes use.
    pub network: Option<String>,
    /// The entry of the plugin.
    pub entry: Entry,
}

/// What a reconciliation found and changed.
#[derive(Debug)]
pub struct InstallOutcome {
    /// The plugin was missing or different, and was installed.
    pub is_plugin_new: bool,
    /// The entry was missing or different, and was written.
    pub is_entry_new: bool,
    /// The file that contains the entry.
    pub entry: PathBuf,
    /// The configuration of the network.
    pub conf_file: PathBuf,
    /// The directories whose changes can affect the installation.
    pub watched_dirs: Vec<PathBuf>,
}

impl Installation {
    /// The directories that an installation changes.
    pub fn dirs(&self) -> [&Path; 2] {
        [&self.bin_dir, &self.conf_dir]
    }

    /// Brings the node to the desired state. Files that are up to date are not written.
    pub fn reconcile(&self) -> anyhow::Result<InstallOutcome> {
        let is_plugin_new = plugin::install_plugin(&self.plugin, &self.bin_dir)?;
        let versions = plugin::supported_versions(&plugin_path(&self.bin_dir))?;
        remove_temporary(&self.conf_dir)?;
        let file = ConfFile::find(&self.conf_dir, self.network.as_deref())?;
        let conflist = file.conflist()?;
        let unchanged = || format!("{} left unchanged", file.path.display());
        conflist.check_versions(&versions).with_context(unchanged)?;
        let drop_in = DropIn::new(&self.conf_dir, &conflist.name);
        let is_drop_in = match self.mode {
            EntryMode::Chain => false,
            EntryMode::DropIn => true,
            EntryMode::Auto => drop_in.exists() && !conflist.is_inlined_only,
        };
        // Write the new entry before the old one is removed, so that there is an entry at every moment.
        let is_entry_new = if is_drop_in {
            ensure!(!conflist.is_inlined_only, "{} sets loadOnlyInlinedPlugins", file.path.display());
            let is_new = drop_in.write(&self.entry)?;
            write_conflist(&file, conflist.without_entries())? || is_new
        } else {
            let is_new = write_conflist(&file, conflist.with_entry(&self.entry).with_context(unchanged)?)?;
            drop_in.remove()? || is_new
        };
        if is_entry_new {
            trigger_cni_reload(&self.conf_dir)?;
        }
        let entry = if is_drop_in { drop_in.path().to_owned() } else { file.path.clone() };
        let watched = self.dirs().into_iter().chain(file.real_dir()).chain(entry.parent());
        let watched_dirs = watched.map(Path::to_owned).collect();
        Ok(InstallOutcome { is_plugin_new, is_entry_new, entry, conf_file: file.path.clone(), watched_dirs })
    }
}

/// Writes the edited text, if there is one. Returns whether it wrote.
fn write_conflist(file: &ConfFile, edited: Option<String>) -> anyhow::Result<bool> {
    let Some(text) = edited else { return Ok(false) };
    // The runtime must be able to parse the result.
    Conflist::parse(&text).context("the edited configuration is invalid")?;
    file.write(&text)?;
    Ok(true)
}

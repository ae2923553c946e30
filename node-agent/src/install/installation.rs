//! `Installation`: what has to stand on the node, and one go at making it so.
//!
//! The order is what keeps pods starting: first a plugin that runs, then the entry that names it. What must not go
//! in here: waiting.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use attachment::PLUGIN_TYPE;
use clap::ValueEnum;

use crate::install::conf_file::ConfFile;
use crate::install::conflist::{Conflist, Entry};
use crate::install::drop_in::DropIn;
use crate::install::plugin;
use crate::install::replace::{clear, nudge};

/// Where our entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// In the conflist, behind the plugins that are there.
    Chain,
    /// In a file of its own, in the folder that bears the network's name; the runtime's libcni has to be 1.3 or newer.
    DropIn,
    /// In a file of its own where one of ours is already, else in the conflist: which libcni a runtime has cannot be known.
    Auto,
}

/// What has to stand on the node.
#[derive(Debug)]
pub(super) struct Installation {
    pub(super) plugin: PathBuf,
    pub(super) bin_dir: PathBuf,
    pub(super) conf_dir: PathBuf,
    pub(super) mode: ModeArg,
    pub(super) network: Option<String>,
    pub(super) entry: Entry,
}

/// What a go found and did.
#[derive(Debug)]
pub(super) struct Done {
    /// The plugin was not there, or another one.
    pub(super) is_plugin_new: bool,
    /// Our entry was not there, or another one.
    pub(super) is_entry_new: bool,
    /// Where the entry stands.
    pub(super) entry: PathBuf,
    /// The configuration to which it belongs.
    pub(super) file: PathBuf,
    /// The folders on whose content all this depends.
    pub(super) folders: Vec<PathBuf>,
}

impl Installation {
    /// The folders that are changed.
    pub(super) fn folders(&self) -> [&Path; 2] {
        [&self.bin_dir, &self.conf_dir]
    }

    /// Makes it so. What is right is left alone.
    pub(super) fn make(&self) -> anyhow::Result<Done> {
        let is_plugin_new = plugin::place(&self.plugin, &self.bin_dir)?;
        let versions = plugin::versions(&self.bin_dir.join(PLUGIN_TYPE))?;
        clear(&self.conf_dir)?;
        let file = ConfFile::find(&self.conf_dir, self.network.as_deref())?;
        let conflist = file.conflist()?;
        let left = || format!("{} is left as it is", file.path.display());
        conflist.speaks(&versions).with_context(left)?;
        let drop_in = DropIn::of(&self.conf_dir, &conflist.name);
        let is_drop_in = match self.mode {
            ModeArg::Chain => false,
            ModeArg::DropIn => true,
            ModeArg::Auto => drop_in.is_there() && !conflist.is_inlined_only,
        };
        // The new way first, so that at no moment there is none.
        let is_entry_new = if is_drop_in {
            ensure!(!conflist.is_inlined_only, "{} says loadOnlyInlinedPlugins", file.path.display());
            let is_new = drop_in.put(&self.entry)?;
            put(&file, conflist.without())? || is_new
        } else {
            let is_new = put(&file, conflist.with(&self.entry).with_context(left)?)?;
            drop_in.take()? || is_new
        };
        if is_entry_new {
            nudge(&self.conf_dir)?;
        }
        let entry = if is_drop_in { drop_in.path().to_owned() } else { file.path.clone() };
        let folders = self.folders().into_iter().chain(file.real_folder()).chain(entry.parent());
        let folders = folders.map(Path::to_owned).collect();
        Ok(Done { is_plugin_new, is_entry_new, entry, file: file.path.clone(), folders })
    }
}

/// Puts a changed text in place; false where there is nothing to change.
fn put(file: &ConfFile, changed: Option<String>) -> anyhow::Result<bool> {
    let Some(text) = changed else { return Ok(false) };
    // What we are about to write has to be what the runtime can read.
    Conflist::parse(&text).context("understand what we made of it")?;
    file.put(&text)?;
    Ok(true)
}

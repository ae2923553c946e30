//! The CNI plugin and its configuration entry on a node: installation, supervision and removal.
//!
//! ```text
//! plugin ─► temporary file, run with VERSION ─► rename ─► conflist: edited as text ─► rename ─► the runtime reloads
//! ```
//! Container runtimes read these directories at any moment, and other programs write to them. Therefore each file is
//! either complete or absent, content of other programs stays unchanged, and the entry exists only while the plugin
//! does. Pods are not touched here.

mod atomic_write;
mod conf_dir;
mod conf_file;
mod conflist;
mod drop_in;
mod install_lock;
mod installation;
mod plugin;
mod uninstall;
mod watch;

use std::path::{Path, PathBuf};

use agent_ipc::PLUGIN_TYPE;

pub use conf_dir::configurations;
pub use conf_file::ConfFile;
pub use conflist::{Conflist, Entry};
pub use drop_in::DropIn;
pub use install_lock::InstallLock;
pub use installation::{EntryMode, InstallOutcome, Installation};
pub use plugin::{bundled_plugin_path, plugin_banner, supported_versions};
pub use uninstall::{PluginFate, Removal, uninstall};
pub use watch::watch;

/// The path of the installed plugin.
#[must_use]
pub fn plugin_path(bin_dir: &Path) -> PathBuf {
    bin_dir.join(PLUGIN_TYPE)
}

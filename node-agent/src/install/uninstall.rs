//! `portico uninstall`: removes the entry first, and the plugin binary last, if at all.
//!
//! A runtime that still has the entry in memory runs the plugin for DEL. Without the binary DEL fails forever, and the
//! plugins before it in the chain never release the pod's address (containerd#12130). Nothing shows whether a runtime
//! has reloaded its configuration. Therefore the binary stays by default: its DEL succeeds even if nothing else of
//! Portico is left, and has no other effect. `--purge` removes it if no file on disk references it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use agent_ipc::PLUGIN_TYPE;
use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::Value;

use crate::cni_conf::{configurations, is_list};
use crate::install::atomic_write::{remove_if_exists, remove_temporary, trigger_cni_reload};
use crate::install::conf_file::ConfFile;
use crate::install::drop_in::DropIn;
use crate::install::install_lock::InstallLock;
use crate::install::{CniDirs, plugin_path};
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
}

/// Runs `portico uninstall`. An error does not prevent the remaining steps. Returns whether everything was removed
/// that should be.
pub(crate) fn run(args: &UninstallArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let UninstallArgs { dirs: CniDirs { cni_bin_dir, cni_conf_dir }, cni_cache, purge } = args;
    let existing: Vec<&Path> =
        [cni_bin_dir, cni_conf_dir].into_iter().map(PathBuf::as_path).filter(|dir| dir.exists()).collect();
    let _lock = InstallLock::acquire(&existing)?;
    let mut errors = Vec::new();
    let edited = remove_entries(cni_conf_dir, &mut errors);
    for path in &edited {
        writeln!(out, "{}: entry removed", path.display())?;
    }
    if edited.is_empty() && errors.is_empty() {
        writeln!(out, "{}: no entry found", cni_conf_dir.display())?;
    }
    for dir in existing {
        errors.extend(remove_temporary(dir).err());
    }
    let plugin = plugin_path(cni_bin_dir);
    let references = references(cni_conf_dir, cni_cache, &mut errors);
    let fate = decide(plugin.exists(), &references, !errors.is_empty(), *purge);
    if fate == PluginFate::Remove {
        match remove_if_exists(&plugin) {
            Ok(_) => writeln!(out, "{}: removed", plugin.display())?,
            Err(error) => errors.push(error),
        }
    } else {
        writeln!(out, "{}: {}", plugin.display(), fate.describe())?;
    }
    if *purge && matches!(fate, PluginFate::KeepReferenced { .. } | PluginFate::KeepUnknown) {
        print_error(&"the plugin cannot be removed yet; try again after these pods have ended");
    }
    for error in &errors {
        print_error(&format!("{error:#}"));
    }
    Ok(errors.is_empty() && !(*purge && plugin.exists()))
}

/// What happens to the plugin binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PluginFate<'a> {
    /// It does not exist.
    Absent,
    /// A configuration or a result references it.
    KeepReferenced {
        first: &'a Path,
        others: usize,
    },
    /// Some step failed, so that an unknown file may reference it.
    KeepUnknown,
    /// `--purge` was not given.
    Keep,
    Remove,
}

fn decide(exists: bool, references: &[PathBuf], has_errors: bool, purge: bool) -> PluginFate<'_> {
    if !exists {
        PluginFate::Absent
    } else if let Some((first, rest)) = references.split_first() {
        PluginFate::KeepReferenced { first, others: rest.len() }
    } else if has_errors {
        PluginFate::KeepUnknown
    } else if purge {
        PluginFate::Remove
    } else {
        PluginFate::Keep
    }
}

impl PluginFate<'_> {
    fn describe(self) -> String {
        let kept =
            |reason: String| format!("kept, because {reason}: without it, DEL of these pods would fail");
        match self {
            Self::Absent => "not installed".to_owned(),
            Self::KeepReferenced { first, others: 0 } => kept(format!("{} references it", first.display())),
            Self::KeepReferenced { first, others } => {
                kept(format!("{} and {others} more reference it", first.display()))
            }
            Self::KeepUnknown => kept("files that could not be read may reference it".to_owned()),
            Self::Keep => {
                "kept, for runtimes that have not reloaded their configuration; --purge removes it".to_owned()
            }
            Self::Remove => "removed".to_owned(),
        }
    }
}

/// Removes the entry from all configurations. Returns the edited and removed files.
fn remove_entries(conf_dir: &Path, errors: &mut Vec<anyhow::Error>) -> Vec<PathBuf> {
    let mut edited = Vec::new();
    for path in conflists(conf_dir, errors) {
        match remove_entry(&path) {
            Ok(true) => edited.push(path),
            Ok(false) => {}
            Err(error) => errors.push(error),
        }
    }
    for drop_in in DropIn::find_all(conf_dir) {
        match drop_in.remove() {
            Ok(_) => edited.push(drop_in.path().to_owned()),
            Err(error) => errors.push(error),
        }
    }
    if !edited.is_empty() {
        errors.extend(trigger_cni_reload(conf_dir).err());
    }
    edited
}

/// Removes the entry from a conflist. Returns false if there was none.
fn remove_entry(path: &Path) -> anyhow::Result<bool> {
    match fs::read(path) {
        Ok(text) if mentions_plugin(&text) => {}
        Ok(_) => return Ok(false),
        // A dangling link.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
    let file = ConfFile::read(path)?;
    let Some(text) = file.conflist()?.without_entries() else { return Ok(false) };
    file.write(&text)?;
    Ok(true)
}

fn conflists(conf_dir: &Path, errors: &mut Vec<anyhow::Error>) -> Vec<PathBuf> {
    match configurations(conf_dir) {
        Ok(paths) => paths.into_iter().filter(|path| is_list(path)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            errors.push(anyhow::Error::from(error).context(format!("failed to read {}", conf_dir.display())));
            Vec::new()
        }
    }
}

/// The files because of which a runtime would still run the plugin: configurations, and cached results, in which
/// libcni stores the configuration of the ADD; podman uses it for DEL.
fn references(conf_dir: &Path, cache: &Path, errors: &mut Vec<anyhow::Error>) -> Vec<PathBuf> {
    let is_reference = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| mentions_plugin(&bytes));
    // `remove_entries` has already reported a directory that cannot be read.
    let confs = conflists(conf_dir, &mut Vec::new());
    let mut references: Vec<PathBuf> = confs.into_iter().filter(is_reference).collect();
    let results = match fs::read_dir(cache) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            errors.push(anyhow::Error::from(error).context(format!("failed to read {}", cache.display())));
            Vec::new()
        }
    };
    let is_reference = |path: &PathBuf| match fs::read(path) {
        Ok(result) => result_may_need_plugin(&result),
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory),
    };
    references.extend(results.into_iter().filter(is_reference));
    references.sort();
    references
}

/// Whether the plugin was in the chain of a cached result, or the result cannot be parsed.
fn result_may_need_plugin(result: &[u8]) -> bool {
    let config = serde_json::from_slice::<Value>(result).ok();
    let config = config.and_then(|result| BASE64_STANDARD.decode(result.get("config")?.as_str()?).ok());
    config.is_none_or(|config| mentions_plugin(&config))
}

fn mentions_plugin(text: &[u8]) -> bool {
    text.windows(PLUGIN_TYPE.len()).any(|part| part == PLUGIN_TYPE.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_result_counts_as_reference_if_it_names_the_plugin_or_is_malformed() {
        let result = |config: &str| {
            serde_json::json!({"config": BASE64_STANDARD.encode(config)}).to_string().into_bytes()
        };
        assert!(result_may_need_plugin(&result(r#"{"plugins":[{"type":"bridge"},{"type":"portico-cni"}]}"#)));
        assert!(!result_may_need_plugin(&result(r#"{"plugins":[{"type":"bridge"}]}"#)));
        for malformed in ["", "{", "[]", r#"{"config": 7}"#, r#"{"config": "%"}"#] {
            assert!(result_may_need_plugin(malformed.as_bytes()), "{malformed}");
        }
    }

    #[test]
    fn plugin_is_removed_only_by_purge_and_without_references_and_errors() {
        let references = [PathBuf::from("/var/lib/cni/results/x")];
        for (exists, references, has_errors, purge, fate) in [
            (false, &references[..], true, true, PluginFate::Absent),
            (
                true,
                &references[..],
                false,
                true,
                PluginFate::KeepReferenced { first: &references[0], others: 0 },
            ),
            (true, &[], true, true, PluginFate::KeepUnknown),
            (true, &[], false, false, PluginFate::Keep),
            (true, &[], false, true, PluginFate::Remove),
        ] {
            assert_eq!(decide(exists, references, has_errors, purge), fate);
        }
    }
}

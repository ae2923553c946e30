//! `uninstall`: removes the entry first, and the plugin binary last, if at all.
//!
//! A runtime that still has the entry in memory runs the plugin for DEL. Without the binary DEL fails forever, and the
//! plugins before it in the chain never release the pod's address (containerd#12130). Nothing shows whether a runtime
//! has reloaded its configuration. Therefore the binary stays by default: its DEL succeeds even if nothing else of
//! Portico is left, and has no other effect. With `purge` it is removed if no file on disk references it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use agent_ipc::PLUGIN_TYPE;
use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::atomic_write::{remove_if_exists, remove_temporary, trigger_cni_reload};
use crate::conf_dir::{configurations, is_list};
use crate::conf_file::ConfFile;
use crate::drop_in::DropIn;
use crate::install_lock::InstallLock;
use crate::plugin_path;

/// What `uninstall` removed, and what it left.
#[derive(Debug)]
pub struct Removal {
    /// The edited and removed configuration files.
    pub edited: Vec<PathBuf>,
    /// The path of the plugin binary.
    pub plugin: PathBuf,
    /// What happened to the plugin binary.
    pub fate: PluginFate,
    /// The steps that failed. An error does not prevent the remaining steps.
    pub errors: Vec<anyhow::Error>,
}

/// Removes the entry from all configurations, and with `purge` the plugin binary if no file references it.
///
/// `cni_cache` is the directory in which the runtime caches CNI results.
pub fn uninstall(bin_dir: &Path, conf_dir: &Path, cni_cache: &Path, purge: bool) -> anyhow::Result<Removal> {
    let existing: Vec<&Path> = [bin_dir, conf_dir].into_iter().filter(|dir| dir.exists()).collect();
    let _lock = InstallLock::acquire(&existing)?;
    let mut errors = Vec::new();
    let edited = remove_entries(conf_dir, &mut errors);
    for dir in existing {
        errors.extend(remove_temporary(dir).err());
    }
    let plugin = plugin_path(bin_dir);
    let references = references(conf_dir, cni_cache, &mut errors);
    let mut fate = decide(plugin.exists(), references, !errors.is_empty(), purge);
    if fate == PluginFate::Removed
        && let Err(error) = remove_if_exists(&plugin)
    {
        errors.push(error);
        fate = PluginFate::RemovalFailed;
    }
    Ok(Removal { edited, plugin, fate, errors })
}

/// What happens to the plugin binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginFate {
    /// It does not exist.
    Absent,
    /// A configuration or a result references it.
    KeepReferenced {
        /// The first reference, by path.
        first: PathBuf,
        /// The number of further references.
        others: usize,
    },
    /// Some step failed, so that an unknown file may reference it.
    KeepUnknown,
    /// Its removal was not requested.
    Keep,
    /// It was removed.
    Removed,
    /// Its removal failed with one of the errors.
    RemovalFailed,
}

fn decide(exists: bool, references: Vec<PathBuf>, has_errors: bool, purge: bool) -> PluginFate {
    let mut references = references.into_iter();
    if !exists {
        PluginFate::Absent
    } else if let Some(first) = references.next() {
        PluginFate::KeepReferenced { first, others: references.len() }
    } else if has_errors {
        PluginFate::KeepUnknown
    } else if purge {
        PluginFate::Removed
    } else {
        PluginFate::Keep
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
        let references = vec![PathBuf::from("/var/lib/cni/results/x")];
        for (exists, references, has_errors, purge, fate) in [
            (false, references.clone(), true, true, PluginFate::Absent),
            (
                true,
                references.clone(),
                false,
                true,
                PluginFate::KeepReferenced { first: references[0].clone(), others: 0 },
            ),
            (true, vec![], true, true, PluginFate::KeepUnknown),
            (true, vec![], false, false, PluginFate::Keep),
            (true, vec![], false, true, PluginFate::Removed),
        ] {
            assert_eq!(decide(exists, references, has_errors, purge), fate);
        }
    }
}

//! `portico uninstall`: the entry first, the plugin's file last, if at all.
//!
//! A runtime that still knows our entry starts the plugin for DEL. Where its file is gone, DEL fails, for ever, and the
//! plugins before it never give back the pod's address (containerd#12130). Whether a runtime has read its
//! configuration again cannot be seen, so the file stays: its DEL succeeds also where nothing of us is left, and it
//! does nothing else. `--purge` removes it where nothing on disk names it. What must not go in here: pods.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use attachment::PLUGIN_TYPE;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::Value;

use crate::cni_conf::{configurations, is_list};
use crate::input::complain;
use crate::install::claim::Claim;
use crate::install::conf_file::ConfFile;
use crate::install::drop_in::DropIn;
use crate::install::replace::{clear, nudge, remove};
use crate::install::{CniDirs, own_path};

/// `portico uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    dirs: CniDirs,
    /// Where the runtime keeps what it knows of attachments.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    cni_cache: PathBuf,
    /// Removes the plugin's file, too, once nothing names it; best after a restart of the runtime.
    #[arg(long)]
    purge: bool,
}

/// Answers `portico uninstall`; false where something of us is left that should not be. Every step is taken.
pub(crate) fn answer(args: &UninstallArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let UninstallArgs { dirs: CniDirs { cni_bin_dir, cni_conf_dir }, cni_cache, purge } = args;
    let there: Vec<&Path> =
        [cni_bin_dir, cni_conf_dir].into_iter().map(PathBuf::as_path).filter(|dir| dir.exists()).collect();
    let _claim = Claim::soon(&there)?;
    let mut failed = Vec::new();
    let taken = take_entries(cni_conf_dir, &mut failed);
    for path in &taken {
        writeln!(out, "{}: our entry is taken out", path.display())?;
    }
    if taken.is_empty() && failed.is_empty() {
        writeln!(out, "{}: no entry of ours", cni_conf_dir.display())?;
    }
    for folder in there {
        failed.extend(clear(folder).err());
    }
    let plugin = own_path(cni_bin_dir);
    let shown = plugin.display();
    let users = users(cni_conf_dir, cni_cache, &mut failed);
    if !plugin.exists() {
        writeln!(out, "{shown}: is not there")?;
    } else if !users.is_empty() || !failed.is_empty() {
        let named = match &users[..] {
            [] => "what could not be read may name it".to_owned(),
            [one] => format!("{} names it", one.display()),
            [first, rest @ ..] => format!("{} and {} more name it", first.display(), rest.len()),
        };
        writeln!(out, "{shown}: stays, since {named}: without it DEL of these pods would fail")?;
        if *purge {
            complain(&"the plugin cannot be removed yet; try again when these pods have ended");
        }
    } else if *purge {
        match remove(&plugin) {
            Ok(_) => writeln!(out, "{shown}: removed")?,
            Err(error) => failed.push(error),
        }
    } else {
        writeln!(
            out,
            "{shown}: stays, for runtimes that did not read their configuration again; --purge removes it"
        )?;
    }
    for error in &failed {
        complain(&format!("{error:#}"));
    }
    Ok(failed.is_empty() && !(*purge && plugin.exists()))
}

/// Takes our entry out of every configuration; says out of which.
fn take_entries(folder: &Path, failed: &mut Vec<anyhow::Error>) -> Vec<PathBuf> {
    let mut taken = Vec::new();
    for path in lists(folder, failed) {
        match take_entry(&path) {
            Ok(true) => taken.push(path),
            Ok(false) => {}
            Err(error) => failed.push(error),
        }
    }
    for drop_in in DropIn::all(folder) {
        match drop_in.take() {
            Ok(_) => taken.push(drop_in.path().to_owned()),
            Err(error) => failed.push(error),
        }
    }
    if !taken.is_empty() {
        failed.extend(nudge(folder).err());
    }
    taken
}

fn take_entry(path: &Path) -> anyhow::Result<bool> {
    match fs::read(path) {
        Ok(text) if names_us(&text) => {}
        Ok(_) => return Ok(false),
        // A link that leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    }
    let file = ConfFile::read(path)?;
    let Some(text) = file.conflist()?.without() else { return Ok(false) };
    file.put(&text)?;
    Ok(true)
}

fn lists(folder: &Path, failed: &mut Vec<anyhow::Error>) -> Vec<PathBuf> {
    match configurations(folder) {
        Ok(paths) => paths.into_iter().filter(|path| is_list(path)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            failed.push(anyhow::Error::from(error).context(format!("read {}", folder.display())));
            Vec::new()
        }
    }
}

/// The files by which a runtime would still start the plugin: configurations, and results that libcni keeps with the
/// configuration of their time, by which podman ends a container.
fn users(conf_dir: &Path, cache: &Path, failed: &mut Vec<anyhow::Error>) -> Vec<PathBuf> {
    let named = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| names_us(&bytes));
    let mut users: Vec<PathBuf> = lists(conf_dir, &mut Vec::new()).into_iter().filter(named).collect();
    let results = match fs::read_dir(cache) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            failed.push(anyhow::Error::from(error).context(format!("read {}", cache.display())));
            Vec::new()
        }
    };
    let is_user = |path: &PathBuf| match fs::read(path) {
        Ok(result) => is_of_us(&result),
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory),
    };
    users.extend(results.into_iter().filter(is_user));
    users.sort();
    users
}

/// Whether a result was made by a chain with us in it; what cannot be understood may have been.
fn is_of_us(result: &[u8]) -> bool {
    let config = serde_json::from_slice::<Value>(result).ok();
    let config = config.and_then(|result| BASE64_STANDARD.decode(result.get("config")?.as_str()?).ok());
    config.is_none_or(|config| names_us(&config))
}

fn names_us(text: &[u8]) -> bool {
    text.windows(PLUGIN_TYPE.len()).any(|part| part == PLUGIN_TYPE.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_ours_where_its_configuration_names_us_or_cannot_be_understood() {
        let result = |config: &str| {
            serde_json::json!({"config": BASE64_STANDARD.encode(config)}).to_string().into_bytes()
        };
        assert!(is_of_us(&result(r#"{"plugins":[{"type":"bridge"},{"type":"portico-cni"}]}"#)));
        assert!(!is_of_us(&result(r#"{"plugins":[{"type":"bridge"}]}"#)));
        for odd in ["", "{", "[]", r#"{"config": 7}"#, r#"{"config": "%"}"#] {
            assert!(is_of_us(odd.as_bytes()), "{odd}");
        }
    }
}

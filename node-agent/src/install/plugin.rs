//! The plugin's file: put where the runtime looks for it, and asked what it can do.
//!
//! A plugin that does not start stops every pod of the node, so it is started before it takes the place of one that
//! does. What must not go in here: configurations.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use attachment::PLUGIN_TYPE;
use serde::Deserialize;

use crate::install::replace::{Like, clear, replace};

const MODE: u32 = 0o755;

/// Where the plugin lies that came with this program.
pub(super) fn beside() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("find this program's own file")?;
    Ok(program.with_file_name(PLUGIN_TYPE))
}

/// Puts the plugin in place; false where it is there already.
pub(super) fn place(source: &Path, folder: &Path) -> anyhow::Result<bool> {
    let path = folder.join(PLUGIN_TYPE);
    let bytes = fs::read(source)
        .with_context(|| format!("read {}; --plugin says where {PLUGIN_TYPE} lies", source.display()))?;
    clear(folder)?;
    let is_executable =
        fs::metadata(&path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 == 0o111);
    if is_executable && fs::read(&path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    replace(&path, &bytes, &Like::mode(MODE), |new| versions(new).map(drop))?;
    Ok(true)
}

/// The versions of CNI that a plugin speaks: its answer to VERSION.
pub(crate) fn versions(path: &Path) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        supported_versions: Vec<String>,
    }
    let what = || format!("ask {} for its versions", path.display());
    let mut command = Command::new(path);
    command.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null());
    let output = command.output().with_context(what)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}: {}", what(), output.status, said.trim());
    let answer: Answer = serde_json::from_slice(&output.stdout).with_context(what)?;
    Ok(answer.supported_versions)
}

/// What a plugin says of itself when nobody asks for anything.
pub(crate) fn about(path: &Path) -> anyhow::Result<String> {
    let what = || format!("start {}", path.display());
    let output = Command::new(path).env_clear().stdin(Stdio::null()).output().with_context(what)?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

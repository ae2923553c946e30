//! The plugin binary: its installation, and what it reports about itself.
//!
//! A plugin that does not start prevents every pod of the node from starting. Therefore the new plugin is run once
//! before it replaces a working one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agent_ipc::PLUGIN_TYPE;
use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::atomic_write::{FileAttributes, atomic_write, remove_temporary};
use crate::plugin_path;

const MODE: u32 = 0o755;

/// The path of the plugin that is shipped with this program.
pub fn bundled_plugin_path() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("failed to find this program's executable")?;
    Ok(program.with_file_name(PLUGIN_TYPE))
}

/// Copies the plugin to the plugin directory. Returns false if the same plugin was there already.
pub(crate) fn install_plugin(source: &Path, bin_dir: &Path) -> anyhow::Result<bool> {
    let path = plugin_path(bin_dir);
    let bytes = fs::read(source).with_context(|| {
        format!("failed to read {} (--plugin: the path of {PLUGIN_TYPE})", source.display())
    })?;
    remove_temporary(bin_dir)?;
    let is_executable =
        fs::metadata(&path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 == 0o111);
    if is_executable && fs::read(&path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let verify = |new: &Path| supported_versions(new).map(drop);
    atomic_write(&path, &bytes, &FileAttributes::with_mode(MODE), verify)?;
    Ok(true)
}

/// Runs the plugin with the command VERSION. Returns the CNI versions that it supports.
pub fn supported_versions(path: &Path) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct VersionResult {
        supported_versions: Vec<String>,
    }
    let context = || format!("failed to get supported CNI versions of {}", path.display());
    let mut command = Command::new(path);
    command.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null());
    let output = command.output().with_context(context)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}: {}", context(), output.status, stderr.trim());
    let result: VersionResult = serde_json::from_slice(&output.stdout).with_context(context)?;
    Ok(result.supported_versions)
}

/// Runs the plugin without a command. Returns the line that it prints then, with its name and version.
pub fn plugin_banner(path: &Path) -> anyhow::Result<String> {
    let output = Command::new(path).env_clear().stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("failed to start {}", path.display()))?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

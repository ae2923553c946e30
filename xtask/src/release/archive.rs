//! Archives and checksums: the same files give the same bytes, independent of the user and the time.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;

use crate::command::{check, command, output};
use crate::release::commit::Commit;
use crate::release::write;

/// Packs the entry `name` of a directory into a compressed tar archive.
pub(super) fn pack(
    root: &Path,
    commit: &Commit,
    directory: &Path,
    name: &str,
    to: &Path,
) -> anyhow::Result<()> {
    let file = File::create(to).with_context(|| format!("failed to create {}", to.display()))?;
    let mut tar = command("tar", root);
    tar.args(["--sort=name", "--format=ustar", "--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=u=rwX,go=rX", &format!("--mtime=@{}", commit.epoch), "-C"])
        .arg(directory)
        .args(["-cf", "-", name]);
    let mut packing = tar.stdout(Stdio::piped()).spawn().context("failed to start tar")?;
    let stream = packing.stdout.take().context("the output of tar is a pipe")?;
    let mut gzip = command("gzip", root);
    let compressed = gzip.arg("-9n").stdin(stream).stdout(file).status().context("failed to start gzip")?;
    check(&tar, packing.wait().context("failed to wait for tar")?)?;
    check(&gzip, compressed)
}

/// Writes `SHA256SUMS` for all files of a directory.
pub(super) fn write_checksums(directory: &Path) -> anyhow::Result<()> {
    let reading = || format!("failed to read {}", directory.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).with_context(reading)? {
        names.push(entry.with_context(reading)?.file_name());
    }
    names.sort();
    let sums = output(command("sha256sum", directory).args(names))?;
    write(&directory.join("SHA256SUMS"), &sums)
}

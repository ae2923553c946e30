//! `Platform`: the machine for which a release is built, which is the one that builds it.

use std::path::Path;

use anyhow::{Context, bail};

use crate::command::{command, output};

/// A platform on which static programs can be built.
pub(super) struct Platform {
    /// Rust's target triple.
    pub(super) target: String,
    /// The architecture as Go and container images name it.
    pub(super) architecture: &'static str,
}

impl Platform {
    /// # Errors
    /// If this machine is not Linux with the GNU C library on amd64 or arm64.
    pub(super) fn of_this_machine(root: &Path) -> anyhow::Result<Self> {
        let about = output(command("rustc", root).arg("-vV"))?;
        let target = about.lines().find_map(|line| line.strip_prefix("host: "));
        let target = target.context("rustc -vV printed no host")?.to_owned();
        let architecture = match target.as_str() {
            "x86_64-unknown-linux-gnu" => "amd64",
            "aarch64-unknown-linux-gnu" => "arm64",
            _ => {
                bail!(
                    "static programs are built on Linux with the GNU C library (Debian 12), not on {target}"
                )
            }
        };
        Ok(Self { target, architecture })
    }
}

//! `Builder`: builds a static program that contains no path of this machine.
//!
//! Programs are built one at a time: if cargo builds several at once, it unifies their features.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use xtask::Program;

use crate::command::{command, output, run};
use crate::release::Directories;

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// Builds programs for one target.
pub(super) struct Builder<'a> {
    directories: &'a Directories,
    target: &'a str,
    rust_flags: String,
    c_flags: String,
}

impl<'a> Builder<'a> {
    pub(super) fn new(directories: &'a Directories, target: &'a str) -> anyhow::Result<Self> {
        let Directories { root, target: build, cargo_home } = directories;
        let sysroot = output(command("rustc", root).args(["--print", "sysroot"]))?;
        let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        let rust_flags = [
            "-Ctarget-feature=+crt-static".to_owned(),
            remap(build, "/build"),
            remap(cargo_home, "/cargo"),
            remap(root, "/portico"),
            remap(&Path::new(sysroot.trim()).join("lib/rustlib/src/rust"), "/rust"),
        ];
        let map = |from: &Path, to: &str| quoted(&format!("-ffile-prefix-map={}={to}", from.display()));
        let c_flags = [map(build, "/build"), map(cargo_home, "/cargo")];
        Ok(Self {
            directories,
            target,
            rust_flags: rust_flags.join(FLAG_SEPARATOR),
            c_flags: c_flags.join(" "),
        })
    }

    /// Builds a program and copies it into the directory `bin`.
    ///
    /// # Errors
    /// If the build fails, or the program is not static, or contains a path of this machine.
    pub(super) fn build(&self, program: &Program, bin: &Path) -> anyhow::Result<()> {
        let Program { package, name, profile } = *program;
        let Directories { root, target: build, .. } = self.directories;
        // With --target, the flags apply to the program and not to build scripts.
        run(command("cargo", root)
            .env("CARGO_ENCODED_RUSTFLAGS", &self.rust_flags)
            .env("CC_SHELL_ESCAPED_FLAGS", "1")
            .env("CFLAGS", &self.c_flags)
            .env("CARGO_INCREMENTAL", "0")
            .args(["build", "--locked", "--target", self.target, "--profile", profile])
            .args(["--package", package, "--bin", name]))
        .with_context(|| format!("failed to build {name}"))?;
        fs::create_dir_all(bin).with_context(|| format!("failed to create {}", bin.display()))?;
        let (from, to) = (build.join(self.target).join(profile).join(name), bin.join(name));
        fs::copy(&from, &to).with_context(|| format!("failed to copy {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("failed to make {} executable", to.display()))?;
        self.check(&to)
    }

    /// Checks that a program needs no library of a node and contains no path of this machine.
    fn check(&self, program: &Path) -> anyhow::Result<()> {
        let Directories { root, target, cargo_home } = self.directories;
        let readelf = |flags| output(command("readelf", root).arg(flags).arg(program));
        if readelf("-lW")?.contains("INTERP") {
            bail!("{} requests a dynamic loader", program.display());
        }
        if readelf("-dW")?.contains("NEEDED") {
            bail!("{} needs shared libraries", program.display());
        }
        let bytes = fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
        for (directory, mapped) in [(root, "/portico"), (cargo_home, "/cargo"), (target, "/build")] {
            let path = format!("{}/", directory.display());
            let is_found = bytes.windows(path.len()).any(|window| window == path.as_bytes());
            if is_found && directory != Path::new(mapped) {
                bail!("{} contains {path}, so it would differ elsewhere", program.display());
            }
        }
        Ok(())
    }
}

/// Quotes a flag for the cc crate, which splits `CFLAGS` as a shell does.
fn quoted(flag: &str) -> String {
    format!("'{}'", flag.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_with_quotes_and_spaces_stay_one_word() {
        assert_eq!(quoted("-f=/a b='c'"), r"'-f=/a b='\''c'\'''");
    }
}

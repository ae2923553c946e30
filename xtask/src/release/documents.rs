//! The files next to the programs in the archive: manual pages, completions, licences, manifests.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use xtask::PROGRAMS;
use xtask::bills::{crates_of, libraries, licence_texts, notices};

use crate::command::{command, output, run};
use crate::release::commit::Commit;
use crate::release::write;

/// Debian's copy, which every Debian machine has.
const LGPL: &str = "/usr/share/common-licenses/LGPL-2.1";

/// The programs with a command line; the plugin has none.
const COMMANDS: [&str; 2] = ["portico", "portico-webhook"];

/// Writes the documents of the programs in `stage/bin` into `stage/share`.
pub(super) fn write_all(root: &Path, stage: &Path, commit: &Commit, target: &str) -> anyhow::Result<()> {
    let share = stage.join("share");
    let document = share.join("doc/portico");
    for directory in [
        "man/man1",
        "man/man8",
        "doc/portico",
        "bash-completion/completions",
        "zsh/site-functions",
        "fish/vendor_completions.d",
    ] {
        let directory = share.join(directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("failed to create {}", directory.display()))?;
    }
    for name in COMMANDS {
        let program = stage.join("bin").join(name);
        let version = output(command(&program, root).arg("--version"))?;
        if version.trim_end() != format!("{name} {}", commit.package_version()) {
            bail!("{name} has another version: {}", version.trim_end());
        }
        run(command(&program, root).arg("man").arg(share.join("man/man1")))?;
        for (shell, file) in [
            ("bash", format!("bash-completion/completions/{name}")),
            ("zsh", format!("zsh/site-functions/_{name}")),
            ("fish", format!("fish/vendor_completions.d/{name}.fish")),
        ] {
            write(&share.join(file), &output(command(&program, root).args(["completions", shell]))?)?;
        }
    }
    copy(&root.join("cni-plugin/portico-cni.8"), &share.join("man/man8"))?;
    for file in ["LICENSE", "README.md", "CHANGELOG.md", "deploy/manifests/portico.yaml"] {
        copy(&root.join(file), &document)?;
    }
    let Commit { version, revision, time, .. } = commit;
    let about = format!("version {version}\nrevision {revision}\ntime {time}\n");
    write(&document.join("RELEASE"), &about)?;
    write(&document.join("NOTICES"), &notices_of_all(root, target)?)
}

fn notices_of_all(root: &Path, target: &str) -> anyhow::Result<String> {
    let mut crates = BTreeMap::new();
    for program in &PROGRAMS {
        crates.extend(crates_of(root, program.package, target)?.all);
    }
    let lgpl = fs::read_to_string(LGPL).with_context(|| format!("failed to read {LGPL}"))?;
    Ok(notices(&crates, &licence_texts(&crates)?, &libraries()?, &lgpl))
}

fn copy(file: &Path, directory: &Path) -> anyhow::Result<()> {
    let name = file.file_name().context("a file has a name")?;
    fs::copy(file, directory.join(name)).with_context(|| format!("failed to copy {}", file.display()))?;
    Ok(())
}

//! `cargo xtask release`: builds a release, or verifies that a commit can be built again.
//!
//! ```text
//! Commit, Platform ─► OutputDir (lock, staging) ─► build ─► documents ─► archive, bills, checksums ─► publish
//! ```
//! Everyone who builds the same commit with the same tools gets the same bytes: the output contains neither the date
//! nor names of the machine and its user. The output directory is replaced in one step, after everything in it is
//! complete and checked; after a failure or an interruption the earlier release is unchanged. `scripts/release` sets
//! the umask.

mod archive;
mod build;
mod commit;
mod documents;
mod output_dir;
mod platform;
mod temporary_dir;
mod verify;

use std::env;
use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use xtask::PROGRAMS;
use xtask::bills::{Build, bill, crates_of, libraries};

use crate::command::{command, output};
use crate::release::build::Builder;
use crate::release::commit::Commit;
use crate::release::output_dir::OutputDir;
use crate::release::platform::Platform;

#[derive(clap::Args)]
pub(crate) struct ReleaseArgs {
    /// Release uncommitted changes, too, and mark the file names.
    #[arg(long)]
    dirty: bool,
    /// Build the last commit twice, in different places, and compare all bytes.
    #[arg(long, conflicts_with_all = ["dirty", "out"])]
    verify: bool,
    /// The output directory [default: target/dist].
    #[arg(value_name = "OUT")]
    out: Option<PathBuf>,
}

/// The directories of one build. Their paths must not get into a program.
struct Directories {
    /// The repository.
    root: PathBuf,
    /// Where cargo builds.
    target: PathBuf,
    /// Where cargo keeps the sources of crates.
    cargo_home: PathBuf,
}

impl Directories {
    fn new(root: &Path) -> anyhow::Result<Self> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        fs::create_dir_all(&target).with_context(|| format!("failed to create {}", target.display()))?;
        let target =
            target.canonicalize().with_context(|| format!("failed to resolve {}", target.display()))?;
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo_home = cargo_home
            .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
            .context("neither CARGO_HOME nor HOME is set")?;
        let cargo_home = std::path::absolute(cargo_home).context("failed to resolve CARGO_HOME")?;
        Ok(Self { root: root.to_owned(), target, cargo_home })
    }
}

pub(crate) fn run(root: &Path, ReleaseArgs { dirty, verify, out }: ReleaseArgs) -> anyhow::Result<()> {
    let directories = Directories::new(root)?;
    if verify {
        return verify::run_twice(&directories);
    }
    let commit = Commit::of(root, dirty)?;
    let platform = Platform::of_this_machine(root)?;
    let out = out.unwrap_or_else(|| directories.target.join("dist"));
    let out = OutputDir::open(&out)?;
    make(&directories, &commit, &platform, &out)
        .and_then(|()| out.publish())
        .with_context(|| format!("FAILED; {} is unchanged", out.path().display()))?;
    let sums = out.path().join("SHA256SUMS");
    let sums = fs::read_to_string(&sums).with_context(|| format!("failed to read {}", sums.display()))?;
    stdout().write_all(sums.as_bytes()).context("failed to print the checksums")?;
    step(&out.path().display().to_string())
}

/// Creates all files of the release in the staging directory.
fn make(
    directories: &Directories,
    commit: &Commit,
    platform: &Platform,
    out: &OutputDir,
) -> anyhow::Result<()> {
    let Directories { root, .. } = directories;
    let (staging, target) = (out.staging(), platform.target.as_str());
    let name = format!("portico-{}-linux-{}", commit.version, platform.architecture);
    let stage = staging.join("stage").join(&name);
    let revision = &commit.revision;
    step(&format!("release {} of commit {revision} for {target}", commit.version))?;
    let builder = Builder::new(directories, target)?;
    for program in &PROGRAMS {
        step(&format!("build {}", program.name))?;
        builder.build(program, &stage.join("bin"))?;
    }
    step("manual pages, completions, notices")?;
    documents::write_all(root, &stage, commit, target)?;

    step("archives, bills of materials, checksums")?;
    for program in &PROGRAMS {
        let sums = output(command("sha256sum", root).arg(stage.join("bin").join(program.name)))?;
        let build = Build {
            program: program.name.to_owned(),
            sha256: sums.split_whitespace().next().context("sha256sum printed nothing")?.to_owned(),
            target: target.to_owned(),
            revision: revision.clone(),
            time: commit.time.clone(),
        };
        let crates = crates_of(root, program.package, target)?;
        let text = format!("{:#}\n", bill(&build, &crates, &libraries()?));
        write(&staging.join(format!("{name}.{}.cdx.json", program.name)), &text)?;
    }
    let chart = staging.join(format!("portico-{}.tgz", commit.package_version()));
    archive::pack(root, commit, &staging.join("stage"), &name, &staging.join(format!("{name}.tar.gz")))?;
    archive::pack(root, commit, &root.join("deploy/helm"), "portico", &chart)?;
    fs::remove_dir_all(staging.join("stage")).context("failed to remove the staged files")?;
    let objects = output(
        command("./scripts/helm", root)
            .args(["template", "portico"])
            .arg(&chart)
            .args(["--kube-version", "1.30.0"]),
    )?;
    if !objects.lines().any(|line| line == "kind: DaemonSet") {
        bail!("Helm finds no DaemonSet in the packed chart");
    }
    archive::write_checksums(staging)
}

/// Prints a heading.
fn step(what: &str) -> anyhow::Result<()> {
    writeln!(stdout(), "==> {what}").context("failed to print progress")
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

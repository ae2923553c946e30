//! `cargo xtask`: the programs of this repository.
//!
//! Each subcommand is a module with a function `run`. They work in the root of the repository that contains the
//! current directory, so that they also serve a clone in another place.

mod command;
mod goldens;
mod release;

use std::env;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", about = "The programs of this repository.")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build a release, or verify that two builds of one commit are equal; see docs/release.md.
    Release(release::ReleaseArgs),
    /// Update the expected outputs in tests and docs/reference to what the code returns now.
    Goldens(goldens::GoldensArgs),
}

fn main() -> ExitCode {
    let Arguments { task } = Arguments::parse();
    let (name, result) = match task {
        Task::Release(args) => ("scripts/release", root().and_then(|root| release::run(&root, args))),
        Task::Goldens(args) => ("cargo xtask goldens", root().and_then(|root| goldens::run(&root, args))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed, the exit code still reports the failure.
            let _ = writeln!(stderr(), "{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the root of the repository that contains the current directory.
fn root() -> anyhow::Result<PathBuf> {
    let here = env::current_dir().context("failed to read the current directory")?;
    let root = here.ancestors().find(|directory| directory.join("scripts/release").is_file());
    root.map(Path::to_owned).with_context(|| format!("{} is not in the repository", here.display()))
}

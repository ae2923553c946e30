//! `cargo xtask goldens`: updates the expected outputs of tests to what the code returns now.
//!
//! A golden that changed is a behaviour that changed: review the difference as code, and add it to CHANGELOG.md. The
//! pages of docs/reference are goldens, too.

use std::path::Path;

use crate::command::{self, command};

#[derive(clap::Args)]
pub(crate) struct GoldensArgs {
    /// Arguments of `cargo test`, such as `-p proxy-core ruleset`; `reference` updates docs/reference [default: all].
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    test: Vec<String>,
}

pub(crate) fn run(root: &Path, GoldensArgs { test }: GoldensArgs) -> anyhow::Result<()> {
    let test = if test.is_empty() { vec!["--workspace".to_owned()] } else { test };
    command::run(command("cargo", root).env("UPDATE_EXPECT", "1").args(["test", "--locked"]).args(test))?;
    if root.join(".git").exists() {
        command::run(command("git", root).args(["--no-pager", "diff", "--stat"]))?;
    }
    Ok(())
}

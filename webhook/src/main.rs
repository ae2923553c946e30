//! `portico-webhook`: service variables put into pods at admission.
//!
//! ```text
//! services ─► ServiceState ─────────────┬────────────────────────────┐
//! API server ─► listener ─► mutate ─► admission ─► answer      │      certificate ─► listener
//! pods, ConfigMaps (metadata) ─► controller ─► ConfigMaps, Events      registration
//! ```
//! What is done to a pod is decided in `proxy_core::admission`; all this is the world around it.

mod admin;
mod admission;
mod api;
mod args;
mod body;
mod certificate;
mod clock;
mod controller;
mod listener;
mod load;
mod log;
mod metrics;
mod mutate;
mod namespaces;
mod patient;
mod registration;
mod remembered;
mod review;
mod services;
mod start;
mod tally;

use std::io::{Write, stderr, stdin, stdout};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::Generator;

use crate::args::{Command, CommandLine};

fn main() -> ExitCode {
    let CommandLine { command, serve } = CommandLine::parse();
    let done = match command {
        Some(command) => answer(command, &mut stdout().lock()),
        None => start::run(serve).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Nothing is to be done where standard error is gone.
            let _ = writeln!(stderr(), "portico-webhook: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Writes the answer and says whether what was asked about is sound.
fn answer(command: Command, out: &mut impl Write) -> anyhow::Result<bool> {
    match command {
        Command::Review(args) => review::run(args, &mut stdin().lock(), out),
        Command::Completions { shell } => {
            let mut command = CommandLine::command().bin_name("portico-webhook");
            command.build();
            shell.try_generate(&command, out).context("write the answer")?;
            Ok(true)
        }
        Command::Man { folder } => {
            clap_mangen::generate_to(CommandLine::command(), &folder)
                .with_context(|| format!("write manual pages to {}", folder.display()))?;
            Ok(true)
        }
    }
}

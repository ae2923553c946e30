//! `portico-webhook`: injects service variables into pods at admission.
//!
//! ```text
//! services ─► ServiceState ───────────────────┬──────────────────────────────┐
//! API server ─► listener ─► request_handler ─► admission_handler ─► response  │     certificate ─► listener
//! pods, ConfigMaps (metadata) ─► controller ─► ConfigMaps, Events ◄───────────┘     registration
//! ```
//! `proxy_core::admission` decides what is injected; this program does the I/O around it.

mod admin;
mod admission_handler;
mod api;
mod args;
mod body;
mod certificate;
mod clock;
mod controller;
mod counters;
mod idle_timeout;
mod listener;
mod load;
mod metrics;
mod namespaces;
mod object_watch;
mod registration;
mod render_cache;
mod request_handler;
mod review;
mod run;
mod services;

use std::io::{Write, stderr, stdin, stdout};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::Generator;

use crate::args::{Command, CommandLine};

fn main() -> ExitCode {
    let CommandLine { command, serve } = CommandLine::parse();
    let result = match command {
        Some(command) => run_command(command, &mut stdout().lock()),
        None => run::run(serve).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // If standard error is closed, the message is lost.
            let _ = writeln!(stderr(), "portico-webhook: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Runs a subcommand. Returns false if its input is invalid.
fn run_command(command: Command, out: &mut impl Write) -> anyhow::Result<bool> {
    match command {
        Command::Review(args) => review::run(args, &mut stdin().lock(), out),
        Command::Completions { shell } => {
            let mut command = CommandLine::command().bin_name("portico-webhook");
            command.build();
            shell.try_generate(&command, out).context("failed to write the output")?;
            Ok(true)
        }
        Command::Man { folder } => {
            clap_mangen::generate_to(CommandLine::command(), &folder)
                .with_context(|| format!("failed to write manual pages to {}", folder.display()))?;
            Ok(true)
        }
    }
}

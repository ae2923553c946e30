//! `portico`: the node agent, its installer, and commands that inspect and explain portals.
//!
//! This file parses the command line, runs one command, and converts its result to an exit code: 0 success, 1 invalid
//! input or a problem, 2 wrong usage. The commands only read, print, or install: decisions about services and portals
//! are made in `proxy-core`.

mod args;
mod check;
mod conntrack;
mod dns;
mod dns_status;
mod dns_top;
mod env;
mod explain;
mod install;
mod live_view;
mod manifests;
mod migrate;
mod node_portals;
mod node_status;
mod pod_manifest;
mod portals;
mod rules;
mod status;
mod table;
mod temporary_netns;
mod top;
mod traffic_rates;
mod uninstall;
mod watch;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use clap_complete::Generator;

use crate::args::{Args, Command};

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    let mut out = BufWriter::new(anstream::stdout().lock());
    let result = run(command, &mut out).and_then(|is_success| {
        out.flush().context("failed to write output")?;
        Ok(is_success)
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // The reader closed the pipe, as `head` does; that is not an error.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            manifests::print_error(&format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

/// Runs a command. Returns false if some of the input was invalid, or if the command reported a problem.
fn run(command: Command, out: &mut impl Write) -> anyhow::Result<bool> {
    match command {
        Command::Env(args) => env::run(&args, out),
        Command::Portals(args) => portals::run(&args, out),
        Command::Rules(args) => rules::run(&args, out),
        Command::Explain(args) => explain::run(&args, out),
        Command::Dns(args) => dns::run(&args, out),
        Command::Agent(args) => node_agent::run(*args).map(|()| true),
        Command::Status(args) => status::run(&args, out),
        Command::Top(args) => top::run(&args, out),
        Command::Check(args) => check::run(&args, out),
        Command::Migrate(args) => migrate::run(&args, out),
        Command::Conntrack(args) => conntrack::run(&args, out).map(|()| true),
        Command::Install(args) => install::run(*args, out).map(|()| true),
        Command::Uninstall(args) => uninstall::run(&args, out),
        Command::Completions { shell } => {
            let mut command = Args::command().bin_name("portico");
            command.build();
            shell.try_generate(&command, out).context("failed to write output")?;
            Ok(true)
        }
        Command::Man { dir } => {
            clap_mangen::generate_to(Args::command(), &dir)
                .with_context(|| format!("failed to write manual pages to {}", dir.display()))?;
            Ok(true)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.into_iter().any(|kind| kind == io::ErrorKind::BrokenPipe)
}

//! `portico`: what services mean for a pod, asked from the shell.
//!
//! This file parses the command line, runs one command and turns its result into an exit code: 0
//! answered, 1 the input is wrong, 2 wrong usage. Every answer comes from a pure function of `proxy-core`;
//! nothing here decides anything about services.

mod agent;
mod allowed;
mod args;
mod check;
mod cni_conf;
mod env;
mod explain;
mod hits;
mod input;
mod install;
mod picture;
mod portals;
mod rules;
mod status;
mod table;
mod top;
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
    let answered = answer(command, &mut out).and_then(|sound| {
        out.flush().context("write the answer")?;
        Ok(sound)
    });
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        // Whoever reads the answer has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            input::complain(&format!("{error:#}"));
            ExitCode::from(1)
        }
    }
}

/// Writes the answer and says whether all of the input was sound.
fn answer(command: Command, out: &mut impl Write) -> anyhow::Result<bool> {
    match command {
        Command::Env(args) => env::answer(&args, out),
        Command::Portals(args) => portals::answer(&args, out),
        Command::Rules(args) => rules::answer(&args, out),
        Command::Explain(args) => explain::answer(&args, out),
        Command::Agent(args) => agent::run(*args).map(|()| true),
        Command::Status(args) => status::answer(&args, out),
        Command::Top(args) => top::answer(&args, out),
        Command::Check(args) => check::answer(&args, out),
        Command::Install(args) => install::install(*args, out).map(|()| true),
        Command::Uninstall(args) => install::uninstall(&args, out),
        Command::Completions { shell } => {
            let mut command = Args::command().bin_name("portico");
            command.build();
            shell.try_generate(&command, out).context("write the answer")?;
            Ok(true)
        }
        Command::Man { folder } => {
            clap_mangen::generate_to(Args::command(), &folder)
                .with_context(|| format!("write manual pages to {}", folder.display()))?;
            Ok(true)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.into_iter().any(|kind| kind == io::ErrorKind::BrokenPipe)
}

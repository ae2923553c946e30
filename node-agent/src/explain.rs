//! `portico explain`: what happens to one connection, and why.

use std::io::Write;
use std::net::SocketAddr;

use anstyle::{AnsiColor, Style};
use clap::CommandFactory;
use clap::error::ErrorKind;
use proxy_core::explain::{Client, Outcome, Question, explain};

use crate::args::{Args, ClientArg, ExplainArgs, ExplainOutput};
use crate::input;

/// Answers `portico explain`.
pub(crate) fn answer(args: &ExplainArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let ExplainArgs { input, standpoint, from, source, output, destination } = args;
    if source.is_some_and(|source| source.is_ipv4() != destination.address.is_ipv4()) {
        let message = "--source and the destination must be of one family, both IPv4 or both IPv6";
        Args::command().error(ErrorKind::ValueValidation, message).exit();
    }
    let (objects, sound) = input::objects(input);
    let standpoint = input::standpoint(standpoint, &objects);
    let client = match from {
        ClientArg::Pod => Client::Pod,
        ClientArg::Node => Client::Node,
    };
    let question = Question { destination: *destination, client, source: *source };
    let explanation = explain(&objects.into_snapshot(), &standpoint, &question);
    match output {
        ExplainOutput::Json => {
            serde_json::to_writer_pretty(&mut *out, &explanation)?;
            writeln!(out)?;
        }
        ExplainOutput::Text => {
            let socket = SocketAddr::new(destination.address, destination.port);
            let style = style(explanation.verdict);
            let verdict = explanation.verdict.name();
            writeln!(out, "{}://{socket}: {style}{verdict}{style:#}", destination.protocol.lower())?;
            for step in &explanation.steps {
                writeln!(out, "  {step}")?;
            }
        }
    }
    Ok(sound)
}

const fn style(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Forward => AnsiColor::Green.on_default().bold(),
        Outcome::Reject => AnsiColor::Red.on_default().bold(),
        Outcome::Drop => AnsiColor::Yellow.on_default().bold(),
        Outcome::Pass => Style::new().bold(),
    }
}

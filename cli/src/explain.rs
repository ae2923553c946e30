//! `portico explain`: how a connection would be handled, step by step.

use std::io::Write;
use std::net::SocketAddr;

use anstyle::{AnsiColor, Style};
use clap::CommandFactory;
use clap::error::ErrorKind;
use proxy_core::explain::{Client, Outcome, Query, explain};

use crate::args::{Args, ClientArg, ExplainArgs, ExplainOutput};
use crate::manifests;

/// Runs `portico explain`. Returns whether all of the input was valid.
pub(crate) fn run(args: &ExplainArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let ExplainArgs { input, context, from, source, output, destination } = args;
    if source.is_some_and(|source| source.is_ipv4() != destination.address.is_ipv4()) {
        let message = "--source and the destination must have the same IP family";
        Args::command().error(ErrorKind::ValueValidation, message).exit();
    }
    let (objects, is_valid) = manifests::read_objects(input);
    let context = manifests::node_context(context, &objects);
    let client = match from {
        ClientArg::Pod => Client::Pod,
        ClientArg::Node => Client::Node,
    };
    let question = Query { destination: *destination, client, source: *source };
    let explanation = explain(&objects.into_snapshot(), &context, &question);
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
    Ok(is_valid)
}

const fn style(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Forward => AnsiColor::Green.on_default().bold(),
        Outcome::Reject => AnsiColor::Red.on_default().bold(),
        Outcome::Drop => AnsiColor::Yellow.on_default().bold(),
        Outcome::Pass => Style::new().bold(),
    }
}

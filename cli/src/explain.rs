//! `portico explain`: how a connection would be handled, step by step.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use clap::CommandFactory;
use clap::error::ErrorKind;
use kube_source::Objects;
use proxy_core::explain::{NodeQuery, Outcome, Query, explain, explain_node, explain_unserved};
use proxy_core::portal::ServiceFilter;
use proxy_core::portals_request::PortalsRequest;

use crate::args::{Args, ClientArg, ExplainArgs, ExplainOutput};
use crate::pod_manifest::PodManifest;
use crate::{manifests, node_portals};

/// The namespace of a pod whose manifest has none.
const DEFAULT_NAMESPACE: &str = "default";

/// Runs `portico explain`. Returns whether all of the input was valid.
pub(crate) fn run(args: &ExplainArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let ExplainArgs { input, context, from, pod, source, node, output, destination } = args;
    if source.is_some_and(|source| source.is_ipv4() != destination.address.is_ipv4()) {
        let message = "--source and the destination must have the same IP family";
        Args::command().error(ErrorKind::ValueValidation, message).exit();
    }
    let (objects, is_valid) = manifests::read_objects(input);
    let mut context = manifests::node_context(context, &objects);
    let (from, request) = client(*from, pod.as_deref(), &objects)?;
    let (destination, source) = (*destination, *source);
    let snapshot = objects.into_snapshot();
    let explanation = match from {
        ClientArg::Pod => {
            node_portals::refuse_unused(node.as_ref(), "--from node or --from outside");
            match ServiceFilter::of(request) {
                Some(filter) => {
                    context.filter = filter;
                    explain(&snapshot, &context, &Query { destination, source })
                }
                None => explain_unserved(),
            }
        }
        ClientArg::Node | ClientArg::Outside => {
            let query = NodeQuery { destination, is_from_node: from == ClientArg::Node, source };
            let (settings, environment) = node_portals::table_inputs(node.as_ref(), &context);
            explain_node(&snapshot, &context, settings, environment, &query)
        }
    };
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

/// Returns the client, and the portals that it requests.
fn client(
    from: ClientArg,
    pod: Option<&Path>,
    objects: &Objects,
) -> anyhow::Result<(ClientArg, PortalsRequest)> {
    let Some(file) = pod else { return Ok((from, PortalsRequest::default())) };
    let pod = PodManifest::read(file, DEFAULT_NAMESPACE)?;
    let from = if pod.is_on_host_network() { ClientArg::Node } else { ClientArg::Pod };
    Ok((from, pod.portals(objects)?))
}

const fn style(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Forward => AnsiColor::Green.on_default().bold(),
        Outcome::Reject => AnsiColor::Red.on_default().bold(),
        Outcome::Drop => AnsiColor::Yellow.on_default().bold(),
        Outcome::Pass => Style::new().bold(),
    }
}

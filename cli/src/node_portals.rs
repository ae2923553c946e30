//! The arguments that describe the table of the node's network namespace.

use std::sync::Arc;

use clap::CommandFactory;
use clap::error::ErrorKind;
use ipnet::IpNet;
use proxy_core::address::Family;
use proxy_core::portal::NodeContext;
use proxy_core::ruleset::node::{NodeEnvironment, NodeSettings, PodDetection};

use crate::args::{Args, NodePortalArgs};

/// Exits with a usage error if the arguments were given for a network namespace that does not use them.
pub(crate) fn refuse_unused(args: Option<&NodePortalArgs>, requirement: &str) {
    if args.is_some() {
        let message = format!("arguments of the node's table require {requirement}");
        Args::command().error(ErrorKind::MissingRequiredArgument, message).exit();
    }
}

/// Returns what the table depends on in addition to the portals.
pub(crate) fn table_inputs(
    args: Option<&NodePortalArgs>,
    context: &NodeContext,
) -> (NodeSettings, NodeEnvironment) {
    let defaults = NodePortalArgs::default();
    let args = args.unwrap_or(&defaults);
    let NodePortalArgs { nodeport_addresses, cluster_cidrs, .. } = args;
    let primary = Family::BOTH.into_iter().filter_map(|family| context.node.primary(family));
    let environment = NodeEnvironment {
        addresses: Arc::new(match nodeport_addresses.is_empty() {
            true => primary.collect(),
            false => nodeport_addresses.iter().copied().collect(),
        }),
        // Intervals in the kernel must not overlap.
        pod_ranges: Arc::new(IpNet::aggregate(cluster_cidrs).into_iter().collect()),
        ..NodeEnvironment::default()
    };
    let settings = NodeSettings {
        detects_pods: PodDetection::of(&environment),
        masquerade_all: args.masquerade_all,
        keep_client_address: args.keep_client_address,
        loopback_port: args.loopback_port,
        ..NodeSettings::default()
    };
    (settings, environment)
}

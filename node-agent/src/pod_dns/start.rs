//! The start of the DNS server.

use std::sync::Arc;

use agent_ipc::OutgoingAgent;
use anyhow::{Context, bail};
use dns_server::DnsServer;

use crate::handover;
use crate::pod_dns::{DnsArgs, has_cilium};

/// Starts the server if it is enabled, with the sockets of the previous agent.
pub(crate) fn start_server(
    args: &DnsArgs,
    nat_priority: i32,
    predecessor: Option<&OutgoingAgent>,
) -> anyhow::Result<Option<Arc<DnsServer>>> {
    if !args.dns {
        return Ok(None);
    }
    if !args.dns_with_cilium && has_cilium().context("failed to look for Cilium on the node")? {
        bail!(
            "--dns: Cilium runs on this node, and its DNS proxy would no longer see queries; if no policy has toFQDNs, \
             pass --dns-with-cilium"
        );
    }
    let server = DnsServer::start(&dns_server::Options {
        workers: args.threads(),
        nat_priority,
        resolver: args.resolver_options(),
        has_predecessor: predecessor.is_some(),
    });
    let server = server.context("failed to start DNS server")?;
    if let Some(predecessor) = predecessor {
        handover::inherit_dns(predecessor, &server);
    }
    Ok(Some(Arc::new(server)))
}

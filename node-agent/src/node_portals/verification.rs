//! Connections from the node to some of its services, with proof of what translated them.
//!
//! A connection is opened and closed without data. The conntrack entry has the backend. The node's table translates new
//! connections if its NAT chains are the first of their hooks: a translated connection passes no other NAT chain.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netns_nft::{ChainSummary, Socket};
use proxy_core::portal::{Portal, PortalKey, PortalKind, Portals, Verdict};
use proxy_core::service::Protocol;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{self as socket, AddressFamily, SocketFlags, SocketType, sockopt};
use support::with_causes;

use crate::node_portals::migration_report::{ConnectionReport, VerificationReport};

/// The maximum number of services to which connections are opened, in addition to `default/kubernetes`.
const SERVICES_MAX: usize = 8;
/// The maximum number of node ports among them.
const NODE_PORTS_MAX: usize = 4;
const CONNECT_TIMEOUT_S: i64 = 2;
const KUBERNETES: (&str, &str) = ("default", "kubernetes");

/// The portals of a node, and what they depend on.
#[derive(Debug, Clone, Default)]
pub(crate) struct VerifiedPortals {
    pub(crate) portals: Portals,
    /// The addresses on which node ports are served.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) nat_priority: i32,
    /// Whether the node has its table.
    pub(crate) is_serving: bool,
}

/// Opens the connections, one after another.
pub(crate) fn verify(request: &str, verified: &VerifiedPortals) -> VerificationReport {
    let connections = selected(&verified.portals)
        .into_iter()
        .filter_map(|portal| Some(connect_to(portal, destination(portal.key, &verified.addresses)?)))
        .collect();
    let chains = Socket::open().and_then(|socket| socket.chains());
    let problem = match chains {
        Ok(chains) => first_nat_chain_problem(&chains, verified),
        Err(error) => Some(with_causes(&error)),
    };
    VerificationReport {
        request: request.to_owned(),
        serving: verified.is_serving,
        problem: problem.filter(|_| verified.is_serving),
        connections,
    }
}

/// The portals to which connections are opened: that of the API server first, and then one of each service.
fn selected(portals: &Portals) -> Vec<&Portal> {
    let is_usable = |portal: &&Portal| {
        portal.key.protocol == Protocol::Tcp && portal.verdict == Verdict::Forward && !portal.is_relayed()
    };
    let is_kubernetes = |portal: &&Portal| (&*portal.service.namespace, &*portal.service.name) == KUBERNETES;
    let mut selected: Vec<&Portal> = portals.by_service().filter(is_usable).filter(is_kubernetes).collect();
    selected.truncate(1);
    let (mut services, mut node_ports) = (Vec::new(), 0);
    for portal in portals.by_service().filter(is_usable).filter(|portal| !is_kubernetes(portal)) {
        let is_node_port = portal.key.is_node_port();
        let is_other = portal.kind != PortalKind::ClusterIp && !is_node_port;
        if is_other || services.contains(&(&portal.service, is_node_port)) {
            continue;
        }
        let is_full = if is_node_port {
            node_ports >= NODE_PORTS_MAX
        } else {
            services.len() - node_ports >= SERVICES_MAX
        };
        if !is_full {
            node_ports += usize::from(is_node_port);
            services.push((&portal.service, is_node_port));
            selected.push(portal);
        }
    }
    selected
}

/// The address and port to which a client of the portal connects.
fn destination(key: PortalKey, addresses: &[IpAddr]) -> Option<SocketAddr> {
    let is_of_family = |address: &&IpAddr| address.is_ipv4() == key.address.is_ipv4();
    let address = match key.is_node_port() {
        true => *addresses.iter().find(is_of_family)?,
        false => key.address,
    };
    Some(SocketAddr::new(address, key.port))
}

fn connect_to(portal: &Portal, to: SocketAddr) -> ConnectionReport {
    let report = ConnectionReport {
        service: portal.service.to_string(),
        portal: to.to_string(),
        ..ConnectionReport::default()
    };
    let attempt = || -> io::Result<(Option<SocketAddr>, io::Result<()>)> {
        let fd = start_connection(to)?;
        let result = wait_until_connected(&fd);
        let client = SocketAddr::try_from(socket::getsockname(&fd)?)?;
        let socket = Socket::open().map_err(io::Error::other)?;
        Ok((socket.translated_destination(client, to).map_err(io::Error::other)?, result))
    };
    match attempt() {
        Ok((translated, result)) => ConnectionReport {
            backend: translated.filter(|backend| *backend != to).map(|backend| backend.to_string()),
            error: result.err().map(|error| error.to_string()),
            ..report
        },
        Err(error) => ConnectionReport { error: Some(error.to_string()), ..report },
    }
}

fn start_connection(to: SocketAddr) -> io::Result<rustix::fd::OwnedFd> {
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket::socket_with(family, SocketType::STREAM, flags, None)?;
    match socket::connect(&fd, &to) {
        Ok(()) => Ok(fd),
        Err(rustix::io::Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

fn wait_until_connected(fd: &rustix::fd::OwnedFd) -> io::Result<()> {
    let timeout = Timespec { tv_sec: CONNECT_TIMEOUT_S, tv_nsec: 0 };
    if poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&timeout))? == 0 {
        let timeout = Duration::from_secs(CONNECT_TIMEOUT_S.unsigned_abs());
        return Err(io::Error::new(ErrorKind::TimedOut, format!("timed out after {timeout:?}")));
    }
    sockopt::socket_error(fd)?.map_err(io::Error::from)
}

/// Why the node's table does not see new connections first.
fn first_nat_chain_problem(chains: &[ChainSummary], verified: &VerifiedPortals) -> Option<String> {
    if !chains.iter().any(|chain| chain.is_own() && chain.destination_nat == Some(verified.nat_priority)) {
        return Some("the node's table has no NAT chains".to_owned());
    }
    let is_before = |chain: &&ChainSummary| {
        !chain.is_own() && chain.destination_nat.is_some_and(|priority| priority <= verified.nat_priority)
    };
    let chain = chains.iter().find(is_before)?;
    Some(format!(
        "chain {} of table {} {} translates connections before the node's table (priority {} and {})",
        chain.name,
        chain.family,
        chain.table,
        chain.destination_nat.unwrap_or_default(),
        verified.nat_priority
    ))
}

#[cfg(test)]
mod tests {
    use proxy_core::portal::{NodeContext, Place, portals};
    use proxy_core::sample::{node_context, slice, snapshot, svc};
    use proxy_core::snapshot::Change;

    use super::*;

    fn nat_chain(table: &str, priority: i32) -> ChainSummary {
        ChainSummary {
            family: "inet",
            table: table.to_owned(),
            name: "output".to_owned(),
            drops_forwarded: false,
            destination_nat: Some(priority),
            is_nat: true,
        }
    }

    #[test]
    fn nat_chain_before_the_nodes_table_is_named() {
        let verified = VerifiedPortals { nat_priority: -101, ..VerifiedPortals::default() };
        let problem = |chains: &[ChainSummary]| first_nat_chain_problem(chains, &verified);
        let own = nat_chain("portico-node", -101);
        assert_eq!(problem(&[own.clone(), nat_chain("kube-proxy", -100)]), None);
        assert!(problem(&[own, nat_chain("mesh", -150)]).is_some_and(|why| why.contains("inet mesh")));
        assert!(problem(&[nat_chain("kube-proxy", -100)]).is_some());
    }

    #[test]
    fn selected_portals_are_bounded_and_begin_with_the_api_server() {
        let mut changes: Vec<Change> = Vec::new();
        for number in 0..40_u16 {
            let name = format!("a{number:02}");
            let service = svc(&name).ip(&format!("10.96.1.{number}")).tcp("", 80).node_port(30_000 + number);
            changes.push(service.into());
            changes.push(slice(&name).tcp("", 8080).at("10.1.0.2").into());
        }
        changes.push(svc("kubernetes").ip("10.96.0.1").tcp("", 443).into());
        changes.push(slice("kubernetes").tcp("", 6443).at("192.0.2.1").into());
        let context = NodeContext { place: Place::Node, ..node_context() };
        let portals = portals(&snapshot(changes), &context);
        let selected = selected(&portals);
        assert_eq!(selected[0].service.to_string(), "default/kubernetes");
        let node_ports = selected.iter().filter(|portal| portal.key.is_node_port()).count();
        assert_eq!((selected.len(), node_ports), (1 + SERVICES_MAX + NODE_PORTS_MAX, NODE_PORTS_MAX));
    }
}

//! Rulesets as text for `iptables-restore` and `ip6tables-restore`.
//!
//! Each portal has a rule, and each of its backends one with the `statistic` match, as in kube-proxy's iptables mode. A
//! relayed portal is the `REDIRECT` of the first service proxy of Kubernetes, with the service's name as its comment.
//! The form is for comparison and for nodes without nftables. The agent does not use it, because its cost grows with
//! the number of services.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use crate::model::address::Family;
use crate::model::digest::digest;
use crate::model::service::{Mode, Protocol};
use crate::routing::portal::{Portal, PortalKey, PortalKind, Portals, Verdict};

/// The first port of relayed portals.
pub const RELAY_PORT_MIN: u16 = 32_768;

/// Excludes packets to the pod's own addresses.
const NOT_LOCAL: &str = "-m addrtype ! --dst-type LOCAL";

/// The rules of one family as text.
#[derive(Debug, Clone, Copy)]
pub struct Iptables<'a> {
    /// The portals.
    pub portals: &'a Portals,
    /// The family: IPv4 for `iptables-restore`, IPv6 for `ip6tables-restore`.
    pub family: Family,
}

impl Display for Iptables<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let own: Vec<&Portal> =
            self.portals.iter().filter(|portal| Family::of(portal.key.address) == self.family).collect();
        let other = self.portals.iter().count() - own.len();
        if other > 0 {
            let family = if self.family == Family::V4 { Family::V6 } else { Family::V4 };
            writeln!(f, "# {other} {family} portals are omitted: they need a separate file")?;
        }
        writeln!(f, "*nat\n:PORTICO-PORTALS - [0:0]")?;
        let forwarded = own.iter().filter(|portal| portal.verdict == Verdict::Forward);
        for portal in forwarded.clone().filter(|portal| portal.mode == Mode::Kernel) {
            let chain = chain(&portal.key);
            writeln!(f, ":{chain} - [0:0]")?;
            if portal.affinity_s.is_some() {
                (0..portal.backends.len()).try_for_each(|slot| writeln!(f, ":{chain}-{slot} - [0:0]"))?;
            }
        }
        writeln!(f, "-A OUTPUT {NOT_LOCAL} -m comment --comment \"portico portals\" -j PORTICO-PORTALS")?;
        let relay_ports = relay_ports(&own);
        for portal in forwarded.clone() {
            self.write_jumps(f, portal, relay_ports.get(&portal.key).copied())?;
        }
        for portal in forwarded.filter(|portal| portal.mode == Mode::Kernel) {
            write_backends(f, portal)?;
        }
        writeln!(f, "COMMIT\n*filter\n:PORTICO-REFUSE - [0:0]")?;
        writeln!(f, "-A OUTPUT {NOT_LOCAL} -m comment --comment \"portico portals\" -j PORTICO-REFUSE")?;
        own.iter().try_for_each(|portal| self.write_refusals(f, portal))?;
        self.write_addresses(f, &own)?;
        writeln!(f, "COMMIT")
    }
}

/// Assigns a port to each relayed portal, by which the proxy identifies it.
fn relay_ports(portals: &[&Portal]) -> BTreeMap<PortalKey, u16> {
    let relayed = portals.iter().filter(|portal| portal.is_relayed());
    relayed.map(|portal| portal.key).zip(RELAY_PORT_MIN..=u16::MAX).collect()
}

impl Iptables<'_> {
    fn write_jumps(&self, f: &mut Formatter<'_>, portal: &Portal, relay_port: Option<u16>) -> fmt::Result {
        let target = match relay_port {
            Some(port) => format!("REDIRECT --to-ports {port}"),
            None if portal.is_relayed() => {
                return writeln!(f, "# {} is omitted: no port is free", comment(portal));
            }
            None => chain(&portal.key),
        };
        let comment = match relay_port {
            Some(_) => portal.service.name.to_string(),
            None => comment(portal),
        };
        let rule = Match { portal, family: self.family, comment: &comment };
        match &portal.sources {
            None => writeln!(f, "-A PORTICO-PORTALS {rule} -j {target}"),
            Some(sources) => sources
                .iter()
                .try_for_each(|source| writeln!(f, "-A PORTICO-PORTALS -s {source} {rule} -j {target}")),
        }
    }

    /// Writes the rules for packets that were not translated: the portal has no backend, or the source is not in its
    /// ranges.
    fn write_refusals(&self, f: &mut Formatter<'_>, portal: &Portal) -> fmt::Result {
        let comment = comment(portal);
        let rule = Match { portal, family: self.family, comment: &comment };
        match (portal.verdict, &portal.sources) {
            (Verdict::Forward, None) => Ok(()),
            (Verdict::Forward, Some(_)) | (Verdict::Drop, _) => {
                writeln!(f, "-A PORTICO-REFUSE {rule} -j DROP")
            }
            (Verdict::Reject, sources) => {
                let refuse = self.refuse(portal.key.protocol);
                match sources {
                    None => writeln!(f, "-A PORTICO-REFUSE {rule} -j {refuse}"),
                    Some(sources) => {
                        for source in sources.iter() {
                            writeln!(f, "-A PORTICO-REFUSE -s {source} {rule} -j {refuse}")?;
                        }
                        writeln!(f, "-A PORTICO-REFUSE {rule} -j DROP")
                    }
                }
            }
        }
    }

    const fn refuse(&self, protocol: Protocol) -> &'static str {
        match (protocol, self.family) {
            (Protocol::Tcp, _) => "REJECT --reject-with tcp-reset",
            (_, Family::V4) => "REJECT --reject-with icmp-port-unreachable",
            (_, Family::V6) => "REJECT --reject-with icmp6-port-unreachable",
        }
    }

    /// Writes the rules that reject other ports of cluster addresses, and protocols without ports.
    fn write_addresses(&self, f: &mut Formatter<'_>, portals: &[&Portal]) -> fmt::Result {
        let marked = portals.iter().filter(|portal| portal.kind == PortalKind::ClusterIp);
        let mut addresses: Vec<_> = marked.map(|portal| (portal.key.address, &portal.service)).collect();
        addresses.dedup_by_key(|(address, _)| *address);
        for (address, service) in addresses {
            let rule = format!("-A PORTICO-REFUSE -d {address}/{}", prefix(self.family));
            let comment = format!("-m comment --comment \"{service}: no such port\"");
            writeln!(f, "{rule} -p tcp {comment} -j {}", self.refuse(Protocol::Tcp))?;
            writeln!(f, "{rule} {comment} -j {}", self.refuse(Protocol::Udp))?;
        }
        for range in self.portals.service_ranges().iter().filter(|net| Family::of_net(net) == self.family) {
            writeln!(f, "-A PORTICO-REFUSE -d {range} -m comment --comment \"no service\" -j DROP")?;
        }
        Ok(())
    }
}

/// Writes the chain of a portal: one rule per backend, for round robin or with equal probability.
fn write_backends(f: &mut Formatter<'_>, portal: &Portal) -> fmt::Result {
    let chain = chain(&portal.key);
    let protocol = portal.key.protocol.lower();
    let slots = || (0_usize..).zip(portal.backends.iter());
    if let Some(affinity_s) = portal.affinity_s {
        for (slot, backend) in slots() {
            let backend_chain = format!("{chain}-{slot}");
            writeln!(
                f,
                "-A {backend_chain} -p {protocol} -m recent --name {backend_chain} --set -j {}",
                Dnat(backend)
            )?;
            writeln!(
                f,
                "-A {chain} -m recent --name {backend_chain} --rcheck --seconds {affinity_s} --reap -j {backend_chain}"
            )?;
        }
    }
    for (slot, backend) in slots() {
        write!(f, "-A {chain} -p {protocol}")?;
        let left = portal.backends.len() - slot;
        if left > 1 {
            if portal.is_round_robin() {
                write!(f, " -m statistic --mode nth --every {left} --packet 0")?;
            } else {
                #[allow(clippy::cast_precision_loss)] // a count has 14 bits
                let probability = 1.0 / left as f64;
                write!(f, " -m statistic --mode random --probability {probability:.11}")?;
            }
        }
        match portal.affinity_s {
            Some(_) => writeln!(f, " -j {chain}-{slot}")?,
            None => writeln!(f, " -j {}", Dnat(backend))?,
        }
    }
    Ok(())
}

struct Dnat<'a>(&'a SocketAddr);

impl Display for Dnat<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "DNAT --to-destination {}", self.0)
    }
}

/// The match of a portal's rule: address, protocol and port, with a comment.
struct Match<'a> {
    portal: &'a Portal,
    family: Family,
    comment: &'a str,
}

impl Display for Match<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let PortalKey { address, protocol, port } = self.portal.key;
        let (prefix, protocol) = (prefix(self.family), protocol.lower());
        write!(f, "-d {address}/{prefix} -p {protocol} -m comment --comment \"{}\"", self.comment)?;
        write!(f, " -m {protocol} --dport {port}")
    }
}

fn comment(portal: &Portal) -> String {
    format!("{}:{} {}", portal.service, portal.port_name, portal.kind.name())
}

const fn prefix(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// Returns the name of a portal's chain. It has at most 28 characters, so it contains a digest of the portal, and
/// leaves space for a slot.
fn chain(key: &PortalKey) -> String {
    format!("PORTICO-{:012X}", digest(key) >> 16)
}

#[cfg(test)]
mod tests;

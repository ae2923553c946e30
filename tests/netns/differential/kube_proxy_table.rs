//! `KubeProxyTable`: an interpreter of kube-proxy's tables.
//!
//! It sends the first packet of a connection through the hooks in the order of the kernel. Tests compare its results with
//! those of real packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proxy_core::address::Family;
use proxy_core::service::Protocol;
use test_support::differential::node_profile::NodeProfile;
use test_support::differential::outcome::{PacketOutcome, Seen};
use test_support::differential::probe::Probe;
use test_support::namespace::run;

use super::nft_listing::{Atom, Comparand, NftListing, Operand, Rule, Statement, Verdict};

const DNAT_PRIORITY: i64 = -100;
const FIREWALL_PRIORITY: i64 = -110;
const FILTER_PRIORITY: i64 = 0;
const SNAT_PRIORITY: i64 = 100;

/// The tables of both families.
pub(crate) struct KubeProxyTable {
    families: [NftListing; 2],
    /// The addresses of the node's network namespace.
    local: BTreeSet<IpAddr>,
}

/// The end of a chain or of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// The last rule was evaluated.
    Ended,
    Accepted,
    Dropped,
    Rejected,
}

/// A packet on its way.
struct Packet<'a> {
    probe: &'a Probe,
    listing: &'a NftListing,
    local: &'a BTreeSet<IpAddr>,
    /// The random number.
    draw: usize,
    destination: SocketAddr,
    is_translated: bool,
    is_marked: bool,
    is_masqueraded: bool,
    affinity_s: Option<u32>,
}

impl KubeProxyTable {
    /// Reads the tables in this network namespace.
    pub(crate) fn read() -> Self {
        let families = ["ip", "ip6"]
            .map(|family| NftListing::parse(&run("nft", &["-j", "list", "table", family, "kube-proxy"], "")));
        Self { families, local: NodeProfile::local_addresses() }
    }

    /// Returns what happens to a packet.
    pub(crate) fn outcome(&self, probe: &Probe) -> PacketOutcome {
        let listing = &self.families[Family::of(probe.destination.address) as usize];
        let mut backends = BTreeMap::new();
        for draw in 0.. {
            let destination = SocketAddr::new(probe.destination.address, probe.destination.port);
            let mut packet = Packet {
                probe,
                listing,
                local: &self.local,
                draw,
                destination,
                is_translated: false,
                is_marked: false,
                is_masqueraded: false,
                affinity_s: None,
            };
            match packet.traverse() {
                Flow::Dropped => return PacketOutcome::Drop,
                Flow::Rejected => return PacketOutcome::Reject,
                Flow::Ended | Flow::Accepted if !packet.is_translated => return PacketOutcome::Pass,
                Flow::Ended | Flow::Accepted => {}
            }
            let is_masqueraded = packet.is_masqueraded && !packet.is_to_node();
            let seen = if is_masqueraded { Seen::Node } else { Seen::Client };
            // The random numbers select the backends in a cycle.
            if backends.insert(packet.destination, seen).is_some() {
                return PacketOutcome::Forward { backends, affinity_s: packet.affinity_s };
            }
        }
        unreachable!("the number of backends is limited")
    }
}

impl Packet<'_> {
    fn is_local(&self, address: IpAddr) -> bool {
        self.probe.is_local(address, self.local)
    }

    fn is_to_node(&self) -> bool {
        self.is_local(self.destination.ip())
    }

    /// Sends the packet through the hooks.
    fn traverse(&mut self) -> Flow {
        let is_own = self.probe.client.interface.is_none();
        let mut hooks: Vec<(&str, &str, i64)> = if is_own {
            vec![
                ("filter", "output", FIREWALL_PRIORITY),
                ("nat", "output", DNAT_PRIORITY),
                ("filter", "output", FILTER_PRIORITY),
            ]
        } else {
            vec![("filter", "prerouting", FIREWALL_PRIORITY), ("nat", "prerouting", DNAT_PRIORITY)]
        };
        hooks.reverse();
        let mut is_routed = false;
        while let Some((kind, hook, priority)) = hooks.pop() {
            let base = (kind.to_owned(), hook.to_owned(), priority);
            let name = &self.listing.bases[&base];
            match self.chain(name) {
                end @ (Flow::Dropped | Flow::Rejected) => return end,
                Flow::Ended | Flow::Accepted => {}
            }
            if hooks.is_empty() && !is_routed {
                is_routed = true;
                hooks = self.hooks_after_routing(is_own);
                hooks.reverse();
            }
        }
        Flow::Accepted
    }

    /// A packet of the node to itself leaves and arrives by the loopback interface.
    fn hooks_after_routing(&self, is_own: bool) -> Vec<(&'static str, &'static str, i64)> {
        let (postrouting, input) =
            (("nat", "postrouting", SNAT_PRIORITY), ("filter", "input", FILTER_PRIORITY));
        match (is_own, self.is_to_node()) {
            (true, true) => vec![postrouting, ("filter", "prerouting", FIREWALL_PRIORITY), input],
            (true, false) => vec![postrouting],
            (false, true) => vec![input],
            (false, false) => vec![("filter", "forward", FILTER_PRIORITY), postrouting],
        }
    }

    fn chain(&mut self, name: &str) -> Flow {
        let listing = self.listing;
        let rules = listing.chains.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        for rule in rules {
            if let Some(flow) = self.rule(rule) {
                return flow;
            }
        }
        Flow::Ended
    }

    /// Returns the end of the chain, or `None` if the next rule follows.
    fn rule(&mut self, rule: &Rule) -> Option<Flow> {
        for statement in rule {
            match statement {
                Statement::Match { left, right, is_negated } => {
                    if self.matches(left, right) == *is_negated {
                        return None;
                    }
                }
                Statement::IsLocal(operand) => {
                    let is_source = *operand == Operand::Source;
                    let address = if is_source { self.probe.client.source } else { self.destination.ip() };
                    if !self.is_local(address) {
                        return None;
                    }
                }
                Statement::IsNew => {}
                Statement::IsDnat if !self.is_translated => return None,
                Statement::HasMark if !self.is_marked => return None,
                Statement::IsDnat | Statement::HasMark => {}
                Statement::SetMark => self.is_marked = true,
                Statement::ClearMark => self.is_marked = !self.is_marked,
                Statement::Update(set) => self.affinity_s = Some(self.listing.timeouts[set]),
                Statement::Masquerade => {
                    self.is_masqueraded = true;
                    return Some(Flow::Accepted);
                }
                Statement::Dnat(backends) => {
                    self.destination = backends[self.draw % backends.len()];
                    self.is_translated = true;
                    return Some(Flow::Accepted);
                }
                Statement::Lookup { key, map } => {
                    let verdict = self.listing.maps[map].get(&self.key(key))?;
                    return self.verdict(verdict);
                }
                Statement::RandomVerdict(verdicts) => {
                    return self.verdict(&verdicts[self.draw % verdicts.len()]);
                }
                Statement::Verdict(verdict) => return self.verdict(verdict),
            }
        }
        None
    }

    fn verdict(&mut self, verdict: &Verdict) -> Option<Flow> {
        match verdict {
            Verdict::Goto(chain) => Some(self.chain(chain)),
            Verdict::Jump(chain) => Some(self.chain(chain)).filter(|flow| *flow != Flow::Ended),
            Verdict::Drop => Some(Flow::Dropped),
            Verdict::Reject => Some(Flow::Rejected),
        }
    }

    fn protocol(&self) -> Protocol {
        self.probe.destination.protocol
    }

    fn key(&self, operands: &[Operand]) -> Vec<Atom> {
        let atom = |operand: &Operand| match operand {
            Operand::Source => Atom::Address(self.probe.client.source),
            Operand::Destination => Atom::Address(self.destination.ip()),
            Operand::Protocol => Atom::Protocol(self.protocol()),
            Operand::Port => Atom::Port(self.destination.port()),
            Operand::Interface => panic!("an interface in a key"),
        };
        operands.iter().map(atom).collect()
    }

    fn matches(&self, left: &[Operand], right: &Comparand) -> bool {
        match right {
            Comparand::Set(name) => self.listing.sets[name].contains(&self.key(left)),
            Comparand::Protocol(protocol) => *protocol == self.protocol(),
            Comparand::Interface(pattern) => match (self.probe.client.interface, pattern.strip_suffix('*')) {
                (None, _) => false,
                (Some(interface), Some(start)) => interface.starts_with(start),
                (Some(interface), None) => interface == pattern,
            },
            Comparand::Nets(nets) => {
                let address = match left {
                    [Operand::Source] => self.probe.client.source,
                    [Operand::Destination] => self.destination.ip(),
                    other => panic!("a CIDR is compared with {other:?}"),
                };
                nets.iter().any(|net| net.contains(&address))
            }
        }
    }
}

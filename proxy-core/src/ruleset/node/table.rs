//! `NodeTable`: the content of the node's table as it is in the kernel, and its way back to a `NodeRuleset`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::chain::{BackendSelection, NodeChain, OwnChain};
use super::element::NodeElement;
use super::settings::{NodeEnvironment, NodeSettings};
use super::target::{FrontendAction, FrontendValue, Target, TargetNumber};
use super::{Frontend, NodeRuleset, change_count};
use crate::model::address::Family;
use crate::routing::portal::PortalKey;

/// The content of the node's table in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeTable {
    /// The settings; `None` if there is no table.
    pub settings: Option<NodeSettings>,
    /// The chains of targets.
    pub chains: BTreeSet<NodeChain>,
    /// The targets with a map of clients.
    pub clients: BTreeSet<(Family, TargetNumber)>,
    /// The elements of all maps and sets.
    pub elements: BTreeSet<NodeElement>,
}

/// The parts of a frontend in a table.
#[derive(Debug, Default)]
struct FrontendParts {
    value: Option<FrontendValue>,
    short: Option<FrontendAction>,
    sources: Vec<IpNet>,
}

/// The parts of a target in a table.
#[derive(Debug, Default)]
struct TargetParts {
    backends: BTreeMap<u32, SocketAddr>,
    ids: BTreeMap<u16, u32>,
    chain: Option<OwnChain>,
}

/// The parts of a table.
#[derive(Debug, Default)]
struct Parts {
    frontends: BTreeMap<PortalKey, FrontendParts>,
    targets: BTreeMap<TargetNumber, TargetParts>,
    cluster_ips: BTreeSet<IpAddr>,
}

impl TargetParts {
    fn target(&self, users: usize) -> Option<Target> {
        let in_slot = |slot: u32| match self.chain.map(|chain| chain.selection) {
            Some(BackendSelection::Affinity(_)) => {
                let id = self.ids.get(&u16::try_from(slot).ok()?)?;
                self.backends.get(id)
            }
            _ => self.backends.get(&slot),
        };
        let backends: Vec<SocketAddr> = (0..).map_while(in_slot).copied().collect();
        let family = Family::of(backends.first()?.ip());
        let selection = self.chain.map_or(BackendSelection::Random, |chain| chain.selection);
        let ids: Vec<u32> = self.ids.values().copied().collect();
        Some(Target { key: None, family, selection, backends: backends.into(), ids: ids.into(), users })
    }
}

impl NodeTable {
    /// Returns the ruleset of this table, with the numbers and slots that it has; `None` if no ruleset has this table,
    /// for example because another process changed it.
    #[must_use]
    pub fn to_ruleset(&self) -> Option<NodeRuleset> {
        let mut ruleset = NodeRuleset { settings: Some(self.settings?), ..NodeRuleset::default() };
        let Parts { frontends, targets, cluster_ips } = self.parts(&mut ruleset);
        let mut users: BTreeMap<TargetNumber, usize> = BTreeMap::new();
        for (key, parts) in frontends {
            let FrontendValue { action, is_guarded, .. } = parts.value?;
            let frontend = Frontend {
                action,
                short: parts.short,
                sources: is_guarded.then(|| parts.sources.into()),
                is_cluster_ip: cluster_ips.contains(&key.address),
                local: [].into(),
            };
            frontend.targets().for_each(|number| *users.entry(number).or_default() += 1);
            ruleset.frontends.insert_mut(key, frontend);
        }
        for (number, parts) in targets {
            let target = parts.target(users.get(&number).copied().unwrap_or_default())?;
            change_count(&mut ruleset.chains, target.chain(number), 1);
            ruleset.targets.insert_mut(number, target);
        }
        let same: BTreeSet<NodeElement> = ruleset.elements().into_iter().collect();
        let is_consistent = same == self.elements
            && self.chains.iter().eq(ruleset.chains.keys())
            && users.keys().all(|number| ruleset.targets.contains_key(number));
        is_consistent.then_some(ruleset)
    }

    /// Groups the elements by frontend and target; others become a part of the ruleset.
    fn parts(&self, ruleset: &mut NodeRuleset) -> Parts {
        let Parts { mut frontends, mut targets, mut cluster_ips } = Parts::default();
        let mut environment = NodeEnvironment::default();
        let mut ranges = Vec::new();
        for element in &self.elements {
            match *element {
                NodeElement::Pick(_) | NodeElement::Code(_) | NodeElement::LocalEndpoint(_) => {}
                NodeElement::Own(chain) => targets.entry(chain.number).or_default().chain = Some(chain),
                NodeElement::Frontend(key, value) => frontends.entry(key).or_default().value = Some(value),
                NodeElement::Short(key, action) => frontends.entry(key).or_default().short = Some(action),
                NodeElement::Source(key, net) => frontends.entry(key).or_default().sources.push(net),
                NodeElement::Backend(number, slot, backend) => {
                    targets.entry(number).or_default().backends.insert(slot, backend);
                }
                NodeElement::Id(_, number, slot, id) => {
                    targets.entry(number).or_default().ids.insert(slot, id);
                }
                NodeElement::Address(address) => {
                    cluster_ips.insert(address);
                }
                NodeElement::Range(net) => ranges.push(net),
                NodeElement::NodeAddress(address) => {
                    Arc::make_mut(&mut environment.addresses).insert(address);
                }
                NodeElement::PodRange(net) => {
                    Arc::make_mut(&mut environment.pod_ranges).insert(net);
                }
                NodeElement::PodInterface(pattern) => {
                    Arc::make_mut(&mut environment.pod_interfaces).insert(pattern);
                }
                NodeElement::Hairpin(address) => ruleset.endpoints.insert_mut(address, 1),
            }
        }
        ruleset.environment = environment;
        ruleset.ranges = ranges.into();
        Parts { frontends, targets, cluster_ips }
    }
}

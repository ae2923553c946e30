//! The elements of a `NodeRuleset`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use super::chain::NodeChain;
use super::changes::NodeChanges;
use super::element::NodeElement;
use super::settings::NodeEnvironment;
use super::target::{Target, TargetNumber, code};
use super::{Frontend, NodeRuleset};
use crate::model::address::Family;
use crate::routing::portal::PortalKey;

impl NodeRuleset {
    /// Returns the number of elements. It visits all frontends and targets, but allocates nothing: the status contains it.
    #[must_use]
    pub fn size(&self) -> usize {
        let frontends: usize = self.frontends.values().map(Frontend::size).sum();
        let targets: usize =
            self.targets.values().map(|target| target.backends.len() + target.ids.len()).sum();
        // Frontends are in the order of their addresses.
        let mut previous = None;
        let cluster_ips = self.frontends.iter().filter(|(_, frontend)| frontend.is_cluster_ip);
        let addresses =
            cluster_ips.filter(|(key, _)| previous.replace(key.address) != Some(key.address)).count();
        let keeps_client_address = self.settings.is_some_and(|settings| settings.keep_client_address);
        let endpoints = self.endpoints.size() * (1 + usize::from(keeps_client_address));
        let NodeEnvironment { addresses: node, pod_ranges, pod_interfaces } = &self.environment;
        let environment = self.ranges.len() + node.len() + pod_ranges.len() + pod_interfaces.len();
        let shared = self.chains.keys().filter(|chain| matches!(chain, NodeChain::Pick(_))).count();
        let chains = self.chains.size() + shared * code::ALL_FLAGS.len();
        frontends + targets + chains + addresses + endpoints + environment
    }

    /// Returns all elements, in their order.
    #[must_use]
    pub fn elements(&self) -> Vec<NodeElement> {
        let mut elements = Vec::with_capacity(self.size());
        self.for_each_element(|element| elements.push(element));
        elements
    }

    /// Visits all elements in their order, without a list of them: a table has tens of thousands.
    pub(super) fn for_each_element(&self, mut visit: impl FnMut(NodeElement)) {
        let picks = || {
            self.chains.keys().filter_map(|chain| match chain {
                NodeChain::Pick(count) => Some(*count),
                NodeChain::Own(_) => None,
            })
        };
        picks().for_each(|count| visit(NodeElement::Pick(count)));
        for flags in code::ALL_FLAGS {
            picks().for_each(|count| visit(NodeElement::Code(count | flags)));
        }
        for chain in self.chains.keys() {
            if let NodeChain::Own(own) = chain {
                visit(NodeElement::Own(*own));
            }
        }
        for (key, frontend) in self.frontends.iter() {
            visit(NodeElement::Frontend(*key, frontend.value()));
        }
        for (key, frontend) in self.frontends.iter() {
            frontend.short.into_iter().for_each(|short| visit(NodeElement::Short(*key, short)));
        }
        for (number, target) in self.targets.iter() {
            backends_in_order(*number, target, &mut visit);
        }
        for family in Family::BOTH {
            for (number, target) in self.targets.iter().filter(|(_, target)| target.family == family) {
                for (slot, id) in (0..).zip(target.ids.iter()) {
                    visit(NodeElement::Id(family, *number, slot, *id));
                }
            }
        }
        self.visit_sets(&mut visit);
    }

    fn visit_sets(&self, visit: &mut impl FnMut(NodeElement)) {
        let mut previous = None;
        for (key, _) in self.frontends.iter().filter(|(_, frontend)| frontend.is_cluster_ip) {
            if previous.replace(key.address) != Some(key.address) {
                visit(NodeElement::Address(key.address));
            }
        }
        let NodeEnvironment { addresses, pod_ranges, pod_interfaces } = &self.environment;
        let ranges: BTreeSet<IpNet> = self.ranges.iter().copied().collect();
        ranges.into_iter().for_each(|range| visit(NodeElement::Range(range)));
        for (key, frontend) in self.frontends.iter() {
            let sources: BTreeSet<IpNet> =
                frontend.sources.iter().flat_map(|nets| nets.iter()).copied().collect();
            sources.into_iter().for_each(|net| visit(NodeElement::Source(*key, net)));
        }
        addresses.iter().for_each(|address| visit(NodeElement::NodeAddress(*address)));
        pod_ranges.iter().for_each(|net| visit(NodeElement::PodRange(*net)));
        pod_interfaces.iter().for_each(|pattern| visit(NodeElement::PodInterface(*pattern)));
        self.endpoints.keys().for_each(|address| visit(NodeElement::Hairpin(*address)));
        if self.settings.is_some_and(|settings| settings.keep_client_address) {
            self.endpoints.keys().for_each(|address| visit(NodeElement::LocalEndpoint(*address)));
        }
    }

    /// Returns the elements that changes affect.
    pub(super) fn elements_of(&self, changes: &NodeChanges) -> Vec<NodeElement> {
        let mut elements = Vec::new();
        for key in &changes.portals {
            if let Some(frontend) = self.frontends.get(key) {
                frontend_elements(*key, frontend, &mut elements);
            }
        }
        for number in &changes.targets {
            if let Some(target) = self.targets.get(number) {
                target_elements(*number, target, &mut elements);
            }
        }
        let chains = changes.chains.iter().filter(|chain| self.chains.contains_key(*chain));
        for chain in chains {
            match chain {
                NodeChain::Pick(count) => {
                    elements.push(NodeElement::Pick(*count));
                    elements.extend(code::ALL_FLAGS.map(|flags| NodeElement::Code(count | flags)));
                }
                NodeChain::Own(own) => elements.push(NodeElement::Own(*own)),
            }
        }
        let addresses = changes.addresses.iter().filter(|address| self.has_address(**address));
        elements.extend(addresses.copied().map(NodeElement::Address));
        let keeps_client_address = self.settings.is_some_and(|settings| settings.keep_client_address);
        for address in changes.endpoints.iter().filter(|address| self.is_local_endpoint(**address)) {
            elements.push(NodeElement::Hairpin(*address));
            elements.extend(keeps_client_address.then_some(NodeElement::LocalEndpoint(*address)));
        }
        if changes.environment {
            let NodeEnvironment { addresses, pod_ranges, pod_interfaces } = &self.environment;
            elements.extend(self.ranges.iter().copied().map(NodeElement::Range));
            elements.extend(addresses.iter().copied().map(NodeElement::NodeAddress));
            elements.extend(pod_ranges.iter().copied().map(NodeElement::PodRange));
            elements.extend(pod_interfaces.iter().copied().map(NodeElement::PodInterface));
        }
        elements
    }
}

impl Frontend {
    fn size(&self) -> usize {
        let sources = self.sources.as_ref().map_or(0, |sources| sources.len());
        1 + usize::from(self.short.is_some()) + sources
    }
}

fn frontend_elements(key: PortalKey, frontend: &Frontend, elements: &mut Vec<NodeElement>) {
    elements.push(NodeElement::Frontend(key, frontend.value()));
    elements.extend(frontend.short.map(|short| NodeElement::Short(key, short)));
    let sources = frontend.sources.iter().flat_map(|sources| sources.iter());
    elements.extend(sources.map(|net| NodeElement::Source(key, *net)));
}

fn target_elements(number: TargetNumber, target: &Target, elements: &mut Vec<NodeElement>) {
    for (slot, backend) in (0_u16..).zip(target.backends.iter()) {
        let id = target.ids.get(usize::from(slot)).copied();
        elements.push(NodeElement::Backend(number, id.unwrap_or(u32::from(slot)), *backend));
        elements.extend(id.map(|id| NodeElement::Id(target.family, number, slot, id)));
    }
}

/// Visits the backends of a target in the order of their slots, or of their ids with session affinity.
fn backends_in_order(number: TargetNumber, target: &Target, visit: &mut impl FnMut(NodeElement)) {
    if target.ids.is_empty() {
        let slots = (0_u32..).zip(target.backends.iter());
        return slots.for_each(|(slot, backend)| visit(NodeElement::Backend(number, slot, *backend)));
    }
    let by_id: BTreeMap<u32, SocketAddr> =
        target.ids.iter().copied().zip(target.backends.iter().copied()).collect();
    by_id.into_iter().for_each(|(id, backend)| visit(NodeElement::Backend(number, id, backend)));
}

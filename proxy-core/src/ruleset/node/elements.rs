//! The elements of a `NodeRuleset`.

use super::chain::NodeChain;
use super::changes::NodeChanges;
use super::element::NodeElement;
use super::settings::NodeEnvironment;
use super::target::{Target, TargetNumber, code};
use super::{Frontend, NodeRuleset};
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

    /// Returns all elements.
    #[must_use]
    pub fn elements(&self) -> Vec<NodeElement> {
        let all = NodeChanges {
            portals: self.frontends.keys().copied().collect(),
            targets: self.targets.keys().copied().collect(),
            chains: self.chains.keys().copied().collect(),
            addresses: self.frontends.keys().map(|key| key.address).collect(),
            endpoints: self.endpoints.keys().copied().collect(),
            environment: true,
        };
        self.elements_of(&all)
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

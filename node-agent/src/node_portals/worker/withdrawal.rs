//! Hands a node back to another service proxy: removes the node's table as soon as the other proxy serves the node.
//!
//! The kernel translates the packets of open connections only while a NAT chain exists in their family. So the table is
//! removed only next to the NAT chains of kube-proxy, and the anchor table stays unless each family has another one.

use std::collections::BTreeSet;

use netns_nft::{Anchor, ChainSummary, Error, KubeProxyRules, Socket};
use proxy_core::portal::Portals;
use support::with_causes;

use super::{AnchorState, NodeWorker};
use crate::node_portals::other_proxies::{has_ipvs_services, legacy_nat_families};
use crate::node_portals::service_proxy::KubeProxyState;

/// The families of NAT chains, as nft writes them.
const FAMILIES: [&str; 2] = ["ip", "ip6"];

impl NodeWorker {
    /// Removes the table if another proxy serves the node. Otherwise returns false: the table must be kept up to date.
    pub(super) fn withdraw(&mut self) -> Result<bool, Error> {
        self.state.forget_table();
        if self.socket.has_node_table()? {
            if let Some(why) = self.reason_to_serve()? {
                self.outputs.status.set_kept(Some(why));
                return Ok(false);
            }
            self.socket.remove_node_table()?;
            tracing::info!("removed the table of node portals; kube-proxy serves the node");
            self.generation = self.socket.generation().ok();
        } else if self.is_withdrawn {
            return Ok(true);
        }
        self.release_anchor()?;
        self.is_withdrawn = true;
        self.outputs.relay.set_node_portals(Portals::default());
        self.outputs.status.record_withdrawal();
        Ok(true)
    }

    /// Why the other proxy does not serve all that the node's table serves.
    fn reason_to_serve(&self) -> Result<Option<String>, Error> {
        match self.role.kube_proxy() {
            KubeProxyState::Absent => return Ok(Some("no kube-proxy responds on the node".to_owned())),
            KubeProxyState::Starting => {
                return Ok(Some("kube-proxy has not programmed its rules yet".to_owned()));
            }
            KubeProxyState::Synced => {}
        }
        let mut serving = KubeProxyRules::of(&Socket::open()?.chains()?).serving;
        // Their rules are not in nf_tables.
        serving.extend(legacy_nat_families());
        if has_ipvs_services() {
            serving.extend(FAMILIES);
        }
        let portals = self.state.portals().into_iter().flat_map(Portals::by_service);
        let used: BTreeSet<&str> =
            portals.map(|portal| if portal.key.address.is_ipv4() { "ip" } else { "ip6" }).collect();
        let missing: Vec<&str> = used.into_iter().filter(|family| !serving.contains(family)).collect();
        Ok((!missing.is_empty())
            .then(|| format!("kube-proxy has no rules in nf_tables for: {}", missing.join(", "))))
    }

    /// Deletes the anchor table unless it is the last one with a NAT chain in a family.
    fn release_anchor(&mut self) -> Result<(), Error> {
        let chains = Socket::open()?.chains()?;
        let anchor = match std::mem::replace(&mut self.anchor, AnchorState::Wanted) {
            AnchorState::Held(anchor) => anchor,
            // A previous agent can have left it.
            AnchorState::Wanted if chains.iter().any(ChainSummary::is_own) => Anchor::hold(Socket::open()?)?,
            other => {
                self.anchor = other;
                return Ok(());
            }
        };
        let legacy: Vec<&str> = legacy_nat_families().collect();
        let lacks_nat = |family: &str| {
            let keeps = |chain: &ChainSummary| !chain.is_own() && chain.keeps_nat(family);
            !legacy.contains(&family) && !chains.iter().any(keeps)
        };
        if let Some(family) = FAMILIES.into_iter().find(|family| lacks_nat(family)) {
            self.anchor = AnchorState::Held(anchor);
            let why = format!("no other table has a NAT chain in family {family}");
            self.outputs.status.set_anchor_kept(Some(why));
            return Ok(());
        }
        if let Err(error) = anchor.remove() {
            tracing::warn!(error = with_causes(&error), "failed to delete the anchor table");
        }
        self.outputs.status.set_anchor_kept(None);
        Ok(())
    }
}

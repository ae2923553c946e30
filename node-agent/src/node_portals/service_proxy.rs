//! `ServiceProxyRole`: whether Portico serves the node, from the mode of node portals and the label of the node. Pure.
//!
//! A node moves from kube-proxy to Portico by `both`, and back. kube-proxy and the agent cannot share the ports of
//! kube-proxy: the agent releases them as soon as a kube-proxy runs that is to have them.

use clap::ValueEnum;
use proxy_core::node::ServiceProxy;

use crate::node_portals::health_check::PortClaims;

/// On which nodes Portico serves the node's own network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NodePortalsMode {
    /// On every node.
    Always,
    /// On nodes whose label portico.dev/service-proxy is both or portico.
    Label,
}

/// What the agent does with the node's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableDuty {
    /// Nothing, because the label is not known yet.
    Wait,
    /// Keep the table up to date.
    Serve,
    /// Remove the table as soon as another proxy serves the node.
    Withdraw,
}

/// The state of a kube-proxy on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum KubeProxyState {
    /// It does not respond.
    #[default]
    Absent,
    /// It responds, and has not programmed all families yet.
    Starting,
    /// It has programmed all families.
    Synced,
}

/// The role of Portico on the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceProxyRole {
    mode: NodePortalsMode,
    label: Option<ServiceProxy>,
    kube_proxy: KubeProxyState,
    claims: PortClaims,
}

impl ServiceProxyRole {
    /// Returns the role before the node object is known.
    pub(crate) fn new(mode: NodePortalsMode) -> Self {
        let claims = PortClaims::both(mode == NodePortalsMode::Always);
        Self { mode, label: None, kube_proxy: KubeProxyState::Absent, claims }
    }

    /// Records the label of the node. Returns whether it changed.
    pub(crate) fn set_label(&mut self, label: ServiceProxy) -> bool {
        let is_changed = self.label.replace(label) != Some(label);
        self.update_claims();
        is_changed
    }

    /// Records the state of a kube-proxy on the node.
    pub(crate) fn set_kube_proxy(&mut self, state: KubeProxyState) {
        self.kube_proxy = state;
        self.update_claims();
    }

    fn update_claims(&mut self) {
        if self.mode == NodePortalsMode::Always {
            return;
        }
        let keeps_health = self.claims.health && self.kube_proxy == KubeProxyState::Absent;
        self.claims = match self.label {
            None => return,
            Some(ServiceProxy::Portico) => PortClaims::both(true),
            // A kube-proxy that starts is recognised by the port of its mode.
            Some(ServiceProxy::Both | ServiceProxy::KubeProxy) => {
                PortClaims { health: keeps_health, mode: false }
            }
        };
    }

    /// Returns the ports of kube-proxy that the agent has, or waits for.
    pub(crate) fn claims(&self) -> PortClaims {
        self.claims
    }

    /// Whether the label of the node has a meaning.
    pub(crate) fn follows_label(&self) -> bool {
        self.mode == NodePortalsMode::Label
    }

    /// Returns the label of the node, if it is known.
    pub(crate) fn label(&self) -> Option<ServiceProxy> {
        self.label
    }

    /// Returns the state of a kube-proxy on the node.
    pub(crate) fn kube_proxy(&self) -> KubeProxyState {
        self.kube_proxy
    }

    /// Returns what to do with the node's table.
    pub(crate) fn duty(&self) -> TableDuty {
        match (self.mode, self.label) {
            (NodePortalsMode::Always, _) => TableDuty::Serve,
            (_, None) => TableDuty::Wait,
            (_, Some(ServiceProxy::Both | ServiceProxy::Portico)) => TableDuty::Serve,
            (_, Some(ServiceProxy::KubeProxy)) => TableDuty::Withdraw,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: PortClaims = PortClaims { health: false, mode: false };

    #[test]
    fn table_follows_the_label_only_in_the_mode_label() {
        let duty = |mode, label| {
            let mut role = ServiceProxyRole::new(mode);
            if let Some(label) = label {
                role.set_label(label);
            }
            role.duty()
        };
        assert_eq!(duty(NodePortalsMode::Always, Some(ServiceProxy::KubeProxy)), TableDuty::Serve);
        assert_eq!(duty(NodePortalsMode::Label, None), TableDuty::Wait);
        assert_eq!(duty(NodePortalsMode::Label, Some(ServiceProxy::KubeProxy)), TableDuty::Withdraw);
        assert_eq!(duty(NodePortalsMode::Label, Some(ServiceProxy::Both)), TableDuty::Serve);
        assert_eq!(duty(NodePortalsMode::Label, Some(ServiceProxy::Portico)), TableDuty::Serve);
    }

    #[test]
    fn ports_of_kube_proxy_are_claimed_only_without_it() {
        let mut role = ServiceProxyRole::new(NodePortalsMode::Label);
        role.set_kube_proxy(KubeProxyState::Starting);
        role.set_label(ServiceProxy::Both);
        assert_eq!(role.claims(), NONE);
        // Its restart gives the agent no port that the new process would wait for.
        role.set_kube_proxy(KubeProxyState::Absent);
        assert_eq!(role.claims(), NONE);
        role.set_label(ServiceProxy::Portico);
        assert_eq!(role.claims(), PortClaims::both(true));
    }

    #[test]
    fn health_port_is_kept_until_kube_proxy_runs_again() {
        let mut role = ServiceProxyRole::new(NodePortalsMode::Label);
        role.set_label(ServiceProxy::Portico);
        role.set_label(ServiceProxy::Both);
        assert_eq!(role.claims(), PortClaims { health: true, mode: false });
        role.set_kube_proxy(KubeProxyState::Starting);
        assert_eq!(role.claims(), NONE);
        role.set_label(ServiceProxy::KubeProxy);
        assert_eq!(role.claims(), NONE);
    }
}

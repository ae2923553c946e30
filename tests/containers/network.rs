//! `Network`: a CNI network of pods, as an administrator would configure it.

use std::fs;

use serde_json::{Value, json};

use crate::node::CNI_CONF;

/// How pods are connected to the node's interface `wire`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Master {
    /// Each pod has a veth pair whose other end is in the bridge `pods0`.
    Bridge,
    /// Each pod has a macvlan on `wire`, so packets bypass the node's netfilter.
    Macvlan,
}

/// A CNI network.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) name: &'static str,
    pub(crate) master: Master,
    pub(crate) is_ipv4: bool,
    pub(crate) is_ipv6: bool,
    pub(crate) has_default_route: bool,
    /// The tens of the pods' addresses, distinct for each network of a node.
    pub(crate) tens: u8,
    /// The plugin's entry; `None` if it is not installed.
    pub(crate) portico: Option<Value>,
}

/// A bridged network of both families, with default routes and the plugin.
pub(crate) fn network() -> Network {
    Network {
        name: "pods",
        master: Master::Bridge,
        is_ipv4: true,
        is_ipv6: true,
        has_default_route: true,
        tens: 1,
        portico: Some(json!({})),
    }
}

impl Network {
    /// Writes the configuration, and replaces an earlier one.
    pub(crate) fn configure(&self) {
        let mut plugins =
            vec![self.interface(), json!({"type": "portmap", "capabilities": {"portMappings": true}})];
        if let Some(portico) = &self.portico {
            let mut entry = portico.clone();
            entry["type"] = "portico-cni".into();
            entry["capabilities"] = json!({"io.kubernetes.cri.pod-annotations": true});
            plugins.push(entry);
        }
        let text = json!({"cniVersion": "1.0.0", "name": self.name, "plugins": plugins}).to_string();
        let path = format!("{CNI_CONF}/{}.conflist", self.name);
        fs::write(format!("{path}.new"), text).expect("write a configuration");
        fs::rename(format!("{path}.new"), path).expect("rename a configuration");
    }

    fn interface(&self) -> Value {
        let (mut ranges, mut routes) = (Vec::new(), Vec::new());
        let range = |subnet: &str, net: &str| {
            let host = |last| format!("{net}{}{last}", self.tens);
            json!([{"subnet": subnet, "rangeStart": host(0), "rangeEnd": host(9)}])
        };
        if self.is_ipv4 {
            ranges.push(range("10.77.0.0/24", "10.77.0."));
            routes.push(json!({"dst": "0.0.0.0/0"}));
        }
        if self.is_ipv6 {
            ranges.push(range("fd77::/64", "fd77::"));
            routes.push(json!({"dst": "::/0"}));
        }
        let mut ipam = json!({"type": "host-local", "ranges": ranges});
        if self.has_default_route {
            ipam["routes"] = routes.into();
        }
        match self.master {
            Master::Bridge => {
                let is_gateway = self.has_default_route;
                json!({"type": "bridge", "bridge": "pods0", "isGateway": is_gateway, "ipam": ipam})
            }
            Master::Macvlan => json!({"type": "macvlan", "master": "wire", "mode": "bridge", "ipam": ipam}),
        }
    }
}

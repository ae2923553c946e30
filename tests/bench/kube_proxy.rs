//! The rules of kube-proxy's nftables mode for the same portals, as a peer.
//!
//! `kube_proxy_process` runs the real one.

use proxy_core::portal::{Portal, Portals};

/// The rules of kube-proxy's nftables mode (pkg/proxy/nftables/proxier.go): a chain with an anonymous map of endpoints for
/// each service, and one verdict map to these chains; for node ports another one.
pub(crate) fn kube_proxy_shape(portals: &Portals) -> String {
    let (mut chains, mut elements, mut node_ports) = (String::new(), Vec::new(), Vec::new());
    for (index, portal) in portals.iter().enumerate() {
        let (key, chain) = (portal.key, format!("service-{index:08}"));
        chains.push_str(&format!(" chain {chain} {{\n  {}\n }}\n", service_rule(portal, 0)));
        let port = format!("{} . {} : goto {chain}", key.protocol.lower(), key.port);
        if key.is_node_port() {
            node_ports.push(port);
        } else {
            elements.push(format!("{} . {port}", key.address));
        }
    }
    format!(
        "table ip peer {{\n map service-ips {{\n  type ipv4_addr . inet_proto . inet_service : verdict\n }}\n \
         map service-nodeports {{\n  type inet_proto . inet_service : verdict\n }}\n{chains} \
         chain output {{\n  type nat hook output priority -100\n  ip daddr . meta l4proto . th dport vmap @service-ips\n \
         }}\n}}\n{}{}",
        elements_of("service-ips", &elements),
        elements_of("service-nodeports", &node_ports)
    )
}

fn elements_of(map: &str, elements: &[String]) -> String {
    if elements.is_empty() {
        return String::new();
    }
    format!("add element ip peer {map} {{ {} }}\n", elements.join(", "))
}

fn service_rule(portal: &Portal, shift: usize) -> String {
    let (protocol, backends) = (portal.key.protocol.lower(), &portal.backends);
    let slots = (0..backends.len()).zip(backends.iter().cycle().skip(shift));
    let slots: Vec<String> =
        slots.map(|(slot, backend)| format!("{slot} : {} . {}", backend.ip(), backend.port())).collect();
    let (count, slots) = (backends.len(), slots.join(", "));
    format!("meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {slots} }}")
}

/// Replaces the chain of one service, as kube-proxy does when an endpoint changes.
pub(crate) fn kube_proxy_change(portals: &Portals, round: usize) -> String {
    let portal = portals.iter().nth(round * 7).expect("a portal for each round");
    let chain = format!("service-{:08}", round * 7);
    format!("flush chain ip peer {chain}\nadd rule ip peer {chain} {}\n", service_rule(portal, 1))
}

//! The node's table and its plans as text for `nft -f`.
//!
//! The text is equivalent to the netlink form, as far as nft 1.0.6 can express it. nft cannot pass a looked-up value
//! from one expression to another, so the packet's mark carries the action of a frontend and then its target, and the
//! packet's priority carries the slot and the id of a backend. The netlink form sets no mark. Both are reset at
//! postrouting, before other tables can read them.
//!
//! The text is for people, for `portico rules --node-portals`, and for tests.

use std::fmt::{self, Display, Formatter};

use crate::model::address::Family;
use crate::render::nft::{
    Keywords, PORTS, keywords, portal, write_backend, write_current, write_elements, write_key, write_refusal,
};
use crate::routing::portal::PortalKey;
use crate::ruleset::node::{
    BackendSelection, NodeChain, NodeChanges, NodeElement, NodeOp, NodePlan, NodeRuleset, NodeSettings,
    OwnChain, PodDetection, TargetNumber, code, node_plan,
};

/// The name of the table.
pub const NODE_TABLE: &str = "inet portico-node";

/// The priority of the chain that masquerades.
const MASQUERADE_PRIORITY: i32 = 99;
const NODE_PORT: &str = "meta l4proto . th dport";
/// The type of a target and a slot, or a target and an id.
const NUMBERED: &str = "mark . classid";
const RESET: &str = "meta mark set 0 meta priority set none";
const MASQUERADE: &str = "masquerade fully-random";
/// The verdict of codes with flags.
const FLAGGED: &str = "goto flagged";

impl Display for NodeRuleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.settings().is_none() {
            return writeln!(f, "# no table");
        }
        writeln!(f, "# Replaces the whole table in one transaction.")?;
        writeln!(f, "table {NODE_TABLE}\ndelete table {NODE_TABLE}\n")?;
        node_plan(&Self::empty(), self, &NodeChanges::default()).fmt(f)
    }
}

impl Display for NodePlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_same_kind = |left: &NodeOp, right: &NodeOp| {
            left.added().is_some() == right.added().is_some()
                && left.deleted().is_some() == right.deleted().is_some()
        };
        for ops in self.ops().chunk_by(is_same_kind) {
            write_elements(f, "add", NODE_TABLE, ops.iter().filter_map(|op| op.added()).map(text_of))?;
            write_elements(f, "delete", NODE_TABLE, ops.iter().filter_map(|op| op.deleted()).map(text_of))?;
            ops.iter().try_for_each(|op| write_op(f, *op))?;
        }
        Ok(())
    }
}

fn write_op(f: &mut Formatter<'_>, op: NodeOp) -> fmt::Result {
    match op {
        NodeOp::DeleteTable => writeln!(f, "delete table {NODE_TABLE}"),
        NodeOp::AddTable(settings) => write_table(f, settings),
        NodeOp::AddClients(family, number) => {
            let ip = keywords(family).ip;
            writeln!(f, "table {NODE_TABLE} {{\n\tmap {} {{", clients(family, number))?;
            writeln!(f, "\t\ttypeof {ip} saddr : meta priority\n\t\tflags dynamic,timeout\n\t}}\n}}\n")
        }
        NodeOp::AddChain(chain) => write_target_chain(f, chain),
        NodeOp::DeleteChain(chain) => writeln!(f, "delete chain {NODE_TABLE} {chain}"),
        NodeOp::DeleteClients(family, number) => {
            writeln!(f, "delete map {NODE_TABLE} {}", clients(family, number))
        }
        NodeOp::Add(_) | NodeOp::Delete(_) => Ok(()),
    }
}

/// Returns the name of the map of a target's clients.
fn clients(family: Family, number: TargetNumber) -> String {
    format!("clients{}-{number}", keywords(family).suffix)
}

fn write_table(f: &mut Formatter<'_>, settings: NodeSettings) -> fmt::Result {
    writeln!(f, "table {NODE_TABLE} {{")?;
    Family::BOTH.into_iter().try_for_each(|family| write_sets(f, &keywords(family)))?;
    write_current(f)?;
    let constants = [(code::REJECT, "goto refuse"), (code::OWN_CHAIN, "goto own"), (code::DROP, "drop")];
    for (map, all_flags) in [("picks", &[0][..]), ("codes", &code::ALL_FLAGS)] {
        writeln!(f, "\tmap {map} {{\n\t\ttype mark : verdict\n\t\telements = {{")?;
        for (code, verdict) in constants {
            for flags in all_flags {
                let verdict = if *flags == 0 { verdict } else { FLAGGED };
                writeln!(f, "\t\t\t{:#x} : {verdict},", code | flags)?;
            }
        }
        writeln!(f, "\t\t}}\n\t}}\n")?;
    }
    writeln!(f, "\tmap own {{\n\t\ttype mark : verdict\n\t}}\n")?;
    writeln!(f, "\tset pod-interfaces {{\n\t\ttype ifname\n\t\tflags interval\n\t}}\n")?;
    write_refusal(f)?;
    // All chains of targets jump here with a slot or an id.
    writeln!(f, "\tchain send {{")?;
    for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords) {
        writeln!(f, "\t\t{PORTS} dnat {ip} to meta mark . meta priority map @backends{suffix}")?;
    }
    writeln!(f, "\t}}\n\n\tchain own {{\n\t\t{} meta mark vmap @own\n\t}}\n", keep_target())?;
    write_flagged_chains(f, settings)?;
    write_service_chain(f)?;
    write_base_chains(f, settings)?;
    write_masquerade_chains(f, settings)?;
    writeln!(f, "}}\n")
}

fn write_sets(f: &mut Formatter<'_>, Keywords { suffix, address, .. }: &Keywords) -> fmt::Result {
    let frontend = format!("{address} . inet_proto . inet_service");
    for (name, key) in [("services", &*frontend), ("short", &frontend)]
        .into_iter()
        .chain([("nodeports", "inet_proto . inet_service"), ("shortports", "inet_proto . inet_service")])
    {
        writeln!(f, "\tmap {name}{suffix} {{\n\t\ttype {key} : mark\n\t}}\n")?;
    }
    writeln!(f, "\tmap backends{suffix} {{\n\t\ttype {NUMBERED} : {address} . inet_service\n\t}}\n")?;
    writeln!(f, "\tmap ids{suffix} {{\n\t\ttype {NUMBERED} : classid\n\t}}\n")?;
    writeln!(f, "\tset sources{suffix} {{\n\t\ttype {frontend} . {address}\n\t\tflags interval\n\t}}\n")?;
    for name in ["addresses", "node-addresses", "local-endpoints"] {
        writeln!(f, "\tset {name}{suffix} {{\n\t\ttype {address}\n\t}}\n")?;
    }
    for name in ["ranges", "pods"] {
        writeln!(f, "\tset {name}{suffix} {{\n\t\ttype {address}\n\t\tflags interval\n\t}}\n")?;
    }
    writeln!(f, "\tset hairpin{suffix} {{\n\t\ttype {address} . {address}\n\t}}\n")
}

/// Returns the statement that removes the code from the value of a frontend in the mark.
fn keep_target() -> String {
    format!("meta mark set meta mark and {:#010x}", !u32::from(code::MASK))
}

/// Returns the statements that continue in the chain of the code in the mark.
fn dispatch_by(map: &str, mask: u16) -> String {
    format!("meta mark and {mask:#010x} vmap @{map}")
}

/// Returns the statements that look the key up in a map of frontends, and continue in the chain of the code.
fn dispatch(key: &str, map: &str, suffix: char) -> String {
    format!("meta mark set {key} map @{map}{suffix} {}", dispatch_by("codes", code::MASK))
}

/// Writes the chains of frontends with flags: the check of sources, and another action for clients in the cluster. The node
/// itself, whose packets have no input interface, is a client in the cluster.
fn write_flagged_chains(f: &mut Formatter<'_>, settings: NodeSettings) -> fmt::Result {
    let pick = dispatch_by("picks", code::MASK & !code::FLAGS);
    writeln!(f, "\tchain short {{")?;
    for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords) {
        writeln!(f, "\t\t{PORTS} meta mark set {} map @short{suffix} {pick}", portal(ip))?;
        // Only a node port leads here without an element of `short`.
        let family = format!("meta nfproto ipv{suffix}");
        writeln!(f, "\t\t{PORTS} {family} meta mark set {NODE_PORT} map @shortports{suffix} {pick}")?;
    }
    writeln!(f, "\t}}\n\n\tchain by-client {{\n\t\tiif 0 goto short")?;
    write_pod_rules(f, settings.detects_pods, "goto short")?;
    writeln!(f, "\t}}\n\n\tchain flagged {{")?;
    for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords) {
        write!(f, "\t\tmeta mark & {:#010x} != 0 ", code::GUARDED)?;
        writeln!(f, "{} . {ip} saddr != @sources{suffix} drop", portal(ip))?;
    }
    writeln!(f, "\t\tmeta mark & {:#010x} != 0 jump by-client\n\t\t{pick}\n\t}}\n", code::SHORT)
}

/// Writes the chain that looks up frontends: by address and port, otherwise by the port of a node address.
fn write_service_chain(f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "\tchain services {{")?;
    for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords) {
        writeln!(f, "\t\t{PORTS} {}", dispatch(&portal(ip), "services", suffix))?;
        let node_port = dispatch(NODE_PORT, "nodeports", suffix);
        writeln!(f, "\t\t{PORTS} {ip} daddr @node-addresses{suffix} {node_port}")?;
        writeln!(f, "\t\t{ip} daddr @addresses{suffix} goto refuse")?;
        writeln!(f, "\t\t{ip} daddr @ranges{suffix} drop")?;
    }
    writeln!(f, "\t}}\n")
}

/// Writes the base chains that translate destinations.
fn write_base_chains(f: &mut Formatter<'_>, settings: NodeSettings) -> fmt::Result {
    let NodeSettings { nat_priority, loopback_port, .. } = settings;
    for hook in ["prerouting", "output"] {
        writeln!(f, "\tchain {hook} {{\n\t\ttype nat hook {hook} priority {nat_priority}; policy accept;")?;
        writeln!(f, "\t\tjump services")?;
        if hook == "output" && loopback_port != 0 {
            for (Keywords { suffix, ip, .. }, loopback) in
                Family::BOTH.map(keywords).into_iter().zip(["127.0.0.0/8", "::1"])
            {
                write!(f, "\t\tmeta l4proto tcp {ip} daddr {loopback} {NODE_PORT} @nodeports{suffix} ")?;
                writeln!(f, "redirect to :{loopback_port}")?;
            }
        }
        writeln!(f, "\t}}\n")?;
    }
    Ok(())
}

/// Writes rules for packets from pods.
fn write_pod_rules(f: &mut Formatter<'_>, detects_pods: PodDetection, verdict: &str) -> fmt::Result {
    for family in Family::BOTH.into_iter().filter(|family| detects_pods.in_family(*family)) {
        let Keywords { suffix, ip, .. } = keywords(family);
        writeln!(f, "\t\t{ip} saddr @pods{suffix} {verdict}")?;
    }
    if detects_pods != PodDetection::NONE {
        writeln!(f, "\t\tiifname @pod-interfaces {verdict}")?;
    }
    Ok(())
}

/// Writes the chains that masquerade connections whose destination this table translated.
fn write_masquerade_chains(f: &mut Formatter<'_>, settings: NodeSettings) -> fmt::Result {
    let NodeSettings { detects_pods, masquerade_all, keep_client_address, .. } = settings;
    for chain in ["internal", "local-policy", "external"] {
        writeln!(f, "\tchain {chain} {{")?;
        if chain == "external" {
            writeln!(f, "\t\tmeta mark & {:#010x} != 0 goto local-policy", code::SHORT)?;
        }
        writeln!(f, "\t\t{RESET}")?;
        let masquerades_all = match chain {
            "internal" => masquerade_all,
            "external" => !keep_client_address,
            _ => false,
        };
        if masquerades_all {
            writeln!(f, "\t\t{MASQUERADE}\n\t}}\n")?;
            continue;
        }
        for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords) {
            writeln!(f, "\t\t{ip} saddr . {ip} daddr @hairpin{suffix} {MASQUERADE}")?;
        }
        match chain {
            "internal" => {
                write_pod_rules(f, detects_pods, "return")?;
                for family in Family::BOTH.into_iter().filter(|family| detects_pods.in_family(*family)) {
                    writeln!(f, "\t\tmeta nfproto ipv{} {MASQUERADE}", keywords(family).suffix)?;
                }
            }
            "local-policy" => {
                write_pod_rules(f, detects_pods, "return")?;
                writeln!(f, "\t\tfib saddr type local {MASQUERADE}")?;
            }
            "external" => {
                for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords) {
                    writeln!(f, "\t\t{ip} daddr @local-endpoints{suffix} return")?;
                }
                writeln!(f, "\t\t{MASQUERADE}")?;
            }
            _ => {}
        }
        writeln!(f, "\t}}\n")?;
    }
    write_postrouting(f)
}

/// Writes the chains that look up the frontend of a translated connection: in the order of the chain `services`.
fn write_postrouting(f: &mut Formatter<'_>) -> fmt::Result {
    let families = || Family::BOTH.map(keywords);
    writeln!(f, "\tchain at-address {{")?;
    for Keywords { suffix, ip, .. } in families() {
        writeln!(f, "\t\tct original {ip} daddr @addresses{suffix} goto internal")?;
    }
    writeln!(f, "\t\tgoto external\n\t}}\n\n\tchain postrouting {{")?;
    writeln!(f, "\t\ttype nat hook postrouting priority {MASQUERADE_PRIORITY}; policy accept;")?;
    writeln!(f, "\t\tct status & dnat == 0 return\n\t\toif lo return")?;
    for Keywords { suffix, ip, .. } in families() {
        let (address, port) = (format!("ct original {ip} daddr"), "meta l4proto . ct original proto-dst");
        write!(f, "\t\t{PORTS} meta mark set {address} . {port} map @services{suffix} ")?;
        writeln!(f, "goto at-address")?;
        write!(f, "\t\t{PORTS} {address} @node-addresses{suffix} ")?;
        writeln!(f, "meta mark set {port} map @nodeports{suffix} goto external")?;
    }
    writeln!(f, "\t}}")
}

/// Writes the chain that selects a backend.
fn write_target_chain(f: &mut Formatter<'_>, chain: NodeChain) -> fmt::Result {
    writeln!(f, "table {NODE_TABLE} {{\n\tchain {chain} {{")?;
    match chain {
        NodeChain::Pick(count) => {
            writeln!(f, "\t\t{} meta priority set numgen random mod {count} goto send", keep_target())?;
        }
        NodeChain::Own(own) => match own.selection {
            BackendSelection::Affinity(seconds) => write_affinity(f, own, seconds)?,
            BackendSelection::Random => {
                writeln!(f, "\t\tmeta priority set numgen random mod {} goto send", own.count)?;
            }
            BackendSelection::RoundRobin => {
                writeln!(f, "\t\tmeta priority set numgen inc mod {} goto send", own.count)?;
            }
        },
    }
    writeln!(f, "\t}}\n}}\n")
}

/// Writes the rules of session affinity: a known client goes to the same backend; an entry whose backend was removed is
/// deleted; a new client is recorded. If the map of clients is full, the client is balanced like one without affinity.
fn write_affinity(f: &mut Formatter<'_>, own: OwnChain, seconds: u32) -> fmt::Result {
    let OwnChain { number, family, count, .. } = own;
    let (Keywords { suffix, ip, .. }, clients) = (keywords(family), clients(family, number));
    let update = format!("update @{clients} {{ {ip} saddr timeout {seconds}s : meta priority }}");
    writeln!(f, "\t\tmeta priority set {ip} saddr map @{clients} {update} jump send")?;
    writeln!(f, "\t\tdelete @{clients} {{ {ip} saddr : none }}")?;
    let target_and_slot = "meta mark . meta priority";
    write!(f, "\t\tmeta priority set numgen random mod {count} ")?;
    writeln!(f, "meta priority set {target_and_slot} map @ids{suffix}\n\t\t{update}\n\t\tgoto send")
}

fn text_of(element: NodeElement) -> (&'static str, ElementText) {
    (element.set(), ElementText(element))
}

struct ElementText(NodeElement);

impl Display for ElementText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            NodeElement::Code(code) if code & code::FLAGS != 0 => write!(f, "{code:#x} : {FLAGGED}"),
            NodeElement::Pick(code) | NodeElement::Code(code) => {
                write!(f, "{code:#x} : goto {}", NodeChain::Pick(*code))
            }
            NodeElement::Own(own) => write!(f, "{:#010x} : goto {}", own.number.key(), NodeChain::Own(*own)),
            NodeElement::Frontend(key, value) => write_frontend(f, key, value.value()),
            NodeElement::Short(key, action) => write_frontend(f, key, action.value()),
            NodeElement::Backend(number, slot, backend) => {
                write!(f, "{:#010x} . {slot:#x} : ", number.key())?;
                write_backend(f, backend)
            }
            NodeElement::Id(_, number, slot, id) => write!(f, "{:#010x} . {slot:#x} : {id:#x}", number.key()),
            NodeElement::Address(address)
            | NodeElement::NodeAddress(address)
            | NodeElement::LocalEndpoint(address) => write!(f, "{address}"),
            NodeElement::Range(net) | NodeElement::PodRange(net) => write!(f, "{net}"),
            NodeElement::Source(key, net) => {
                write_key(f, key)?;
                write!(f, " . {net}")
            }
            NodeElement::PodInterface(pattern) => write!(f, "\"{pattern}\""),
            NodeElement::Hairpin(address) => write!(f, "{address} . {address}"),
        }
    }
}

/// Writes a frontend and its value. The address of a node port is not a part of its key.
fn write_frontend(f: &mut Formatter<'_>, key: &PortalKey, value: u32) -> fmt::Result {
    if key.is_node_port() {
        write!(f, "{} . {}", key.protocol.lower(), key.port)?;
    } else {
        write_key(f, key)?;
    }
    write!(f, " : {value:#010x}")
}

#[cfg(test)]
mod tests;

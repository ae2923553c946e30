//! Rulesets and plans as text for `nft -f`.
//!
//! The text is equivalent to the netlink form, as far as nft 1.0.6 can express it. nft cannot pass a looked-up value
//! from one expression to another, so the packet's mark carries the dispatch key, the slot, and the id of a backend.
//! Nodes do not need the `nft` binary: the text is for people, for `portico rules`, and for tests.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

use crate::model::address::Family;
use crate::model::guest::GUESTS_SET;
use crate::routing::portal::PortalKey;
use crate::ruleset::dispatch::{Action, DispatchKey};
use crate::ruleset::plan::{Op, Plan};
use crate::ruleset::{Element, Ruleset, Settings};

/// The name of the table.
pub const TABLE: &str = "inet portico";

/// Matches the protocols with ports; nft requires it before the translation of a port.
pub(super) const PORTS: &str = "meta l4proto { tcp, udp, sctp }";

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(settings) = self.settings() else {
            return writeln!(f, "# no table");
        };
        writeln!(f, "# Replaces the whole table in one transaction.")?;
        writeln!(f, "table {TABLE}\ndelete table {TABLE}\n")?;
        write_table(f, settings)?;
        self.dispatch_keys().try_for_each(|dispatch| write_dispatch_chain(f, dispatch))?;
        write_elements(f, "add", TABLE, self.elements().map(text_of))
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut ops = self.ops();
        while let [first, ..] = ops {
            let count = match first {
                Op::Add(_) => write_leading(f, "add", ops, Op::added)?,
                Op::Delete(_) => write_leading(f, "delete", ops, Op::deleted)?,
                single => {
                    write_single(f, single)?;
                    1
                }
            };
            ops = &ops[count..];
        }
        Ok(())
    }
}

/// Writes the leading operations that `element` accepts, and returns their number.
fn write_leading(
    f: &mut Formatter<'_>,
    verb: &str,
    ops: &[Op],
    element: fn(Op) -> Option<Element>,
) -> Result<usize, fmt::Error> {
    let leading: Vec<Element> = ops.iter().map_while(|op| element(*op)).collect();
    let count = leading.len();
    write_elements(f, verb, TABLE, leading.into_iter().map(text_of))?;
    Ok(count)
}

fn write_single(f: &mut Formatter<'_>, op: &Op) -> fmt::Result {
    match op {
        Op::DeleteTable => writeln!(f, "delete table {TABLE}"),
        Op::AddTable(settings) => write_table(f, *settings),
        Op::AddDispatch(dispatch) => write_dispatch_chain(f, *dispatch),
        Op::DeleteDispatch(dispatch) => {
            writeln!(f, "delete element {TABLE} picks {{ {} : jump {dispatch} }}", dispatch.code())?;
            writeln!(f, "delete chain {TABLE} {dispatch}")
        }
        Op::Add(_) | Op::Delete(_) => Ok(()),
    }
}

/// The keywords that differ between the families.
pub(super) struct Keywords {
    pub(super) suffix: char,
    pub(super) ip: &'static str,
    pub(super) address: &'static str,
}

pub(super) const fn keywords(family: Family) -> Keywords {
    match family {
        Family::V4 => Keywords { suffix: '4', ip: "ip", address: "ipv4_addr" },
        Family::V6 => Keywords { suffix: '6', ip: "ip6", address: "ipv6_addr" },
    }
}

fn write_table(f: &mut Formatter<'_>, settings: Settings) -> fmt::Result {
    writeln!(f, "table {TABLE} {{")?;
    for family in Family::BOTH {
        write_sets(f, &keywords(family), settings)?;
    }
    write_current(f)?;
    writeln!(f, "\tmap picks {{\n\t\ttype mark : verdict\n\t}}\n")?;
    // The agent adds the interfaces in a pod's annotation.
    writeln!(f, "\tset {GUESTS_SET} {{\n\t\ttype ifname\n\t\tflags interval\n\t}}\n")?;
    write_refusal(f)?;
    let relay = match settings.has_relay() {
        true => format!("meta l4proto {{ tcp, udp }} redirect to :{}", settings.relay_port),
        false => "meta l4proto { tcp, udp } goto refuse".to_owned(),
    };
    writeln!(f, "\tchain relay {{\n\t\t{relay}\n\t\tdrop\n\t}}\n")?;
    // All chains of dispatch keys jump here with a slot, because a map that many rules reference is slow to change.
    writeln!(f, "\tchain send {{")?;
    for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords) {
        writeln!(f, "\t\t{PORTS} dnat {ip} to {} . meta mark map @backends{suffix}", portal(ip))?;
    }
    writeln!(f, "\t}}\n\n\tchain portals {{")?;
    // A pod that gets portals while it runs can have open connections that kube-proxy translates on the node. The kernel
    // did not track them in the pod, so their next packet is the first one of a connection to it. It must not be
    // translated, because the node would then send it from another port or to another backend.
    writeln!(f, "\t\ttcp flags & (fin | syn | rst | ack) != syn return")?;
    for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords) {
        writeln!(f, "\t\t{PORTS} meta mark set {} map @portals{suffix} meta mark vmap @picks", portal(ip))?;
    }
    let unmatched = if settings.on_demand { "goto relay" } else { "drop" };
    for family in Family::BOTH {
        let Keywords { suffix, ip, .. } = keywords(family);
        writeln!(f, "\t\t{ip} daddr @addresses{suffix} goto refuse")?;
        writeln!(f, "\t\t{ip} daddr @ranges{suffix} {unmatched}")?;
    }
    writeln!(f, "\t}}")?;
    write_base_chains(f, settings)?;
    writeln!(f, "}}\n")
}

/// Writes the map on which `refuse` depends.
pub(super) fn write_current(f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "\tmap current {{\n\t\ttype nf_proto : verdict")?;
    writeln!(f, "\t\telements = {{ ipv4 : goto refuse-current, ipv6 : goto refuse-current }}\n\t}}\n")
}

/// Writes the chains that keep NAT registered and that reject.
pub(super) fn write_refusal(f: &mut Formatter<'_>) -> fmt::Result {
    // Without any NAT rule, a network namespace does not translate, and if the last such rule is deleted, translated
    // connections freeze. This rule never matches and is never deleted.
    writeln!(f, "\tchain anchor {{\n\t\tip daddr 0.0.0.0 tcp dport 1 redirect\n\t}}\n")?;
    // While the table is replaced, its maps are empty for a moment, but its sets are not. A packet that arrives here
    // then is dropped, so that the client sends it again, and the new table handles it.
    writeln!(f, "\tchain refuse {{\n\t\tmeta nfproto vmap @current\n\t\tdrop\n\t}}\n")?;
    writeln!(f, "\tchain refuse-current {{\n\t\tmeta l4proto tcp reject with tcp reset\n\t\treject\n\t}}\n")
}

/// Writes the base chains. Portals apply to packets that the pod sends, or forwards for a guest, but not to packets to
/// one of the pod's own addresses or from its neighbours. Packets that were not redirected do not reach the relay.
fn write_base_chains(f: &mut Formatter<'_>, settings: Settings) -> fmt::Result {
    let Settings { nat_priority, relay_port, .. } = settings;
    for hook in ["output", "prerouting"] {
        writeln!(f, "\n\tchain {hook} {{\n\t\ttype nat hook {hook} priority {nat_priority}; policy accept;")?;
        match hook {
            // Packets here were not redirected yet.
            "output" => {
                // Packets from the pod to itself leave by loopback.
                writeln!(f, "\t\toif != lo goto portals")?;
                for protocol in ["tcp", "udp"] {
                    writeln!(f, "\t\t{protocol} dport {relay_port} fib daddr type local goto refuse")?;
                }
            }
            _ => writeln!(f, "\t\tiifname != @{GUESTS_SET} return")?,
        }
        writeln!(f, "\t\tfib daddr type local return\n\t\tjump portals\n\t}}")?;
    }
    // The type is nat, so that only the first packet of a connection traverses the chain.
    writeln!(f, "\n\tchain input {{\n\t\ttype nat hook input priority 100; policy accept;")?;
    for protocol in ["tcp", "udp"] {
        writeln!(f, "\t\t{protocol} dport {relay_port} ct status & dnat == 0 drop")?;
    }
    writeln!(f, "\t}}")
}

fn write_sets(f: &mut Formatter<'_>, keywords: &Keywords, settings: Settings) -> fmt::Result {
    let Keywords { suffix, address, .. } = keywords;
    let portal = format!("{address} . inet_proto . inet_service");
    // Each successful look-up counts at its element. Only first packets look up.
    let counter = |counts| if counts { "\n\t\tcounter" } else { "" };
    let [to_portals, to_backends] = [settings.counts_portals(), settings.counters].map(counter);
    writeln!(f, "\tmap portals{suffix} {{\n\t\ttype {portal} : mark{to_portals}\n\t}}\n")?;
    writeln!(f, "\tmap backends{suffix} {{")?;
    writeln!(f, "\t\ttype {portal} . mark : {address} . inet_service{to_backends}\n\t}}\n")?;
    writeln!(f, "\tmap ids{suffix} {{\n\t\ttype {portal} . mark : mark\n\t}}\n")?;
    writeln!(f, "\tmap clients{suffix} {{\n\t\ttype inet_proto . inet_service . {address} : mark")?;
    writeln!(f, "\t\tflags dynamic,timeout\n\t}}\n")?;
    writeln!(f, "\tset addresses{suffix} {{\n\t\ttype {address}\n\t}}\n")?;
    writeln!(f, "\tset sources{suffix} {{\n\t\ttype {portal} . {address}\n\t\tflags interval\n\t}}\n")?;
    writeln!(f, "\tset ranges{suffix} {{\n\t\ttype {address}\n\t\tflags interval\n\t}}\n")
}

fn write_dispatch_chain(f: &mut Formatter<'_>, dispatch: DispatchKey) -> fmt::Result {
    writeln!(f, "table {TABLE} {{\n\tchain {dispatch} {{")?;
    for Keywords { suffix, ip, .. } in Family::BOTH.map(keywords).into_iter().filter(|_| dispatch.guarded) {
        writeln!(f, "\t\t{ip} daddr . meta l4proto . th dport . {ip} saddr != @sources{suffix} drop")?;
    }
    match dispatch.action {
        Action::Reject => writeln!(f, "\t\tgoto refuse")?,
        Action::Relay => writeln!(f, "\t\tgoto relay")?,
        Action::Drop => writeln!(f, "\t\tdrop")?,
        Action::Forward { count, affinity_s: 0 } => {
            writeln!(f, "\t\tmeta mark set numgen random mod {count} goto send")?;
        }
        Action::RoundRobin { count, .. } => {
            writeln!(f, "\t\tmeta mark set numgen inc mod {count} goto send")?;
        }
        Action::Forward { count, affinity_s } => {
            Family::BOTH
                .into_iter()
                .try_for_each(|family| write_affinity(f, &keywords(family), count, affinity_s))?;
        }
    }
    writeln!(f, "\t}}\n}}\nadd element {TABLE} picks {{ {} : jump {dispatch} }}\n", dispatch.code())
}

fn write_affinity(f: &mut Formatter<'_>, keywords: &Keywords, count: u16, affinity_s: u32) -> fmt::Result {
    let Keywords { suffix, ip, .. } = keywords;
    let (portal, client) = (portal(ip), client(ip));
    // A known client is sent to its backend. If the backend no longer exists, the entry is deleted, because an update
    // renews an entry without changing its value.
    let update = format!("update @clients{suffix} {{ {client} timeout {affinity_s}s : meta mark }}");
    writeln!(f, "\t\t{PORTS} meta mark set {client} map @clients{suffix} {update} jump send")?;
    writeln!(f, "\t\t{PORTS} delete @clients{suffix} {{ {client} : 0 }}")?;
    let identify = format!("meta mark set {portal} . meta mark map @ids{suffix}");
    writeln!(f, "\t\t{PORTS} meta mark set numgen random mod {count} {identify} {update} goto send")
}

pub(super) fn portal(ip: &str) -> String {
    format!("{ip} daddr . meta l4proto . th dport")
}

/// The key of a client with session affinity. Inside a pod the client is the pod, so the portal identifies it. nft
/// 1.0.6 aborts on an update whose key begins with an IPv6 address, and overwrites a part of a key that ends with one,
/// so the text form loses IPv6 clients; the netlink form does not.
fn client(ip: &str) -> String {
    format!("meta l4proto . th dport . {ip} daddr")
}

/// Writes elements, each with the name of its set. Consecutive elements of one set become one command.
pub(super) fn write_elements(
    f: &mut Formatter<'_>,
    verb: &str,
    table: &str,
    elements: impl Iterator<Item = (&'static str, impl Display)>,
) -> fmt::Result {
    let mut open: Option<&str> = None;
    for (set, element) in elements {
        if open != Some(set) {
            if open.is_some() {
                writeln!(f, "\n}}")?;
            }
            write!(f, "{verb} element {table} {set} {{")?;
            open = Some(set);
        } else {
            f.write_str(",")?;
        }
        write!(f, "\n\t{element}")?;
    }
    if open.is_some() { writeln!(f, "\n}}") } else { Ok(()) }
}

fn text_of(element: Element) -> (&'static str, ElementText) {
    (element.set(), ElementText(element))
}

struct ElementText(Element);

impl Display for ElementText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Element::Portal(key, dispatch) => {
                write_key(f, key)?;
                write!(f, " : {}", dispatch.code())
            }
            Element::Backend(key, number, backend) => {
                write_key(f, key)?;
                write!(f, " . {number} : ")?;
                write_backend(f, backend)
            }
            Element::Id(key, slot, id) => {
                write_key(f, key)?;
                write!(f, " . {slot} : {id}")
            }
            Element::Address(address) => write!(f, "{address}"),
            Element::Source(key, net) => {
                write_key(f, key)?;
                write!(f, " . {net}")
            }
            Element::Range(net) => write!(f, "{net}"),
        }
    }
}

pub(super) fn write_key(f: &mut Formatter<'_>, key: &PortalKey) -> fmt::Result {
    write!(f, "{} . {} . {}", key.address, key.protocol.lower(), key.port)
}

pub(super) fn write_backend(f: &mut Formatter<'_>, backend: &SocketAddr) -> fmt::Result {
    write!(f, "{} . {}", backend.ip(), backend.port())
}

#[cfg(test)]
mod tests;

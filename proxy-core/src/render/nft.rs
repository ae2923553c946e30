//! Rulesets and plans as text that `nft -f` loads.
//!
//! The text says what the netlink form says, within what the language of nft 1.0.6 can express. It cannot
//! carry a looked-up value from one expression to the next, so the packet's mark carries the portal's
//! number, the slot and the number of a sticky client's backend. No `nft` binary is needed on a node: this
//! form is for people, for `portico rules`, and for tests that read it back.

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

/// The three that have ports; a guard that the language demands before a port is translated.
const PORTS: &str = "meta l4proto { tcp, udp, sctp }";

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(settings) = self.settings() else {
            return writeln!(f, "# no table");
        };
        writeln!(
            f,
            "# Made anew as a whole: what stood in the table before is gone when this one is there."
        )?;
        writeln!(f, "table {TABLE}\ndelete table {TABLE}\n")?;
        write_table(f, settings)?;
        self.dispatch_keys().try_for_each(|dispatch| write_dispatch_chain(f, dispatch))?;
        write_elements(f, "add", self.elements())
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut ops = self.ops();
        while let [first, ..] = ops {
            let taken = match first {
                Op::Add(_) => write_run(f, "add", ops, Op::added)?,
                Op::Delete(_) => write_run(f, "delete", ops, Op::deleted)?,
                single => {
                    write_single(f, single)?;
                    1
                }
            };
            ops = &ops[taken..];
        }
        Ok(())
    }
}

/// Writes the elements at the front of `ops` that `element` finds, and says how many they are.
fn write_run(
    f: &mut Formatter<'_>,
    verb: &str,
    ops: &[Op],
    element: fn(Op) -> Option<Element>,
) -> Result<usize, fmt::Error> {
    let run: Vec<Element> = ops.iter().map_while(|op| element(*op)).collect();
    let taken = run.len();
    write_elements(f, verb, run.into_iter())?;
    Ok(taken)
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

/// The words that differ between the families.
struct Words {
    suffix: char,
    ip: &'static str,
    address: &'static str,
}

const fn words(family: Family) -> Words {
    match family {
        Family::V4 => Words { suffix: '4', ip: "ip", address: "ipv4_addr" },
        Family::V6 => Words { suffix: '6', ip: "ip6", address: "ipv6_addr" },
    }
}

fn write_table(f: &mut Formatter<'_>, settings: Settings) -> fmt::Result {
    writeln!(f, "table {TABLE} {{")?;
    for family in Family::BOTH {
        write_sets(f, &words(family), settings)?;
    }
    writeln!(f, "\tmap current {{\n\t\ttype nf_proto : verdict")?;
    writeln!(f, "\t\telements = {{ ipv4 : goto refuse-current, ipv6 : goto refuse-current }}\n\t}}\n")?;
    writeln!(f, "\tmap picks {{\n\t\ttype mark : verdict\n\t}}\n")?;
    // The agent puts the interfaces here that a pod's annotation names.
    writeln!(f, "\tset {GUESTS_SET} {{\n\t\ttype ifname\n\t\tflags interval\n\t}}\n")?;
    // A network namespace without any NAT rule translates nothing and lets everything pass; one whose
    // last such rule goes freezes its connections. This one never matches and never goes.
    writeln!(f, "\tchain anchor {{\n\t\tip daddr 0.0.0.0 tcp dport 1 redirect\n\t}}\n")?;
    // At the instant in which the table is replaced, its maps are empty but its sets are not: a packet that comes here
    // then is dropped, so that the client sends it again and the new table takes it.
    writeln!(f, "\tchain refuse {{\n\t\tmeta nfproto vmap @current\n\t\tdrop\n\t}}\n")?;
    writeln!(f, "\tchain refuse-current {{\n\t\tmeta l4proto tcp reject with tcp reset\n\t\treject\n\t}}\n")?;
    let relay = match settings.has_relay() {
        true => format!("meta l4proto {{ tcp, udp }} redirect to :{}", settings.relay_port),
        false => "meta l4proto { tcp, udp } goto refuse".to_owned(),
    };
    writeln!(f, "\tchain relay {{\n\t\t{relay}\n\t\tdrop\n\t}}\n")?;
    // All chains of picks come here with a number: a map that many rules look into is slow to change.
    writeln!(f, "\tchain send {{")?;
    for Words { suffix, ip, .. } in Family::BOTH.map(words) {
        writeln!(f, "\t\t{PORTS} dnat {ip} to {} . meta mark map @backends{suffix}", portal(ip))?;
    }
    writeln!(f, "\t}}\n\n\tchain portals {{")?;
    for Words { suffix, ip, .. } in Family::BOTH.map(words) {
        writeln!(f, "\t\t{PORTS} meta mark set {} map @portals{suffix} meta mark vmap @picks", portal(ip))?;
    }
    let elsewhere = if settings.on_demand { "goto relay" } else { "drop" };
    for family in Family::BOTH {
        let Words { suffix, ip, .. } = words(family);
        writeln!(f, "\t\t{ip} daddr @addresses{suffix} goto refuse")?;
        writeln!(f, "\t\t{ip} daddr @ranges{suffix} {elsewhere}")?;
    }
    writeln!(f, "\t}}")?;
    write_base_chains(f, settings)?;
    writeln!(f, "}}\n")
}

/// What the pod sends itself meets the portals, and what it forwards for a guest; packets to one of the pod's own
/// addresses do not, nor does what its neighbours send. What was not redirected does not reach the relay.
fn write_base_chains(f: &mut Formatter<'_>, settings: Settings) -> fmt::Result {
    let Settings { nat_priority, relay_port, .. } = settings;
    for hook in ["output", "prerouting"] {
        writeln!(f, "\n\tchain {hook} {{\n\t\ttype nat hook {hook} priority {nat_priority}; policy accept;")?;
        match hook {
            // It was not redirected: that happens behind these rules.
            "output" => {
                // What the pod sends to itself leaves by loopback.
                writeln!(f, "\t\toif != lo goto portals")?;
                for protocol in ["tcp", "udp"] {
                    writeln!(f, "\t\t{protocol} dport {relay_port} fib daddr type local goto refuse")?;
                }
            }
            _ => writeln!(f, "\t\tiifname != @{GUESTS_SET} return")?,
        }
        writeln!(f, "\t\tfib daddr type local return\n\t\tjump portals\n\t}}")?;
    }
    // Of type nat, so that only the first packet of a connection comes here.
    writeln!(f, "\n\tchain input {{\n\t\ttype nat hook input priority 100; policy accept;")?;
    for protocol in ["tcp", "udp"] {
        writeln!(f, "\t\t{protocol} dport {relay_port} ct status & dnat == 0 drop")?;
    }
    writeln!(f, "\t}}")
}

fn write_sets(f: &mut Formatter<'_>, words: &Words, settings: Settings) -> fmt::Result {
    let Words { suffix, address, .. } = words;
    let portal = format!("{address} . inet_proto . inet_service");
    // Each look-up that finds an element counts there; only first packets look.
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
    for Words { suffix, ip, .. } in Family::BOTH.map(words).into_iter().filter(|_| dispatch.guarded) {
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
                .try_for_each(|family| write_sticky(f, &words(family), count, affinity_s))?;
        }
    }
    writeln!(f, "\t}}\n}}\nadd element {TABLE} picks {{ {} : jump {dispatch} }}\n", dispatch.code())
}

fn write_sticky(f: &mut Formatter<'_>, words: &Words, count: u16, affinity_s: u32) -> fmt::Result {
    let Words { suffix, ip, .. } = words;
    let (portal, client) = (portal(ip), client(ip));
    // A client that is known goes to its backend again; where no backend has that number any more its entry
    // is forgotten, because an update renews an entry and does not change what it holds.
    let remember = format!("update @clients{suffix} {{ {client} timeout {affinity_s}s : meta mark }}");
    writeln!(f, "\t\t{PORTS} meta mark set {client} map @clients{suffix} {remember} jump send")?;
    writeln!(f, "\t\t{PORTS} delete @clients{suffix} {{ {client} : 0 }}")?;
    let identify = format!("meta mark set {portal} . meta mark map @ids{suffix}");
    writeln!(f, "\t\t{PORTS} meta mark set numgen random mod {count} {identify} {remember} goto send")
}

fn portal(ip: &str) -> String {
    format!("{ip} daddr . meta l4proto . th dport")
}

/// The key of a sticky client. Inside a pod the client is the pod, so the portal says it all. nft 1.0.6
/// aborts on an update whose key begins with an IPv6 address, and writes the data over a part of one that ends
/// with it, so that it forgets IPv6 clients; the netlink form does not.
fn client(ip: &str) -> String {
    format!("meta l4proto . th dport . {ip} daddr")
}

/// Writes elements; those of one set that follow each other become one command.
fn write_elements(f: &mut Formatter<'_>, verb: &str, elements: impl Iterator<Item = Element>) -> fmt::Result {
    let mut open: Option<&str> = None;
    for element in elements {
        let set = element.set();
        if open != Some(set) {
            if open.is_some() {
                writeln!(f, "\n}}")?;
            }
            write!(f, "{verb} element {TABLE} {set} {{")?;
            open = Some(set);
        } else {
            f.write_str(",")?;
        }
        write!(f, "\n\t{}", ElementText(&element))?;
    }
    if open.is_some() { writeln!(f, "\n}}") } else { Ok(()) }
}

struct ElementText<'a>(&'a Element);

impl Display for ElementText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
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

fn write_key(f: &mut Formatter<'_>, key: &PortalKey) -> fmt::Result {
    write!(f, "{} . {} . {}", key.address, key.protocol.lower(), key.port)
}

fn write_backend(f: &mut Formatter<'_>, backend: &SocketAddr) -> fmt::Result {
    write!(f, "{} . {}", backend.ip(), backend.port())
}

#[cfg(test)]
mod tests;

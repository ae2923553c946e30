//! The table, its sets and its chains, as messages: the netlink form of what `proxy_core::nft` writes as
//! text. What the text form does with the packet's mark is done with registers here.

use proxy_core::address::Family;
use proxy_core::dispatch::{Action, DispatchKey};
use proxy_core::guest::{GUESTS_SET, INTERFACE_BYTES};
use proxy_core::ruleset::Settings;
use proxy_core::service::Protocol;

use crate::attribute::Bytes;
use crate::encode::{TABLE, Writer, protocol_number};
use crate::expression::{Draw, Part, REGISTER, Rule};
use crate::kernel::{LIST_ELEMENT, chain, element, flag, message, rule, set, table};

/// The layout's version stands in the table's comment; another version is replaced as a whole.
pub(crate) const LAYOUT: u32 = 9;
/// How the comment goes on where portals are programmed on demand.
const ON_DEMAND: &str = ", portals on demand";
/// How it ends where portals and backends count.
const COUNTERS: &str = ", counters";
/// The chains from which the first packets of connections go to the portals: what the pod sends, and what it
/// forwards for a guest.
const BASES: [(&str, u32); 2] = [("output", chain::LOCAL_OUT), ("prerouting", chain::PRE_ROUTING)];
/// The chain that keeps what neighbours send to the relay's port from the relay. It is of type nat, so that only the
/// first packet of a connection walks it; what the pod sends to itself never does.
const RELAY_GUARD: &str = "input";
/// Refuses, but only while the table is the current one: see `add_refusal`.
const REFUSE: &str = "refuse";
/// The map that tells whether the table is the current one: its elements are there as long as the table is, and lead to
/// the chain that refuses. See `add_refusal`.
pub(crate) const CURRENT: &str = "current";
/// The chain that answers a packet that is refused.
pub(crate) const REFUSE_CURRENT: &str = "refuse-current";
/// Behind every translation of the destination; the priority of source translation.
const RELAY_GUARD_PRIORITY: i32 = 100;
/// The expression that counts at an element.
const COUNTER: &str = "counter";
const TCP: u8 = protocol_number(Protocol::Tcp);
const UDP: u8 = protocol_number(Protocol::Udp);

const PORTAL: [Part; 3] = [Part::Destination, Part::Protocol, Part::Port];
const CLIENT: [Part; 3] = [Part::Protocol, Part::Port, Part::Destination];
const SOURCE: [Part; 4] = [Part::Destination, Part::Protocol, Part::Port, Part::Source];

/// nft's numbers of the types; a concatenation has six bits for each.
const FAMILY_TYPE: u32 = 2;
const PROTOCOL_TYPE: u32 = 12;
const SERVICE_TYPE: u32 = 13;
const MARK_TYPE: u32 = 19;
const INTERFACE_TYPE: u32 = 41;
/// nft's note on the byte order of a key: type 0, length, the processor's own.
const KEY_IN_HOST_ORDER: u8 = 0;
/// The same of data: type 1.
const DATA_IN_HOST_ORDER: u8 = 1;

/// The comment of the table: its layout, and the settings.
pub(crate) fn comment(settings: Settings) -> String {
    let Settings { nat_priority, relay_port, on_demand, counters } = settings;
    let on_demand = if on_demand { ON_DEMAND } else { "" };
    let counters = if counters { COUNTERS } else { "" };
    format!(
        "portico layout {LAYOUT}, nat priority {nat_priority}, relay port {relay_port}{on_demand}{counters}"
    )
}

/// The settings that a comment of this layout tells.
pub(crate) fn settings(comment: &str) -> Option<Settings> {
    let (layout, rest) = comment.split_once(", nat priority ")?;
    let (nat_priority, relay_port) = rest.split_once(", relay port ")?;
    let (relay_port, counters) = without(relay_port, COUNTERS);
    let (relay_port, on_demand) = without(relay_port, ON_DEMAND);
    let is_ours = layout.strip_prefix("portico layout ")?.parse() == Ok(LAYOUT);
    let nat_priority = nat_priority.parse().ok().filter(|_| is_ours)?;
    Some(Settings { nat_priority, relay_port: relay_port.parse().ok()?, on_demand, counters })
}

/// A text without its ending, and whether it had that.
fn without<'a>(text: &'a str, ending: &str) -> (&'a str, bool) {
    text.strip_suffix(ending).map_or((text, false), |rest| (rest, true))
}

/// Leaves no table, whether there was one or not: what is not there cannot be deleted, so it is made first.
pub(crate) fn clear_table(writer: &mut Writer) {
    writer.message(message::NEWTABLE, flag::CREATE, |bytes| bytes.put_text(table::NAME, TABLE));
    delete_table(writer);
}

pub(crate) fn delete_table(writer: &mut Writer) {
    writer.message(message::DELTABLE, 0, |bytes| bytes.put_text(table::NAME, TABLE));
}

pub(crate) fn add_table(writer: &mut Writer, settings: Settings) {
    writer.message(message::NEWTABLE, flag::CREATE, |bytes| {
        bytes.put_text(table::NAME, TABLE);
        // nft's form of a comment: type 0, length, text.
        let text = comment(settings);
        let mut data = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
        data.extend_from_slice(text.as_bytes());
        data.push(0);
        bytes.put(table::USERDATA, &data);
    });
    let mut sets = Sets { writer, next: 1 };
    Family::BOTH.into_iter().for_each(|family| sets.add_family(family, settings));
    sets.add(CURRENT, set::MAP, FAMILY_TYPE, 1, |bytes| bytes.put_u32(set::DATA_TYPE, set::VERDICT));
    sets.add("picks", set::MAP, MARK_TYPE, 4, |bytes| bytes.put_u32(set::DATA_TYPE, set::VERDICT));
    // Each pod has its own guests, so the elements are not part of the ruleset: see `Batch::with_guests`.
    sets.add(GUESTS_SET, set::INTERVAL, INTERFACE_TYPE, u32::from(INTERFACE_BYTES), |bytes| {
        bytes.put(set::USERDATA, &in_host_order(KEY_IN_HOST_ORDER));
    });
    for name in ["anchor", REFUSE, REFUSE_CURRENT, "relay", "send", "portals"] {
        add_chain(writer, name);
    }
    for (name, hook) in BASES {
        add_base_chain(writer, name, hook, settings.nat_priority);
    }
    add_base_chain(writer, RELAY_GUARD, chain::LOCAL_IN, RELAY_GUARD_PRIORITY);
    // One NAT rule that never matches and never goes: see `proxy_core::nft`.
    add_rule(writer, "anchor", |rule| rule.of_protocol(u8::MAX).redirect(settings.relay_port));
    add_refusal(writer);
    for protocol in [TCP, UDP] {
        add_rule(writer, "relay", |rule| match settings.has_relay() {
            true => rule.of_protocol(protocol).redirect(settings.relay_port),
            false => rule.of_protocol(protocol).verdict(element::GOTO, Some("refuse")),
        });
    }
    // What cannot be relayed does not go past the relay either.
    add_rule(writer, "relay", |rule| rule.verdict(element::DROP, None));
    // All chains of picks come here with a number: a map that many rules look into is slow to change.
    for family in Family::BOTH {
        add_rule(writer, "send", |rule| {
            let number = rule.of_family(family).load(family, &PORTAL);
            rule.take(number).look_up(&named("backends", family), REGISTER).translate(family);
        });
    }
    add_portal_rules(writer, settings.on_demand);
    add_base_rules(writer, settings.relay_port);
}

/// A packet that is among the rules at the instant in which their table is replaced finds the maps empty at once, but the
/// plain sets full: the kernel takes away the elements of maps only. It would be refused as one to a port that is no portal.
/// So only a table whose map `current` still has its elements refuses; in any other the packet is dropped, the client sends
/// it again, and the new table takes it.
fn add_refusal(writer: &mut Writer) {
    add_rule(writer, REFUSE, |rule| rule.load_family().verdict_of(CURRENT, REGISTER));
    add_rule(writer, REFUSE, |rule| rule.verdict(element::DROP, None));
    add_rule(writer, REFUSE_CURRENT, |rule| rule.of_protocol(TCP).refuse(true));
    add_rule(writer, REFUSE_CURRENT, |rule| rule.refuse(false));
    writer.current_elements();
}

/// Who meets the portals: the pod and its guests, but for packets to one of the pod's own addresses. Neighbours on the
/// pod's networks do not.
fn add_base_rules(writer: &mut Writer, relay_port: u16) {
    add_rule(writer, "prerouting", |rule| {
        rule.load_interface().is_in(GUESTS_SET, false).verdict(element::RETURN, None);
    });
    // What the pod sends to itself leaves by loopback, so everything else goes on at once: what looks into a map when its
    // table has just been replaced finds nothing, and each look-up before that would make it more likely.
    add_rule(writer, "output", |rule| rule.leaving().verdict(element::GOTO, Some("portals")));
    // What the pod itself sends to the relay's port was not redirected either: that happens behind these rules.
    for protocol in [TCP, UDP] {
        add_rule(writer, "output", |rule| {
            rule.of_protocol(protocol).for_port(relay_port).for_own_address();
            rule.verdict(element::GOTO, Some(REFUSE));
        });
    }
    for (name, _) in BASES {
        add_rule(writer, name, |rule| rule.for_own_address().verdict(element::RETURN, None));
        add_rule(writer, name, |rule| rule.verdict(element::JUMP, Some("portals")));
    }
    for protocol in [TCP, UDP] {
        add_rule(writer, RELAY_GUARD, |rule| {
            rule.of_protocol(protocol).for_port(relay_port).not_redirected().verdict(element::DROP, None);
        });
    }
}

fn add_portal_rules(writer: &mut Writer, on_demand: bool) {
    let elsewhere = if on_demand { (element::GOTO, Some("relay")) } else { (element::DROP, None) };
    for family in Family::BOTH {
        add_rule(writer, "portals", |rule| {
            let next = rule.of_family(family).load(family, &PORTAL);
            rule.look_up(&named("portals", family), next).measured(next).verdict_of("picks", next);
        });
    }
    for family in Family::BOTH {
        add_rule(writer, "portals", |rule| {
            rule.of_family(family).load(family, &[Part::Destination]);
            rule.is_in(&named("addresses", family), true).verdict(element::GOTO, Some(REFUSE));
        });
        add_rule(writer, "portals", |rule| {
            rule.of_family(family).load(family, &[Part::Destination]);
            rule.is_in(&named("ranges", family), true).verdict(elsewhere.0, elsewhere.1);
        });
    }
}

pub(crate) fn add_pick(writer: &mut Writer, pick: DispatchKey) {
    let name = pick.to_string();
    add_chain(writer, &name);
    for family in Family::BOTH.into_iter().filter(|_| pick.guarded) {
        add_rule(writer, &name, |rule| {
            rule.of_family(family).load(family, &SOURCE);
            rule.is_in(&named("sources", family), false).verdict(element::DROP, None);
        });
    }
    match pick.action {
        Action::Reject => add_rule(writer, &name, |rule| rule.verdict(element::GOTO, Some(REFUSE))),
        Action::Relay => add_rule(writer, &name, |rule| rule.verdict(element::GOTO, Some("relay"))),
        Action::Drop => add_rule(writer, &name, |rule| rule.verdict(element::DROP, None)),
        Action::Forward { count, affinity_s: 0 } => add_forward(writer, &name, Draw::Random(count)),
        Action::RoundRobin { count, .. } => add_forward(writer, &name, Draw::InTurn(count)),
        Action::Forward { count, affinity_s } => {
            Family::BOTH.into_iter().for_each(|family| add_sticky(writer, &name, family, count, affinity_s));
        }
    }
    writer.pick_element(message::NEWSETELEM, pick);
}

pub(crate) fn delete_pick(writer: &mut Writer, pick: DispatchKey) {
    writer.pick_element(message::DELSETELEM, pick);
    writer.message(message::DELCHAIN, 0, |bytes| {
        bytes.put_text(chain::TABLE, TABLE);
        bytes.put_text(chain::NAME, &pick.to_string());
    });
}

fn add_forward(writer: &mut Writer, chain: &str, draw: Draw) {
    add_rule(writer, chain, |rule| {
        rule.draw(draw, REGISTER).leave(REGISTER).verdict(element::GOTO, Some("send"));
    });
}

/// As in the text form: a known client goes to its backend again, an entry whose backend is gone is
/// forgotten, and a new client is remembered. Both keys end before the same register: that of the slot, and
/// then of the backend's number.
fn add_sticky(writer: &mut Writer, chain: &str, family: Family, count: u16, affinity_s: u32) {
    let clients = named("clients", family);
    add_rule(writer, chain, |rule| {
        let id = rule.of_family(family).load(family, &CLIENT);
        rule.look_up(&clients, id).measured(id).remember(&clients, id, affinity_s);
        rule.verdict(element::JUMP, Some("send"));
    });
    add_rule(writer, chain, |rule| {
        let id = rule.of_family(family).load(family, &CLIENT);
        rule.set(id, &[0; 4]).forget(&clients, id);
    });
    add_rule(writer, chain, |rule| {
        let id = rule.of_family(family).load(family, &PORTAL);
        rule.draw(Draw::Random(count), id).look_up(&named("ids", family), id).measured(id);
        rule.load(family, &CLIENT);
        rule.remember(&clients, id, affinity_s).verdict(element::GOTO, Some("send"));
    });
}

fn add_chain(writer: &mut Writer, name: &str) {
    writer.message(message::NEWCHAIN, flag::CREATE, |bytes| {
        bytes.put_text(chain::TABLE, TABLE);
        bytes.put_text(chain::NAME, name);
    });
}

fn add_base_chain(writer: &mut Writer, name: &str, hook: u32, priority: i32) {
    writer.message(message::NEWCHAIN, flag::CREATE, |bytes| {
        bytes.put_text(chain::TABLE, TABLE);
        bytes.put_text(chain::NAME, name);
        bytes.nest(chain::HOOK, |bytes| {
            bytes.put_u32(chain::HOOK_NUMBER, hook);
            bytes.put(chain::HOOK_PRIORITY, &priority.to_be_bytes());
        });
        bytes.put_text(chain::TYPE, "nat");
        bytes.put_u32(chain::POLICY, chain::ACCEPT);
    });
}

fn add_rule(writer: &mut Writer, chain: &str, fill: impl FnOnce(&mut Rule<'_>)) {
    writer.message(message::NEWRULE, flag::CREATE | flag::APPEND, |bytes| {
        bytes.put_text(rule::TABLE, TABLE);
        bytes.put_text(rule::CHAIN, chain);
        bytes.nest(rule::EXPRESSIONS, |bytes| fill(&mut Rule(bytes)));
    });
}

/// A set's name in a family.
pub(crate) fn named(set: &str, family: Family) -> String {
    match family {
        Family::V4 => format!("{set}4"),
        Family::V6 => format!("{set}6"),
    }
}

/// Each look-up that finds an element counts there; only first packets look.
fn put_counter(map: &mut Bytes, counts: bool) {
    if counts {
        map.nest(set::EXPRESSION, |bytes| {
            bytes.put_text(rule::EXPRESSION_NAME, COUNTER);
            bytes.nest(rule::EXPRESSION_DATA, |_| {});
        });
    }
}

/// nft's note that a key or data is in the processor's byte order: type, length, and the number of that order.
fn in_host_order(kind: u8) -> [u8; 6] {
    let [first, second, third, fourth] = 1_u32.to_ne_bytes();
    [kind, 4, first, second, third, fourth]
}

/// Adds sets; each has a number within the transaction.
struct Sets<'a> {
    writer: &'a mut Writer,
    next: u32,
}

impl Sets<'_> {
    fn add(&mut self, name: &str, flags: u32, key: u32, key_bytes: u32, fill: impl FnOnce(&mut Bytes)) {
        let id = self.next;
        self.next += 1;
        self.writer.message(message::NEWSET, flag::CREATE, |bytes| {
            bytes.put_text(set::TABLE, TABLE);
            bytes.put_text(set::NAME, name);
            bytes.put_u32(set::FLAGS, flags);
            bytes.put_u32(set::KEY_TYPE, key);
            bytes.put_u32(set::KEY_LENGTH, key_bytes);
            bytes.put_u32(set::ID, id);
            fill(bytes);
        });
    }

    fn add_family(&mut self, family: Family, settings: Settings) {
        let (address, bytes) = match family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        };
        let concatenated = |types: &[u32]| types.iter().fold(0, |all, one| all << 6 | one);
        let portal = [address, PROTOCOL_TYPE, SERVICE_TYPE];
        let socket = concatenated(&[address, SERVICE_TYPE]);
        let number = |data: &mut Bytes| {
            data.put_u32(set::DATA_TYPE, MARK_TYPE);
            data.put_u32(set::DATA_LENGTH, 4);
        };
        self.add(&named("portals", family), set::MAP, concatenated(&portal), bytes + 8, |data| {
            number(data);
            put_counter(data, settings.counts_portals());
        });
        let slot = concatenated(&[address, PROTOCOL_TYPE, SERVICE_TYPE, MARK_TYPE]);
        self.add(&named("backends", family), set::MAP, slot, bytes + 12, |data| {
            data.put_u32(set::DATA_TYPE, socket);
            data.put_u32(set::DATA_LENGTH, bytes + 4);
            put_counter(data, settings.counters);
        });
        self.add(&named("ids", family), set::MAP, slot, bytes + 12, |data| {
            number(data);
            data.put(set::USERDATA, &in_host_order(DATA_IN_HOST_ORDER));
        });
        let client = concatenated(&[PROTOCOL_TYPE, SERVICE_TYPE, address]);
        let timed = set::MAP | set::TIMEOUT | set::EVALUATED;
        // No size is declared: the kernel bounds it anyway, and would make room for all at once (4 MB, 12 ms).
        self.add(&named("clients", family), timed, client, bytes + 8, number);
        self.add(&named("addresses", family), 0, address, bytes, |_| {});
        let source = concatenated(&[address, PROTOCOL_TYPE, SERVICE_TYPE, address]);
        let ranges = set::INTERVAL | set::CONCATENATION;
        self.add(&named("sources", family), ranges, source, 2 * bytes + 8, |data| {
            data.nest(set::DESCRIPTION, |data| {
                data.nest(set::DESCRIPTION_FIELDS, |data| {
                    for length in [bytes, 1, 2, bytes] {
                        data.nest(LIST_ELEMENT, |data| data.put_u32(set::FIELD_LENGTH, length));
                    }
                });
            });
        });
        self.add(&named("ranges", family), set::INTERVAL, address, bytes, |_| {});
    }
}

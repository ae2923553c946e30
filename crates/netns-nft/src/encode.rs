//! A plan as one batch of netlink messages: the kernel takes all of it or nothing.
//!
//! The bytes do not depend on the network namespace, so a plan is encoded once and sent to many. What must
//! not go in here: sockets.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_core::address::Family;
use proxy_core::dispatch::DispatchKey;
use proxy_core::guest::{GUESTS_SET, GuestInterfaces};
use proxy_core::plan::{Op, Plan, plan};
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::{Element, Ruleset};
use proxy_core::service::Protocol;

use crate::attribute::{Bytes, HEADER_BYTES, Open};
use crate::expression::{family_number, put_verdict};
use crate::kernel::{BATCH_BEGIN, BATCH_END, INET, LIST_ELEMENT, SUBSYSTEM, element, flag, message};
use crate::layout;

/// The name of the table, in family inet.
pub(crate) const TABLE: &str = "portico";
/// An element is never larger than this.
const ELEMENT_BYTES_MAX: usize = 160;

/// The messages of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// The operation that each message begins with; the first and the last frame the batch. Empty: not known.
    pub(crate) ops: Vec<Option<Op>>,
}

impl Batch {
    /// A batch from the bytes of another. Its operations are not known, so where the kernel refuses one, the
    /// error cannot name it.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes, ops: Vec::new() }
    }

    /// What is sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes are sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// The last message of a batch, which frames it: netlink's header and netfilter's own.
const FRAME_BYTES: usize = HEADER_BYTES + 4;

impl Batch {
    /// The same transaction with the guests of one pod, for a batch that makes the table: a pod's guests are its own,
    /// while everything else is the same for every pod of a view.
    #[must_use]
    pub fn with_guests(&self, guests: &GuestInterfaces) -> Self {
        let Some(at) = self.bytes.len().checked_sub(FRAME_BYTES).filter(|_| !guests.is_empty()) else {
            return self.clone();
        };
        let (operations, frame) = self.bytes.split_at(at);
        let mut bytes = Bytes(operations.to_vec());
        let kind = SUBSYSTEM << 8 | message::NEWSETELEM;
        // No operation of the plan has this sequence number.
        let open = bytes.open_message(kind, flag::REQUEST | flag::CREATE, u32::MAX, INET, 0);
        bytes.put_text(element::TABLE, TABLE);
        bytes.put_text(element::SET, GUESTS_SET);
        bytes.nest(element::ELEMENTS, |bytes| {
            for guest in guests.iter() {
                put_interval(bytes, &guest.first(), Some(&guest.end()));
            }
        });
        bytes.close_message(&open);
        bytes.0.extend_from_slice(frame);
        Self { bytes: bytes.0, ops: self.ops.clone() }
    }
}

/// An interval of a set. Its end is the first key behind it; none: it goes to the last of all.
fn put_interval(bytes: &mut Bytes, first: &[u8], end: Option<&[u8]>) {
    bytes.nest(LIST_ELEMENT, |bytes| put_value(bytes, element::KEY, first));
    if let Some(end) = end {
        bytes.nest(LIST_ELEMENT, |bytes| {
            put_value(bytes, element::KEY, end);
            bytes.put_u32(element::FLAGS, element::INTERVAL_END);
        });
    }
}

/// Encodes a plan; a plan without operations gives a batch without bytes.
#[must_use]
pub fn encode(plan: &Plan) -> Batch {
    if plan.is_empty() { Batch::default() } else { batch(|writer| writer.ops(plan.ops())) }
}

/// Encodes the transaction after which a network namespace holds exactly this ruleset, whatever it held
/// before under the table's name: nothing, something damaged, another layout.
#[must_use]
pub fn encode_fresh(ruleset: &Ruleset) -> Batch {
    batch(|writer| {
        writer.op = Some(Op::DeleteTable);
        layout::clear_table(writer);
        writer.ops(plan(&Ruleset::empty(), ruleset).ops());
    })
}

fn batch(fill: impl FnOnce(&mut Writer)) -> Batch {
    let mut writer = Writer::default();
    writer.frame(BATCH_BEGIN);
    fill(&mut writer);
    writer.acknowledge();
    writer.frame(BATCH_END);
    Batch { bytes: writer.bytes.0, ops: writer.ops }
}

/// Writes messages and remembers which operation each stands for.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Bytes,
    ops: Vec<Option<Op>>,
    op: Option<Op>,
    last: Option<Open>,
}

impl Writer {
    fn frame(&mut self, kind: u16) {
        let open = self.bytes.open_message(kind, flag::REQUEST, self.sequence(), 0, SUBSYSTEM);
        self.bytes.close_message(&open);
        self.ops.push(None);
    }

    /// Has the last operation's success told. Kernels before 6.10 answer to no frame of a batch.
    fn acknowledge(&mut self) {
        if let Some(last) = &self.last {
            self.bytes.add_flags(last, flag::ACK);
        }
    }

    fn sequence(&self) -> u32 {
        u32::try_from(self.ops.len()).unwrap_or(u32::MAX)
    }

    fn open(&mut self, kind: u16, flags: u16) -> Open {
        let kind = SUBSYSTEM << 8 | kind;
        self.bytes.open_message(kind, flag::REQUEST | flags, self.sequence(), INET, 0)
    }

    fn close(&mut self, open: Open) {
        self.bytes.close_message(&open);
        self.ops.push(self.op);
        self.last = Some(open);
    }

    /// Writes one message.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Bytes)) {
        let open = self.open(kind, flags);
        fill(&mut self.bytes);
        self.close(open);
    }

    fn ops(&mut self, mut ops: &[Op]) {
        while let [first, ..] = ops {
            let taken = self.op(*first, ops);
            ops = &ops[taken..];
        }
    }

    /// Writes the operation at the front of `ops`, with those behind it that go into the same message, and
    /// says how many they are.
    fn op(&mut self, op: Op, ops: &[Op]) -> usize {
        self.op = Some(op);
        match op {
            Op::DeleteTable => layout::delete_table(self),
            Op::AddTable(settings) => layout::add_table(self, settings),
            Op::AddDispatch(pick) => layout::add_pick(self, pick),
            Op::DeleteDispatch(pick) => layout::delete_pick(self, pick),
            Op::Add(first) => return self.elements(message::NEWSETELEM, first, ops, Op::added),
            Op::Delete(first) => return self.elements(message::DELSETELEM, first, ops, Op::deleted),
        }
        1
    }

    /// One message for the elements of one set that stand together, as far as they fit.
    fn elements(&mut self, kind: u16, first: Element, ops: &[Op], of: fn(Op) -> Option<Element>) -> usize {
        let set = first.set();
        let create = if kind == message::NEWSETELEM { flag::CREATE } else { 0 };
        let message = self.open(kind, create);
        self.bytes.put_text(element::TABLE, TABLE);
        self.bytes.put_text(element::SET, set);
        let list = self.bytes.open(element::ELEMENTS);
        let mut taken = 0;
        for element in ops.iter().map_while(|op| of(*op)).take_while(|element| element.set() == set) {
            if !self.bytes.has_room(&list, 2 * ELEMENT_BYTES_MAX) {
                break;
            }
            put_element(&mut self.bytes, &element);
            taken += 1;
        }
        self.bytes.close(&list);
        self.close(message);
        taken
    }

    /// The elements of `current`.
    pub(crate) fn current_elements(&mut self) {
        self.message(message::NEWSETELEM, flag::CREATE, |bytes| {
            bytes.put_text(element::TABLE, TABLE);
            bytes.put_text(element::SET, layout::CURRENT);
            bytes.nest(element::ELEMENTS, |bytes| {
                for family in Family::BOTH {
                    let key = [family_number(family)];
                    put_verdict_element(bytes, &key, element::GOTO, layout::REFUSE_CURRENT);
                }
            });
        });
    }

    /// One element of `picks`.
    pub(crate) fn pick_element(&mut self, kind: u16, pick: DispatchKey) {
        let create = if kind == message::NEWSETELEM { flag::CREATE } else { 0 };
        self.message(kind, create, |bytes| {
            bytes.put_text(element::TABLE, TABLE);
            bytes.put_text(element::SET, "picks");
            bytes.nest(element::ELEMENTS, |bytes| {
                put_verdict_element(bytes, &number(&pick), element::JUMP, &pick.to_string());
            });
        });
    }
}

/// A pick's number as it stands in both maps. To the kernel it is four bytes; nft shows them in this order.
fn number(pick: &DispatchKey) -> [u8; 4] {
    pick.code().to_be_bytes()
}

fn put_value(bytes: &mut Bytes, kind: u16, value: &[u8]) {
    bytes.nest(kind, |bytes| bytes.put(element::VALUE, value));
}

fn put_verdict_element(bytes: &mut Bytes, key: &[u8], code: i32, chain: &str) {
    bytes.nest(LIST_ELEMENT, |bytes| {
        put_value(bytes, element::KEY, key);
        bytes.nest(element::DATA, |bytes| put_verdict(bytes, code, Some(chain)));
    });
}

fn put_element(bytes: &mut Bytes, element: &Element) {
    match element {
        Element::Portal(key, pick) => bytes.nest(LIST_ELEMENT, |bytes| {
            put_value(bytes, element::KEY, &portal_key(key, &[]));
            put_value(bytes, element::DATA, &number(pick));
        }),
        Element::Backend(key, number, backend) => bytes.nest(LIST_ELEMENT, |bytes| {
            put_value(bytes, element::KEY, &portal_key(key, &number.to_ne_bytes()));
            put_value(bytes, element::DATA, &socket(backend));
        }),
        Element::Id(key, slot, id) => bytes.nest(LIST_ELEMENT, |bytes| {
            put_value(bytes, element::KEY, &portal_key(key, &u32::from(*slot).to_ne_bytes()));
            put_value(bytes, element::DATA, &id.to_ne_bytes());
        }),
        Element::Address(address) => bytes.nest(LIST_ELEMENT, |bytes| {
            put_value(bytes, element::KEY, &octets(*address));
        }),
        Element::Source(key, net) => bytes.nest(LIST_ELEMENT, |bytes| {
            put_value(bytes, element::KEY, &portal_key(key, &octets(net.network())));
            put_value(bytes, element::KEY_END, &portal_key(key, &octets(net.broadcast())));
        }),
        Element::Range(net) => {
            put_interval(bytes, &octets(net.network()), behind(net).map(octets).as_deref());
        }
    }
}

/// The first address behind a network.
pub(crate) fn behind(net: &IpNet) -> Option<IpAddr> {
    match net.broadcast() {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The number of a protocol in the IP header.
pub(crate) const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Address, protocol and port, each filling whole registers, and what follows them.
fn portal_key(key: &PortalKey, rest: &[u8]) -> Vec<u8> {
    let mut bytes = octets(key.address);
    bytes.extend_from_slice(&[protocol_number(key.protocol), 0, 0, 0]);
    bytes.extend_from_slice(&key.port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(rest);
    bytes
}

fn socket(backend: &SocketAddr) -> Vec<u8> {
    let mut bytes = octets(backend.ip());
    bytes.extend_from_slice(&backend.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::Attributes;
    use proxy_core::plan::{plan, plan_changed};
    use proxy_core::portal::{NodeContext, portals};
    use proxy_core::ruleset::{Ruleset, Settings};
    use proxy_core::sample::{cluster, cluster_slice};
    use proxy_core::snapshot::{Change, Snapshot};

    fn messages(batch: &Batch) -> Vec<(u16, &[u8])> {
        let (mut rest, mut found) = (&batch.bytes[..], Vec::new());
        while let Some(length) = rest.first_chunk::<4>() {
            let length = u32::from_ne_bytes(*length) as usize;
            found.push((u16::from_ne_bytes([rest[4], rest[5]]) & 0xff, &rest[HEADER_BYTES + 4..length]));
            rest = &rest[length..];
        }
        found
    }

    fn world(services: u32) -> (Snapshot, Ruleset) {
        let snapshot: Snapshot = cluster(services, 3).collect();
        let ruleset = Ruleset::new(&portals(&snapshot, &NodeContext::default()), Settings::default());
        (snapshot, ruleset)
    }

    #[test]
    fn a_plan_without_operations_sends_nothing() {
        let (_, ruleset) = world(3);
        assert!(encode(&plan(&ruleset, &ruleset)).is_empty());
    }

    #[test]
    fn every_element_is_in_a_message_whose_list_fits_its_length() {
        let (_, ruleset) = world(5_000);
        let batch = encode(&plan(&Ruleset::empty(), &ruleset));
        let messages = messages(&batch);
        assert_eq!(messages.len(), batch.ops.len(), "each message has its operation");
        let lists = messages.iter().filter(|(kind, _)| *kind == message::NEWSETELEM);
        let lists: Vec<Attributes<'_>> =
            lists.map(|(_, body)| Attributes(body).within(element::ELEMENTS)).collect();
        assert!(lists.len() > 10, "{} messages", lists.len());
        let elements: usize = lists.iter().map(|list| list.count()).sum();
        // The map `current` has an element for each family.
        let current = Family::BOTH.len();
        assert_eq!(elements, ruleset.elements().count() + ruleset.dispatch_keys().count() + current);
    }

    #[test]
    fn one_changed_endpoint_is_four_small_messages() {
        let (mut snapshot, applied) = world(100);
        let mut portals = portals(&snapshot, &NodeContext::default());
        let changed = snapshot.apply(Change::Slice(cluster_slice(7, 3, 1)));
        let touched = portals.refresh(&snapshot, &NodeContext::default(), &changed);
        let mut desired = applied.clone();
        desired.refresh(&portals, &touched);
        let batch = encode(&plan_changed(&applied, &desired, &touched));
        let kinds: Vec<u16> = messages(&batch).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [BATCH_BEGIN, message::DELSETELEM, message::NEWSETELEM, BATCH_END]);
        assert!(batch.len() < 400, "{} bytes", batch.len());
    }
}

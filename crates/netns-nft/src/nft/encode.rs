//! Encodes a pod's plan as one batch of netlink messages, which the kernel applies as a whole or not at all.
//!
//! The bytes do not depend on the network namespace, so a plan is encoded once and sent to many. Consecutive elements
//! of one set share a message as far as they fit.

use proxy_core::guest::GuestInterfaces;
use proxy_core::plan::{Op, Plan, plan};
use proxy_core::ruleset::{Element, Ruleset};

use crate::netlink::batch::{Batch, BatchOp, BatchWriter};
use crate::netlink::uapi::*;
use crate::nft::element::{put_element, put_interval};
use crate::nft::names::{TABLE, set};
use crate::nft::schema;
use crate::nft::table_writer::{ElementChange, TableWriter};

/// Encodes a plan; a plan without operations results in an empty batch.
#[must_use]
pub fn encode(plan: &Plan) -> Batch {
    if plan.is_empty() {
        return Batch::default();
    }
    BatchWriter::batch(|batch| put_ops(&mut TableWriter::new(batch, TABLE), plan.ops()))
}

/// Encodes the transaction after which a network namespace contains exactly this ruleset, whatever its table contained
/// before: nothing, drift, or another layout.
#[must_use]
pub fn encode_fresh(ruleset: &Ruleset) -> Batch {
    BatchWriter::batch(|batch| {
        let mut table = TableWriter::new(batch, TABLE);
        table.batch.op = Some(BatchOp::Pod(Op::DeleteTable));
        table.clear();
        put_ops(&mut table, plan(&Ruleset::empty(), ruleset).ops());
    })
}

impl Batch {
    /// Adds the guests of one pod to a batch that creates the table. A pod has its own guests, while everything else is
    /// the same for every pod of a view.
    #[must_use]
    pub fn with_guests(&self, guests: &GuestInterfaces) -> Self {
        if guests.is_empty() {
            return self.clone();
        }
        self.with_message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, |buffer| {
            buffer.put_string(NFTA_SET_ELEM_LIST_TABLE, TABLE);
            buffer.put_string(NFTA_SET_ELEM_LIST_SET, set::GUESTS);
            buffer.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |buffer| {
                for guest in guests.iter() {
                    put_interval(buffer, &guest.first(), Some(&guest.end()));
                }
            });
        })
    }
}

fn put_ops(table: &mut TableWriter<'_>, mut ops: &[Op]) {
    while let [first, ..] = ops {
        let count = put_op(table, *first, ops);
        ops = &ops[count..];
    }
}

/// Writes the first of `ops`, with those after it that share its message. Returns their number.
fn put_op(table: &mut TableWriter<'_>, op: Op, ops: &[Op]) -> usize {
    table.batch.op = Some(BatchOp::Pod(op));
    match op {
        Op::DeleteTable => table.delete(),
        Op::AddTable(settings) => schema::add_table(table, settings),
        Op::AddDispatch(dispatch) => schema::add_dispatch_key(table, dispatch),
        Op::DeleteDispatch(dispatch) => schema::delete_dispatch_key(table, dispatch),
        Op::Add(first) => return put_elements(table, ElementChange::Add, first, ops, Op::added),
        Op::Delete(first) => return put_elements(table, ElementChange::Delete, first, ops, Op::deleted),
    }
    1
}

/// Writes a message with the first elements of `ops` that belong to the set of `first`, as far as they fit.
fn put_elements(
    table: &mut TableWriter<'_>,
    change: ElementChange,
    first: Element,
    ops: &[Op],
    element_of: fn(Op) -> Option<Element>,
) -> usize {
    let set = first.set();
    let elements = ops.iter().map_while(|op| element_of(*op)).take_while(|element| element.set() == set);
    table.put_elements(change, set, elements, put_element)
}

#[cfg(test)]
mod tests {
    use proxy_core::address::Family;
    use proxy_core::digest::digest_bytes;
    use proxy_core::dispatch::{Action, DispatchKey};
    use proxy_core::plan::{plan, plan_changed};
    use proxy_core::portal::{NodeContext, portals};
    use proxy_core::ruleset::{Ruleset, Settings};
    use proxy_core::sample::{cluster, cluster_slice};
    use proxy_core::snapshot::{Change, Snapshot};

    use super::*;
    use crate::netlink::attributes::{Attributes, HEADER_BYTES, NFGENMSG_BYTES};
    use crate::nft::sample::sample_ruleset;

    fn messages(batch: &Batch) -> Vec<(u16, &[u8])> {
        let (mut rest, mut found) = (&batch.bytes[..], Vec::new());
        while let Some(length) = rest.first_chunk::<4>() {
            let length = u32::from_ne_bytes(*length) as usize;
            found.push((
                u16::from_ne_bytes([rest[4], rest[5]]) & 0xff,
                &rest[HEADER_BYTES + NFGENMSG_BYTES..length],
            ));
            rest = &rest[length..];
        }
        found
    }

    fn cluster_ruleset(services: u32) -> (Snapshot, Ruleset) {
        let snapshot: Snapshot = cluster(services, 3).collect();
        let ruleset = Ruleset::new(&portals(&snapshot, &NodeContext::default()), Settings::default());
        (snapshot, ruleset)
    }

    #[test]
    fn empty_plan_encodes_to_empty_batch() {
        let (_, ruleset) = cluster_ruleset(3);
        assert!(encode(&plan(&ruleset, &ruleset)).is_empty());
    }

    #[test]
    fn elements_are_split_into_messages_that_fit() {
        let (_, ruleset) = cluster_ruleset(5_000);
        let batch = encode(&plan(&Ruleset::empty(), &ruleset));
        let messages = messages(&batch);
        assert_eq!(messages.len(), batch.ops.len(), "each message has its operation");
        let lists = messages.iter().filter(|(kind, _)| *kind == NFT_MSG_NEWSETELEM);
        let lists: Vec<Attributes<'_>> =
            lists.map(|(_, body)| Attributes(body).nested(NFTA_SET_ELEM_LIST_ELEMENTS)).collect();
        assert!(lists.len() > 10, "{} messages", lists.len());
        let elements: usize = lists.iter().map(|list| list.count()).sum();
        // The map `current` has an element for each family.
        let current = Family::BOTH.len();
        assert_eq!(elements, ruleset.elements().count() + ruleset.dispatch_keys().count() + current);
    }

    #[test]
    fn changed_endpoint_is_four_small_messages() {
        let (mut snapshot, applied) = cluster_ruleset(100);
        let mut portals = portals(&snapshot, &NodeContext::default());
        let changed = snapshot.apply(Change::Slice(cluster_slice(7, 3, 1)));
        let touched = portals.refresh(&snapshot, &NodeContext::default(), &changed);
        let mut desired = applied.clone();
        desired.refresh(&portals, &touched);
        let batch = encode(&plan_changed(&applied, &desired, &touched));
        let kinds: Vec<u16> = messages(&batch).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [NFNL_MSG_BATCH_BEGIN, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NFNL_MSG_BATCH_END]);
        assert!(batch.len() < 400, "{} bytes", batch.len());
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn encoded_bytes_of_this_layout_are_stable() {
        let mut digests = Vec::new();
        for (relay_port, on_demand, counters) in
            [(0, false, false), (15_001, true, true), (15_001, false, false)]
        {
            let ruleset = sample_ruleset(Settings { relay_port, on_demand, counters, ..Settings::default() });
            let batch = encode_fresh(&ruleset);
            let guests = GuestInterfaces::parse("vm*, tap0").expect("guests");
            digests.push(digest_bytes(batch.as_bytes()));
            digests.push(digest_bytes(batch.with_guests(&guests).as_bytes()));
            digests.push(digest_bytes(encode(&plan(&ruleset, &Ruleset::empty())).as_bytes()));
        }
        for guarded in [false, true] {
            for action in [
                Action::Reject,
                Action::Relay,
                Action::Drop,
                Action::Forward { count: 3, affinity_s: 0 },
                Action::Forward { count: 3, affinity_s: 60 },
                Action::RoundRobin { number: 5, count: 3 },
            ] {
                let batch = BatchWriter::batch(|batch| {
                    let mut table = TableWriter::new(batch, TABLE);
                    schema::add_dispatch_key(&mut table, DispatchKey { action, guarded });
                    schema::delete_dispatch_key(&mut table, DispatchKey { action, guarded });
                });
                digests.push(digest_bytes(batch.as_bytes()));
            }
        }
        // A change of these is a change of the layout, whose version is a part of the table's comment.
        assert_eq!(
            digests,
            [
                0xf9c8_d143_13ee_bb84,
                0x3e77_968a_015e_ef3e,
                0x1904_838f_ad83_5942,
                0x6a37_621e_730f_0d1c,
                0xd9f1_b07b_0c26_2ade,
                0x1904_838f_ad83_5942,
                0x03bb_afd0_445a_2ad6,
                0xa171_42f0_a5cb_2130,
                0x1904_838f_ad83_5942,
                0xac96_1bf1_7e97_1dd6,
                0xa21e_00bf_bbc0_d257,
                0x0038_fccc_4029_8b72,
                0x8f5f_0b50_4457_4391,
                0x0fba_2456_9940_cbdf,
                0xed87_7580_1486_b24d,
                0x8b09_8bb7_b489_1b04,
                0x4657_22c4_0f03_6417,
                0xef10_0198_6b5c_06dc,
                0x5e41_c4b3_9f8d_0f2d,
                0xeb24_698f_b2d5_3281,
                0x2cee_17a9_bb8c_1d73,
            ]
        );
    }
}

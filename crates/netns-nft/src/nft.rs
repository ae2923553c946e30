//! nf_tables: Portico's table as netlink messages, and the way back from the kernel's replies.
//!
//! `anchor` is a second table, which keeps NAT registered, and `dns_table` a third one, which passes DNS queries to the
//! agent; `monitor` reports what other processes change; `chain_list`
//! lists the chains of all tables, and `kube_proxy` finds and removes those of kube-proxy.
//!
//! ```text
//! names, element, expression, set_type ◄── table_writer ◄── sets, schema ◄── encode
//!                                                              schema ◄── schema_check ◄── read ◄── counters
//! ```

pub(crate) mod anchor;
pub(crate) mod chain_list;
pub(crate) mod counters;
pub(crate) mod dns_table;
pub(crate) mod element;
pub(crate) mod encode;
pub(crate) mod expression;
pub(crate) mod generation_span;
pub(crate) mod kube_proxy;
pub(crate) mod monitor;
pub(crate) mod names;
pub(crate) mod node;
pub(crate) mod ownership;
pub(crate) mod read;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod schema;
pub(crate) mod schema_check;
pub(crate) mod set_type;
pub(crate) mod sets;
pub(crate) mod snapshot_file;
pub(crate) mod table_writer;
pub(crate) mod value_bytes;

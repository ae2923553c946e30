//! Constants of the kernel's netlink interfaces, as far as Portico uses them, with the kernel's names.
//!
//! `libc` has message types, flags and values, but as `c_int`; here they have the width that they have in a message.
//! `libc` has no attributes: those are from linux/netfilter/nf_tables.h (`NFTA_*`, `NFT_*`),
//! linux/netfilter/nfnetlink_conntrack.h (`CTA_*`, `IPCTNL_*`) and linux/netfilter/nf_conntrack_common.h (`IPS_*`).

use nix::libc;

// Netlink.
pub(crate) const NLM_F_REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub(crate) const NLM_F_ACK: u16 = libc::NLM_F_ACK as u16;
pub(crate) const NLM_F_DUMP: u16 = libc::NLM_F_DUMP as u16;
pub(crate) const NLM_F_CREATE: u16 = libc::NLM_F_CREATE as u16;
pub(crate) const NLM_F_APPEND: u16 = libc::NLM_F_APPEND as u16;
pub(crate) const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
pub(crate) const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;
pub(crate) const NLA_F_NESTED: u16 = libc::NLA_F_NESTED as u16;
pub(crate) const NLA_TYPE_MASK: u16 = libc::NLA_TYPE_MASK as u16;
/// Messages and attributes start at a multiple of this (`NLMSG_ALIGNTO`, `NLA_ALIGNTO`).
pub(crate) const ALIGNMENT: usize = libc::NLA_ALIGNTO as usize;

// Netfilter.
pub(crate) const NFNL_SUBSYS_CTNETLINK: u16 = libc::NFNL_SUBSYS_CTNETLINK as u16;
pub(crate) const NFNL_SUBSYS_NFTABLES: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
/// The group of the notifications of nf_tables (linux/netfilter/nfnetlink.h).
pub(crate) const NFNLGRP_NFTABLES: u32 = libc::NFNLGRP_NFTABLES as u32;
pub(crate) const NFNL_MSG_BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
pub(crate) const NFNL_MSG_BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;
/// The generation that a transaction expects (an attribute of batch-begin).
pub(crate) const NFNL_BATCH_GENID: u16 = 1;
pub(crate) const NFPROTO_UNSPEC: u8 = libc::NFPROTO_UNSPEC as u8;
pub(crate) const NFPROTO_INET: u8 = libc::NFPROTO_INET as u8;
pub(crate) const NFPROTO_IPV4: u8 = libc::NFPROTO_IPV4 as u8;
pub(crate) const NFPROTO_IPV6: u8 = libc::NFPROTO_IPV6 as u8;
pub(crate) const NF_INET_PRE_ROUTING: u32 = libc::NF_INET_PRE_ROUTING as u32;
pub(crate) const NF_INET_LOCAL_IN: u32 = libc::NF_INET_LOCAL_IN as u32;
pub(crate) const NF_INET_FORWARD: u32 = libc::NF_INET_FORWARD as u32;
pub(crate) const NF_INET_LOCAL_OUT: u32 = libc::NF_INET_LOCAL_OUT as u32;
pub(crate) const NF_INET_POST_ROUTING: u32 = libc::NF_INET_POST_ROUTING as u32;
pub(crate) const NF_ACCEPT: u32 = libc::NF_ACCEPT as u32;
pub(crate) const NF_DROP: i32 = libc::NF_DROP;
/// The last priority before connection tracking (linux/netfilter_ipv4.h).
pub(crate) const NF_IP_PRI_RAW: i32 = -300;
pub(crate) const NF_IP_PRI_FILTER: i32 = 0;
/// Source translation; it follows every destination translation.
pub(crate) const NF_IP_PRI_NAT_SRC: i32 = 100;

// Messages of nf_tables.
pub(crate) const NFT_MSG_NEWTABLE: u16 = libc::NFT_MSG_NEWTABLE as u16;
pub(crate) const NFT_MSG_GETTABLE: u16 = libc::NFT_MSG_GETTABLE as u16;
pub(crate) const NFT_MSG_DELTABLE: u16 = libc::NFT_MSG_DELTABLE as u16;
pub(crate) const NFT_MSG_NEWCHAIN: u16 = libc::NFT_MSG_NEWCHAIN as u16;
pub(crate) const NFT_MSG_GETCHAIN: u16 = libc::NFT_MSG_GETCHAIN as u16;
pub(crate) const NFT_MSG_DELCHAIN: u16 = libc::NFT_MSG_DELCHAIN as u16;
pub(crate) const NFT_MSG_NEWRULE: u16 = libc::NFT_MSG_NEWRULE as u16;
pub(crate) const NFT_MSG_GETRULE: u16 = libc::NFT_MSG_GETRULE as u16;
pub(crate) const NFT_MSG_DELRULE: u16 = libc::NFT_MSG_DELRULE as u16;
pub(crate) const NFT_MSG_NEWSET: u16 = libc::NFT_MSG_NEWSET as u16;
pub(crate) const NFT_MSG_DELSET: u16 = libc::NFT_MSG_DELSET as u16;
pub(crate) const NFT_MSG_GETSET: u16 = libc::NFT_MSG_GETSET as u16;
pub(crate) const NFT_MSG_NEWSETELEM: u16 = libc::NFT_MSG_NEWSETELEM as u16;
pub(crate) const NFT_MSG_GETSETELEM: u16 = libc::NFT_MSG_GETSETELEM as u16;
pub(crate) const NFT_MSG_DELSETELEM: u16 = libc::NFT_MSG_DELSETELEM as u16;
pub(crate) const NFT_MSG_NEWGEN: u16 = libc::NFT_MSG_NEWGEN as u16;
pub(crate) const NFT_MSG_GETGEN: u16 = libc::NFT_MSG_GETGEN as u16;

/// An item of any list of nf_tables.
pub(crate) const NFTA_LIST_ELEM: u16 = 1;

// Tables and generations.
pub(crate) const NFTA_TABLE_NAME: u16 = 1;
pub(crate) const NFTA_TABLE_FLAGS: u16 = 2;
pub(crate) const NFTA_TABLE_USERDATA: u16 = 6;
pub(crate) const NFTA_TABLE_OWNER: u16 = 7;
/// Only the socket that created the table can change it (5.12).
pub(crate) const NFT_TABLE_F_OWNER: u32 = 0x2;
/// The table stays when its owner's socket is closed (6.9).
pub(crate) const NFT_TABLE_F_PERSIST: u32 = 0x4;
pub(crate) const NFTA_GEN_ID: u16 = 1;

// Chains.
pub(crate) const NFTA_CHAIN_TABLE: u16 = 1;
pub(crate) const NFTA_CHAIN_NAME: u16 = 3;
pub(crate) const NFTA_CHAIN_HOOK: u16 = 4;
pub(crate) const NFTA_CHAIN_POLICY: u16 = 5;
pub(crate) const NFTA_CHAIN_TYPE: u16 = 7;
pub(crate) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(crate) const NFTA_HOOK_PRIORITY: u16 = 2;

// Rules.
pub(crate) const NFTA_RULE_TABLE: u16 = 1;
pub(crate) const NFTA_RULE_CHAIN: u16 = 2;
pub(crate) const NFTA_RULE_HANDLE: u16 = 3;
pub(crate) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(crate) const NFTA_EXPR_NAME: u16 = 1;
pub(crate) const NFTA_EXPR_DATA: u16 = 2;

// Sets and maps.
pub(crate) const NFTA_SET_TABLE: u16 = 1;
pub(crate) const NFTA_SET_NAME: u16 = 2;
pub(crate) const NFTA_SET_FLAGS: u16 = 3;
pub(crate) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(crate) const NFTA_SET_KEY_LEN: u16 = 5;
pub(crate) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(crate) const NFTA_SET_DATA_LEN: u16 = 7;
pub(crate) const NFTA_SET_DESC: u16 = 9;
pub(crate) const NFTA_SET_ID: u16 = 10;
pub(crate) const NFTA_SET_TIMEOUT: u16 = 11;
pub(crate) const NFTA_SET_GC_INTERVAL: u16 = 12;
pub(crate) const NFTA_SET_USERDATA: u16 = 13;
pub(crate) const NFTA_SET_EXPR: u16 = 17;
pub(crate) const NFTA_SET_DESC_CONCAT: u16 = 2;
pub(crate) const NFTA_SET_FIELD_LEN: u16 = 1;
pub(crate) const NFT_SET_INTERVAL: u32 = libc::NFT_SET_INTERVAL as u32;
pub(crate) const NFT_SET_MAP: u32 = libc::NFT_SET_MAP as u32;
pub(crate) const NFT_SET_TIMEOUT: u32 = libc::NFT_SET_TIMEOUT as u32;
pub(crate) const NFT_SET_EVAL: u32 = libc::NFT_SET_EVAL as u32;
pub(crate) const NFT_SET_CONCAT: u32 = 0x80;
/// As the type of data: the set is a map of verdicts.
pub(crate) const NFT_DATA_VERDICT: u32 = libc::NFT_DATA_VERDICT;

// Elements of sets.
pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(crate) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(crate) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(crate) const NFTA_SET_ELEM_EXPR: u16 = 7;
pub(crate) const NFTA_SET_ELEM_KEY_END: u16 = 10;
pub(crate) const NFT_SET_ELEM_INTERVAL_END: u32 = libc::NFT_SET_ELEM_INTERVAL_END as u32;

// Data: a value or a verdict.
pub(crate) const NFTA_DATA_VALUE: u16 = 1;
pub(crate) const NFTA_DATA_VERDICT: u16 = 2;
pub(crate) const NFTA_VERDICT_CODE: u16 = 1;
pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;
pub(crate) const NFT_JUMP: i32 = libc::NFT_JUMP;
pub(crate) const NFT_GOTO: i32 = libc::NFT_GOTO;
pub(crate) const NFT_RETURN: i32 = libc::NFT_RETURN;

// Registers: 16 of 32 bits; the one of the verdict is 0.
pub(crate) const NFT_REG_VERDICT: u32 = libc::NFT_REG_VERDICT as u32;
pub(crate) const NFT_REG32_00: u32 = libc::NFT_REG32_00 as u32;
pub(crate) const NFT_REG32_SIZE: u32 = libc::NFT_REG32_SIZE as u32;

// Expression "meta".
pub(crate) const NFTA_META_DREG: u16 = 1;
pub(crate) const NFTA_META_KEY: u16 = 2;
pub(crate) const NFTA_META_SREG: u16 = 3;
pub(crate) const NFT_META_PRIORITY: u32 = libc::NFT_META_PRIORITY as u32;
pub(crate) const NFT_META_IIF: u32 = libc::NFT_META_IIF as u32;
pub(crate) const NFT_META_OIF: u32 = libc::NFT_META_OIF as u32;
pub(crate) const NFT_META_IIFNAME: u32 = libc::NFT_META_IIFNAME as u32;
pub(crate) const NFT_META_NFPROTO: u32 = libc::NFT_META_NFPROTO as u32;
pub(crate) const NFT_META_L4PROTO: u32 = libc::NFT_META_L4PROTO as u32;

// Expression "cmp".
pub(crate) const NFTA_CMP_SREG: u16 = 1;
pub(crate) const NFTA_CMP_OP: u16 = 2;
pub(crate) const NFTA_CMP_DATA: u16 = 3;
pub(crate) const NFT_CMP_EQ: u32 = libc::NFT_CMP_EQ as u32;
pub(crate) const NFT_CMP_NEQ: u32 = libc::NFT_CMP_NEQ as u32;

// Expression "payload".
pub(crate) const NFTA_PAYLOAD_DREG: u16 = 1;
pub(crate) const NFTA_PAYLOAD_BASE: u16 = 2;
pub(crate) const NFTA_PAYLOAD_OFFSET: u16 = 3;
pub(crate) const NFTA_PAYLOAD_LEN: u16 = 4;
pub(crate) const NFTA_PAYLOAD_SREG: u16 = 5;
pub(crate) const NFTA_PAYLOAD_CSUM_TYPE: u16 = 6;
pub(crate) const NFTA_PAYLOAD_CSUM_OFFSET: u16 = 7;
pub(crate) const NFTA_PAYLOAD_CSUM_FLAGS: u16 = 8;
pub(crate) const NFT_PAYLOAD_CSUM_NONE: u32 = 0;
pub(crate) const NFT_PAYLOAD_CSUM_INET: u32 = 1;
/// The field is a part of the pseudo header, so the checksum of the transport header changes with it.
pub(crate) const NFT_PAYLOAD_L4CSUM_PSEUDOHDR: u32 = 1 << 0;
pub(crate) const NFT_PAYLOAD_NETWORK_HEADER: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
pub(crate) const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;

// Expression "fib" (routing lookup).
pub(crate) const NFTA_FIB_DREG: u16 = 1;
pub(crate) const NFTA_FIB_RESULT: u16 = 2;
pub(crate) const NFTA_FIB_FLAGS: u16 = 3;
pub(crate) const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
pub(crate) const NFTA_FIB_F_SADDR: u32 = 1 << 0;
pub(crate) const NFTA_FIB_F_DADDR: u32 = 1 << 1;
/// The result for a local address.
pub(crate) const RTN_LOCAL: u32 = libc::RTN_LOCAL as u32;

// Expression "ct".
pub(crate) const NFTA_CT_DREG: u16 = 1;
pub(crate) const NFTA_CT_KEY: u16 = 2;
pub(crate) const NFTA_CT_DIRECTION: u16 = 3;
pub(crate) const IP_CT_DIR_ORIGINAL: u8 = 0;
pub(crate) const NFT_CT_PROTO_DST: u32 = libc::NFT_CT_PROTO_DST as u32;
pub(crate) const NFT_CT_DST_IP: u32 = 20;
pub(crate) const NFT_CT_DST_IP6: u32 = 22;
pub(crate) const NFT_CT_STATUS: u32 = libc::NFT_CT_STATUS as u32;
/// The status of a connection whose destination was translated.
pub(crate) const IPS_DST_NAT: u32 = 1 << 5;

// Expression "bitwise".
pub(crate) const NFTA_BITWISE_SREG: u16 = 1;
pub(crate) const NFTA_BITWISE_DREG: u16 = 2;
pub(crate) const NFTA_BITWISE_LEN: u16 = 3;
pub(crate) const NFTA_BITWISE_MASK: u16 = 4;
pub(crate) const NFTA_BITWISE_XOR: u16 = 5;

// Expression "lookup".
pub(crate) const NFTA_LOOKUP_SET: u16 = 1;
pub(crate) const NFTA_LOOKUP_SREG: u16 = 2;
pub(crate) const NFTA_LOOKUP_DREG: u16 = 3;
pub(crate) const NFTA_LOOKUP_FLAGS: u16 = 5;
pub(crate) const NFT_LOOKUP_F_INV: u32 = libc::NFT_LOOKUP_F_INV as u32;

// Expression "numgen".
pub(crate) const NFTA_NG_DREG: u16 = 1;
pub(crate) const NFTA_NG_MODULUS: u16 = 2;
pub(crate) const NFTA_NG_TYPE: u16 = 3;
pub(crate) const NFTA_NG_OFFSET: u16 = 4;
pub(crate) const NFT_NG_INCREMENTAL: u32 = libc::NFT_NG_INCREMENTAL as u32;
pub(crate) const NFT_NG_RANDOM: u32 = libc::NFT_NG_RANDOM as u32;

// Expression "immediate".
pub(crate) const NFTA_IMMEDIATE_DREG: u16 = 1;
pub(crate) const NFTA_IMMEDIATE_DATA: u16 = 2;

// Expression "dynset".
pub(crate) const NFTA_DYNSET_SET_NAME: u16 = 1;
pub(crate) const NFTA_DYNSET_OP: u16 = 3;
pub(crate) const NFTA_DYNSET_SREG_KEY: u16 = 4;
pub(crate) const NFTA_DYNSET_SREG_DATA: u16 = 5;
pub(crate) const NFTA_DYNSET_TIMEOUT: u16 = 6;
pub(crate) const NFT_DYNSET_OP_UPDATE: u32 = libc::NFT_DYNSET_OP_UPDATE as u32;
pub(crate) const NFT_DYNSET_OP_DELETE: u32 = 2;

// Expressions "nat", "redir" and "masq".
pub(crate) const NFTA_NAT_TYPE: u16 = 1;
pub(crate) const NFTA_NAT_FAMILY: u16 = 2;
pub(crate) const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
pub(crate) const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
pub(crate) const NFT_NAT_DNAT: u32 = libc::NFT_NAT_DNAT as u32;
pub(crate) const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
pub(crate) const NFTA_REDIR_FLAGS: u16 = 3;
pub(crate) const NFTA_MASQ_FLAGS: u16 = 1;
pub(crate) const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 1 << 1;
pub(crate) const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;

// Expression "reject".
pub(crate) const NFTA_REJECT_TYPE: u16 = 1;
pub(crate) const NFTA_REJECT_ICMP_CODE: u16 = 2;
pub(crate) const NFT_REJECT_TCP_RST: u32 = libc::NFT_REJECT_TCP_RST as u32;
pub(crate) const NFT_REJECT_ICMPX_UNREACH: u32 = libc::NFT_REJECT_ICMPX_UNREACH as u32;
pub(crate) const NFT_REJECT_ICMPX_PORT_UNREACH: u8 = libc::NFT_REJECT_ICMPX_PORT_UNREACH as u8;

// Expression "counter".
pub(crate) const NFTA_COUNTER_PACKETS: u16 = 2;

// Connection tracking.
pub(crate) const IPCTNL_MSG_CT_GET: u16 = 1;
pub(crate) const IPCTNL_MSG_CT_DELETE: u16 = 2;
pub(crate) const IPCTNL_MSG_CT_GET_STATS: u16 = 5;
pub(crate) const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
pub(crate) const CTA_TUPLE_ORIG: u16 = 1;
pub(crate) const CTA_TUPLE_REPLY: u16 = 2;
pub(crate) const CTA_ID: u16 = 12;
pub(crate) const CTA_ZONE: u16 = 18;
pub(crate) const CTA_TUPLE_IP: u16 = 1;
pub(crate) const CTA_TUPLE_PROTO: u16 = 2;
pub(crate) const CTA_IP_V4_SRC: u16 = 1;
pub(crate) const CTA_IP_V4_DST: u16 = 2;
pub(crate) const CTA_IP_V6_SRC: u16 = 3;
pub(crate) const CTA_IP_V6_DST: u16 = 4;
pub(crate) const CTA_PROTO_NUM: u16 = 1;
pub(crate) const CTA_PROTO_SRC_PORT: u16 = 2;
pub(crate) const CTA_PROTO_DST_PORT: u16 = 3;

//! The numbers of the kernel's interface (linux/netfilter/nf_tables.h), those that are used and no others.

pub(crate) const SUBSYSTEM: u16 = 10;
pub(crate) const BATCH_BEGIN: u16 = 0x10;
pub(crate) const BATCH_END: u16 = 0x11;
pub(crate) const INET: u8 = 1;

/// Messages of nf_tables.
pub(crate) mod message {
    pub(crate) const NEWTABLE: u16 = 0;
    pub(crate) const GETTABLE: u16 = 1;
    pub(crate) const DELTABLE: u16 = 2;
    pub(crate) const NEWCHAIN: u16 = 3;
    pub(crate) const GETCHAIN: u16 = 4;
    pub(crate) const DELCHAIN: u16 = 5;
    pub(crate) const NEWRULE: u16 = 6;
    pub(crate) const GETRULE: u16 = 7;
    pub(crate) const NEWSET: u16 = 9;
    pub(crate) const GETSET: u16 = 10;
    pub(crate) const NEWSETELEM: u16 = 12;
    pub(crate) const GETSETELEM: u16 = 13;
    pub(crate) const DELSETELEM: u16 = 14;
    pub(crate) const GETGEN: u16 = 16;
}

/// Flags of netlink messages.
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const ACK: u16 = 4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// An element of any list.
pub(crate) const LIST_ELEMENT: u16 = 1;

/// Attributes of tables.
pub(crate) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
    pub(crate) const USERDATA: u16 = 6;
}

/// Attributes of generations.
pub(crate) mod generation {
    pub(crate) const ID: u16 = 1;
}

/// Attributes of chains.
pub(crate) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const PRE_ROUTING: u32 = 0;
    pub(crate) const LOCAL_IN: u32 = 1;
    pub(crate) const LOCAL_OUT: u32 = 3;
    pub(crate) const ACCEPT: u32 = 1;
}

/// Attributes of sets and maps.
pub(crate) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LENGTH: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LENGTH: u16 = 7;
    pub(crate) const DESCRIPTION: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USERDATA: u16 = 13;
    pub(crate) const EXPRESSION: u16 = 17;
    pub(crate) const DESCRIPTION_FIELDS: u16 = 2;
    pub(crate) const FIELD_LENGTH: u16 = 1;
    pub(crate) const INTERVAL: u32 = 0x4;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const TIMEOUT: u32 = 0x10;
    pub(crate) const EVALUATED: u32 = 0x20;
    pub(crate) const CONCATENATION: u32 = 0x80;
    pub(crate) const VERDICT: u32 = 0xffff_ff00;
}

/// Attributes of elements.
pub(crate) mod element {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const SET: u16 = 2;
    pub(crate) const ELEMENTS: u16 = 3;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const EXPRESSION: u16 = 7;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const INTERVAL_END: u32 = 1;
    pub(crate) const VALUE: u16 = 1;
    pub(crate) const VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
    pub(crate) const DROP: i32 = 0;
    pub(crate) const JUMP: i32 = -3;
    pub(crate) const GOTO: i32 = -4;
    pub(crate) const RETURN: i32 = -5;
}

/// Attributes of rules.
pub(crate) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const EXPRESSION_NAME: u16 = 1;
    pub(crate) const EXPRESSION_DATA: u16 = 2;
}

/// Attributes of counters.
pub(crate) mod counter {
    pub(crate) const PACKETS: u16 = 2;
}

/// Messages and attributes of connection tracking (linux/netfilter/nfnetlink_conntrack.h).
pub(crate) mod conntrack {
    pub(crate) const SUBSYSTEM: u16 = 1;
    pub(crate) const GET: u16 = 1;
    pub(crate) const DELETE: u16 = 2;
    pub(crate) const GET_STATS: u16 = 5;
    pub(crate) const STATS_ENTRIES: u16 = 1;
    pub(crate) const ORIGINAL: u16 = 1;
    pub(crate) const REPLY: u16 = 2;
    pub(crate) const ID: u16 = 12;
    pub(crate) const ZONE: u16 = 18;
    pub(crate) const TUPLE_ADDRESSES: u16 = 1;
    pub(crate) const TUPLE_PROTOCOL: u16 = 2;
    pub(crate) const V4_SOURCE: u16 = 1;
    pub(crate) const V4_DESTINATION: u16 = 2;
    pub(crate) const V6_SOURCE: u16 = 3;
    pub(crate) const V6_DESTINATION: u16 = 4;
    pub(crate) const PROTOCOL_NUMBER: u16 = 1;
    pub(crate) const SOURCE_PORT: u16 = 2;
    pub(crate) const DESTINATION_PORT: u16 = 3;
}

//! `Rule`: the expressions of one rule, written as the kernel takes them.
//!
//! An expression reads and writes registers of four bytes. Looked-up values stay in registers here, which
//! is what the text form cannot say: no packet mark is touched. What must not go in here: which rules there
//! are.

use proxy_core::address::Family;

use crate::attribute::Bytes;
use crate::kernel::{LIST_ELEMENT, element, rule};

/// The first register; a concatenation fills as many as it needs from there.
pub(crate) const REGISTER: u32 = 8;

/// What connection tracking says of a connection, and that its destination was translated
/// (linux/netfilter/nf_conntrack_common.h).
const CT_STATUS: u32 = 2;
const CT_STATUS_DNAT: u32 = 1 << 5;

/// The index of the loopback device, in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// A comparison that is true where two values differ.
const NOT_EQUAL: u32 = 1;

/// Numbers of the routing look-up (linux/netfilter/nf_tables.h, linux/rtnetlink.h).
mod fib {
    pub(super) const ADDRESS_TYPE: u32 = 3;
    pub(super) const DESTINATION: u32 = 2;
    pub(super) const LOCAL: u32 = 2;
}

/// A field of a packet, or a value that comes before one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// Destination address.
    Destination,
    /// Source address.
    Source,
    /// Transport protocol.
    Protocol,
    /// Destination port.
    Port,
}

/// How a number below a count is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Draw {
    /// Each with the same chance.
    Random(u16),
    /// One after the other, as this rule counts.
    InTurn(u16),
}

/// The expressions of a rule that is being written.
pub(crate) struct Rule<'a>(pub(crate) &'a mut Bytes);

impl Rule<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Bytes)) {
        self.0.nest(LIST_ELEMENT, |bytes| {
            bytes.put_text(rule::EXPRESSION_NAME, name);
            bytes.nest(rule::EXPRESSION_DATA, fill);
        });
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.expression("meta", |bytes| {
            bytes.put_u32(1, register);
            bytes.put_u32(2, key);
        });
    }

    fn compare(&mut self, register: u32, value: &[u8]) {
        self.expression("cmp", |bytes| {
            bytes.put_u32(1, register);
            bytes.put_u32(2, 0);
            bytes.nest(3, |bytes| bytes.put(element::VALUE, value));
        });
    }

    fn payload(&mut self, register: u32, base: u32, offset: u32, length: u32) {
        self.expression("payload", |bytes| {
            bytes.put_u32(1, register);
            bytes.put_u32(2, base);
            bytes.put_u32(3, offset);
            bytes.put_u32(4, length);
        });
    }

    /// Goes on with packets of this family only.
    pub(crate) fn of_family(&mut self, family: Family) -> &mut Self {
        self.meta(15, REGISTER);
        self.compare(REGISTER, &[family_number(family)]);
        self
    }

    /// Loads the number of the packet's family.
    pub(crate) fn load_family(&mut self) -> &mut Self {
        self.meta(15, REGISTER);
        self
    }

    /// Goes on with this transport protocol only.
    pub(crate) fn of_protocol(&mut self, number: u8) -> &mut Self {
        self.meta(16, REGISTER);
        self.compare(REGISTER, &[number]);
        self
    }

    /// Goes on with packets to this port only.
    pub(crate) fn for_port(&mut self, port: u16) -> &mut Self {
        self.payload(REGISTER, 2, 2, 2);
        self.compare(REGISTER, &port.to_be_bytes());
        self
    }

    /// Goes on with packets only that do not leave by loopback (`oif != lo`).
    pub(crate) fn leaving(&mut self) -> &mut Self {
        self.meta(5, REGISTER);
        self.expression("cmp", |bytes| {
            bytes.put_u32(1, REGISTER);
            bytes.put_u32(2, NOT_EQUAL);
            bytes.nest(3, |bytes| bytes.put(element::VALUE, &LOOPBACK_INDEX.to_ne_bytes()));
        });
        self
    }

    /// Goes on with packets to one of this network namespace's own addresses only (`fib daddr type local`).
    pub(crate) fn for_own_address(&mut self) -> &mut Self {
        self.expression("fib", |bytes| {
            bytes.put_u32(1, REGISTER);
            bytes.put_u32(2, fib::ADDRESS_TYPE);
            bytes.put_u32(3, fib::DESTINATION);
        });
        self.compare(REGISTER, &fib::LOCAL.to_ne_bytes());
        self
    }

    /// Goes on with packets only whose destination was not translated (`ct status ! dnat`).
    pub(crate) fn not_redirected(&mut self) -> &mut Self {
        self.expression("ct", |bytes| {
            bytes.put_u32(1, REGISTER);
            bytes.put_u32(2, CT_STATUS);
        });
        self.expression("bitwise", |bytes| {
            bytes.put_u32(1, REGISTER);
            bytes.put_u32(2, REGISTER);
            bytes.put_u32(3, 4);
            bytes.nest(4, |bytes| bytes.put(element::VALUE, &CT_STATUS_DNAT.to_ne_bytes()));
            bytes.nest(5, |bytes| bytes.put(element::VALUE, &[0; 4]));
        });
        self.compare(REGISTER, &[0; 4]);
        self
    }

    /// Loads the name of the interface that a packet came by, padded with zeros.
    pub(crate) fn load_interface(&mut self) -> &mut Self {
        self.meta(6, REGISTER);
        self
    }

    /// Loads parts of the packet one behind the other, and says which register comes next.
    pub(crate) fn load(&mut self, family: Family, parts: &[Part]) -> u32 {
        let mut register = REGISTER;
        for part in parts {
            let (base, offset, length) = match (part, family) {
                (Part::Protocol, _) => {
                    self.meta(16, register);
                    register += 1;
                    continue;
                }
                (Part::Port, _) => (2, 2, 2),
                (Part::Source, Family::V4) => (1, 12, 4),
                (Part::Destination, Family::V4) => (1, 16, 4),
                (Part::Source, Family::V6) => (1, 8, 16),
                (Part::Destination, Family::V6) => (1, 24, 16),
            };
            self.payload(register, base, offset, length);
            register += u32::div_ceil(length, 4);
        }
        register
    }

    /// Looks the key up in a map, and writes what is found from this register on; nothing found ends the
    /// rule.
    pub(crate) fn look_up(&mut self, map: &str, found: u32) -> &mut Self {
        self.expression("lookup", |bytes| {
            bytes.put_text(1, map);
            bytes.put_u32(2, REGISTER);
            bytes.put_u32(3, found);
        });
        self
    }

    /// Passes a number that was looked up through the packet's priority, which leaves it as it is. nft
    /// 1.0.6 aborts on listing a rule that looks up with what it has just looked up, and a listing that
    /// aborts would break every tool that reads this namespace. The priority of a connection's first packet
    /// is the field that nobody misses: routes, marks and meshes do not look at it.
    pub(crate) fn measured(&mut self, register: u32) -> &mut Self {
        self.leave(register);
        self.take(register)
    }

    /// Leaves a number in the packet's priority, for another chain.
    pub(crate) fn leave(&mut self, register: u32) -> &mut Self {
        self.expression("meta", |bytes| {
            bytes.put_u32(2, 2);
            bytes.put_u32(3, register);
        });
        self
    }

    /// Takes the number that was left.
    pub(crate) fn take(&mut self, register: u32) -> &mut Self {
        self.meta(2, register);
        self
    }

    /// Looks a number up in the map of verdicts, and does what is found.
    pub(crate) fn verdict_of(&mut self, map: &str, register: u32) {
        self.expression("lookup", |bytes| {
            bytes.put_text(1, map);
            bytes.put_u32(2, register);
            bytes.put_u32(3, 0);
        });
    }

    /// Goes on where the key is in a set; or where it is not.
    pub(crate) fn is_in(&mut self, set: &str, wanted: bool) -> &mut Self {
        self.expression("lookup", |bytes| {
            bytes.put_text(1, set);
            bytes.put_u32(2, REGISTER);
            if !wanted {
                bytes.put_u32(5, 1);
            }
        });
        self
    }

    /// Draws a number.
    pub(crate) fn draw(&mut self, draw: Draw, register: u32) -> &mut Self {
        let (kind, count) = match draw {
            Draw::InTurn(count) => (0, count),
            Draw::Random(count) => (1, count),
        };
        self.expression("numgen", |bytes| {
            bytes.put_u32(1, register);
            bytes.put_u32(2, u32::from(count));
            bytes.put_u32(3, kind);
            bytes.put_u32(4, 0);
        });
        self
    }

    /// Writes a value into a register.
    pub(crate) fn set(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.expression("immediate", |bytes| {
            bytes.put_u32(1, register);
            bytes.nest(2, |bytes| bytes.put(element::VALUE, value));
        });
        self
    }

    /// Writes the key and a number into a timed map, or renews its time.
    pub(crate) fn remember(&mut self, map: &str, number: u32, timeout_s: u32) -> &mut Self {
        self.change(map, 1, number, Some(timeout_s))
    }

    /// Takes the key out of a timed map.
    pub(crate) fn forget(&mut self, map: &str, number: u32) -> &mut Self {
        self.change(map, 2, number, None)
    }

    fn change(&mut self, map: &str, operation: u32, number: u32, timeout_s: Option<u32>) -> &mut Self {
        self.expression("dynset", |bytes| {
            bytes.put_text(1, map);
            bytes.put_u32(3, operation);
            bytes.put_u32(4, REGISTER);
            bytes.put_u32(5, number);
            if let Some(timeout_s) = timeout_s {
                bytes.put_u64(6, u64::from(timeout_s) * 1_000);
            }
        });
        self
    }

    /// Sends the connection to the address and port in the first registers.
    pub(crate) fn translate(&mut self, family: Family) {
        let words = match family {
            Family::V4 => 1,
            Family::V6 => 4,
        };
        self.expression("nat", |bytes| {
            bytes.put_u32(1, 1);
            bytes.put_u32(2, u32::from(family_number(family)));
            bytes.put_u32(3, REGISTER);
            bytes.put_u32(5, REGISTER + words);
        });
    }

    /// Sends the connection to a port of this network namespace.
    pub(crate) fn redirect(&mut self, port: u16) {
        self.set(REGISTER, &port.to_be_bytes());
        self.expression("redir", |bytes| {
            bytes.put_u32(1, REGISTER);
            bytes.put_u32(3, 2);
        });
    }

    /// Refuses: TCP by a reset, everything else by an unreachable port.
    pub(crate) fn refuse(&mut self, is_tcp: bool) {
        self.expression("reject", |bytes| {
            bytes.put_u32(1, if is_tcp { 1 } else { 2 });
            bytes.put(2, &[1]);
        });
    }

    /// Ends with a verdict.
    pub(crate) fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |bytes| {
            bytes.put_u32(1, 0);
            bytes.nest(2, |bytes| put_verdict(bytes, code, chain));
        });
    }
}

/// A verdict as data.
pub(crate) fn put_verdict(bytes: &mut Bytes, code: i32, chain: Option<&str>) {
    bytes.nest(element::VERDICT, |bytes| {
        bytes.put(element::VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            bytes.put_text(element::VERDICT_CHAIN, chain);
        }
    });
}

/// The number of a family in the kernel.
pub(crate) const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

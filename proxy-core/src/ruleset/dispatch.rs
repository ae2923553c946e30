//! `DispatchKey`: what happens to the first packet of a connection to a portal, and the number that stands for it.
//!
//! The kernel's map of portals holds the number, a small map of verdicts leads from it to a chain. Two
//! portals with one number share a chain. What must not go in here: what the chain consists of.

use std::fmt;

use serde::Serialize;

use crate::model::service::AFFINITY_S_MAX;

/// What happens to the first packet of a connection to a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Refusals at once.
    Reject,
    /// Sent to one of this many backends; a client stays with its backend for so many seconds, if any.
    Forward {
        /// How many backends: slots 0 to count - 1 are there.
        count: u16,
        /// For how long a client stays with its backend; 0: each connection is balanced anew.
        affinity_s: u32,
    },
    /// Sent to this many backends in turn. Whose turn it is, is known to a rule, so each such portal has a
    /// chain of its own.
    #[serde(rename = "turn")]
    RoundRobin {
        /// Which chain: below `ROUND_ROBIN_CHAINS_MAX`, and of one portal only.
        number: u16,
        /// How many backends.
        count: u16,
    },
    /// Handed to the relay.
    Relay,
    /// Dropped.
    Drop,
}

/// What a portal's number says: an action, and whether the source is looked at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DispatchKey {
    /// What happens.
    #[serde(flatten)]
    pub action: Action,
    /// Whether only the portal's `sources` may use it; others are dropped.
    pub guarded: bool,
}

/// So many portals can have their backends in turn.
pub const ROUND_ROBIN_CHAINS_MAX: u16 = 1 << 15;

const AFFINITY_SHIFT: u32 = 15;
const GUARD_BIT: u32 = 1 << 14;
const COUNT_MASK: u32 = GUARD_BIT - 1;
/// Above every affinity time-out, within 17 bits: the numbers of turns, and two marks.
const TURN_MIN: u32 = AFFINITY_S_MAX + 1;
const TURN_MAX: u32 = AFFINITY_S_MAX + ROUND_ROBIN_CHAINS_MAX as u32;
const RELAY: u32 = 0x1_fffe;
const DROP: u32 = 0x1_ffff;

impl DispatchKey {
    /// The number that stands for it in the kernel: bits 0-13 the count, bit 14 the guard, bits 15-31 the
    /// affinity time-out in seconds; values above all time-outs are the numbers of turns, relay and drop.
    #[must_use]
    pub fn code(self) -> u32 {
        let action = match self.action {
            Action::Reject => 0,
            Action::Forward { count, affinity_s } => affinity_s << AFFINITY_SHIFT | u32::from(count),
            Action::RoundRobin { number, count } => {
                (TURN_MIN + u32::from(number)) << AFFINITY_SHIFT | u32::from(count)
            }
            Action::Relay => RELAY << AFFINITY_SHIFT,
            Action::Drop => DROP << AFFINITY_SHIFT,
        };
        action | if self.guarded { GUARD_BIT } else { 0 }
    }

    /// The pick that a number stands for; none where no ruleset writes that number.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        let count = u16::try_from(code & COUNT_MASK).ok()?;
        let action = match (code >> AFFINITY_SHIFT, count) {
            (0, 0) => Action::Reject,
            (RELAY, 0) => Action::Relay,
            (DROP, 0) => Action::Drop,
            (_, 0) => return None,
            (affinity_s @ 0..=AFFINITY_S_MAX, count) => Action::Forward { count, affinity_s },
            (turn @ TURN_MIN..=TURN_MAX, count) => {
                Action::RoundRobin { number: u16::try_from(turn - TURN_MIN).ok()?, count }
            }
            _ => return None,
        };
        Some(Self { action, guarded: code & GUARD_BIT != 0 })
    }
}

/// The name of the pick's chain.
impl fmt::Display for DispatchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.guarded { "guarded-" } else { "pick-" })?;
        match self.action {
            Action::Reject => f.write_str("reject"),
            Action::Forward { count, affinity_s: 0 } => write!(f, "{count}"),
            Action::Forward { count, affinity_s } => write!(f, "{count}-sticky-{affinity_s}s"),
            Action::RoundRobin { number, count } => write!(f, "{count}-turn-{number}"),
            Action::Relay => f.write_str("relay"),
            Action::Drop => f.write_str("drop"),
        }
    }
}

#[cfg(test)]
mod tests;

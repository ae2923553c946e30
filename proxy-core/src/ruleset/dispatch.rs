//! `DispatchKey`: the verdict for the first packet of a connection to a portal, and its number.
//!
//! The kernel's map of portals contains the number, and a small verdict map maps it to a chain. Portals with the same
//! number share a chain.

use std::fmt;

use serde::Serialize;

use crate::model::service::AFFINITY_S_MAX;

/// The action for the first packet of a connection to a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Rejected immediately.
    Reject,
    /// Forwarded to one of `count` backends, with or without session affinity.
    Forward {
        /// The number of backends, in slots 0 to count - 1.
        count: u16,
        /// The timeout of session affinity, in seconds; 0: each connection is balanced.
        affinity_s: u32,
    },
    /// Forwarded to `count` backends by strict round robin. The position is stored in a rule, so each such portal needs
    /// its own chain.
    #[serde(rename = "turn")]
    RoundRobin {
        /// The number of the chain, less than `ROUND_ROBIN_CHAINS_MAX`.
        number: u16,
        /// The number of backends.
        count: u16,
    },
    /// Redirected to the relay.
    Relay,
    /// Dropped.
    Drop,
}

/// The verdict of a portal: an action, and whether the source is checked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DispatchKey {
    /// The action.
    #[serde(flatten)]
    pub action: Action,
    /// Whether packets from outside the portal's source ranges are dropped.
    pub guarded: bool,
}

/// The maximum number of portals with strict round robin.
pub const ROUND_ROBIN_CHAINS_MAX: u16 = 1 << 15;

const AFFINITY_SHIFT: u32 = 15;
const GUARD_BIT: u32 = 1 << 14;
const COUNT_MASK: u32 = GUARD_BIT - 1;
/// Above every affinity timeout, within 17 bits: the numbers of round-robin chains, and two constants.
const ROUND_ROBIN_MIN: u32 = AFFINITY_S_MAX + 1;
const ROUND_ROBIN_MAX: u32 = AFFINITY_S_MAX + ROUND_ROBIN_CHAINS_MAX as u32;
const RELAY: u32 = 0x1_fffe;
const DROP: u32 = 0x1_ffff;

impl DispatchKey {
    /// Returns the number in the kernel: the count in bits 0 to 13, `guarded` in bit 14, and the affinity timeout in
    /// bits 15 to 31. Values above all timeouts are round-robin chains, relay and drop.
    #[must_use]
    pub fn code(self) -> u32 {
        let action = match self.action {
            Action::Reject => 0,
            Action::Forward { count, affinity_s } => affinity_s << AFFINITY_SHIFT | u32::from(count),
            Action::RoundRobin { number, count } => {
                (ROUND_ROBIN_MIN + u32::from(number)) << AFFINITY_SHIFT | u32::from(count)
            }
            Action::Relay => RELAY << AFFINITY_SHIFT,
            Action::Drop => DROP << AFFINITY_SHIFT,
        };
        action | if self.guarded { GUARD_BIT } else { 0 }
    }

    /// Parses a number; `None` if no ruleset contains it.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        let count = u16::try_from(code & COUNT_MASK).ok()?;
        let action = match (code >> AFFINITY_SHIFT, count) {
            (0, 0) => Action::Reject,
            (RELAY, 0) => Action::Relay,
            (DROP, 0) => Action::Drop,
            (_, 0) => return None,
            (affinity_s @ 0..=AFFINITY_S_MAX, count) => Action::Forward { count, affinity_s },
            (chain @ ROUND_ROBIN_MIN..=ROUND_ROBIN_MAX, count) => {
                Action::RoundRobin { number: u16::try_from(chain - ROUND_ROBIN_MIN).ok()?, count }
            }
            _ => return None,
        };
        Some(Self { action, guarded: code & GUARD_BIT != 0 })
    }
}

/// The name of the chain.
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

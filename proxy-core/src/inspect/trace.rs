//! `trace`: what a ruleset does with the first packet of a connection.
//!
//! It simulates the kernel on the typed ruleset. Tests use it to state behaviour, and `explain` for its result. The
//! random number is an argument.

use std::net::{IpAddr, SocketAddr};

use crate::model::service::Protocol;
use crate::routing::portal::PortalKey;
use crate::ruleset::dispatch::Action;
use crate::ruleset::{Rule, Ruleset, Settings};

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// The source address; `None` if it is unknown, which is in no source range.
    pub source: Option<IpAddr>,
    /// The destination.
    pub destination: PortalKey,
    /// The direction relative to the pod.
    pub direction: Direction,
}

/// The direction of a packet relative to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The pod sends it to another address.
    Sent,
    /// The pod forwards it for a guest: it arrived at an interface in `GuestInterfaces`.
    Forwarded,
    /// It arrived at another interface, from a neighbour.
    Inbound,
    /// Its destination is one of the pod's own addresses.
    ToPod,
}

impl Packet {
    /// Returns a packet that the pod sends to another address.
    #[must_use]
    pub const fn sent(source: Option<IpAddr>, destination: PortalKey) -> Self {
        Self { source, destination, direction: Direction::Sent }
    }
}

/// The result for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Forwarded to this backend.
    Forward(SocketAddr),
    /// Redirected to the relay.
    Relay,
    /// Rejected immediately: the portal has no backend.
    Reject,
    /// Dropped: the traffic policy excludes the portal's endpoints.
    Drop,
    /// Dropped: the source is not in the portal's source ranges.
    SourceDenied,
    /// Rejected: the destination is a cluster address, but not a port of its service.
    WrongPort,
    /// Dropped: the destination is in a service range, but not the address of a service.
    Unallocated,
    /// Not translated.
    Pass,
}

/// Simulates a packet. `draw` is the random number that selects a slot, or with round robin the number of previous
/// connections.
#[must_use]
pub fn trace(ruleset: &Ruleset, packet: &Packet, draw: u32) -> Trace {
    match packet.direction {
        Direction::Sent | Direction::Forwarded => {}
        Direction::Inbound | Direction::ToPod => return Trace::Pass,
    }
    let key = packet.destination;
    let Some(Rule { dispatch, backends, sources, .. }) = ruleset.rule(key) else {
        return without_portal(ruleset, key);
    };
    if dispatch.guarded {
        let is_allowed = |source: IpAddr| sources.iter().any(|net| net.contains(&source));
        if !packet.source.is_some_and(is_allowed) {
            return Trace::SourceDenied;
        }
    }
    match dispatch.action {
        Action::Reject => Trace::Reject,
        Action::Drop => Trace::Drop,
        Action::Relay => relay(ruleset),
        Action::Forward { count, .. } | Action::RoundRobin { count, .. } => {
            let slot = usize::try_from(draw % u32::from(count)).ok();
            // As in the kernel, an empty slot continues after the rule.
            let backend = slot.and_then(|slot| backends.get(slot));
            backend.map_or_else(|| without_portal(ruleset, key), |backend| Trace::Forward(*backend))
        }
    }
}

fn without_portal(ruleset: &Ruleset, PortalKey { address, protocol, .. }: PortalKey) -> Trace {
    if ruleset.has_address(address) {
        Trace::WrongPort
    } else if ruleset.ranges().iter().any(|net| net.contains(&address)) {
        let is_relayed = ruleset.is_on_demand() && protocol != Protocol::Sctp;
        if is_relayed { relay(ruleset) } else { Trace::Unallocated }
    } else {
        Trace::Pass
    }
}

/// Returns the result for packets that the relay serves.
fn relay(ruleset: &Ruleset) -> Trace {
    let is_listening = ruleset.settings().is_some_and(Settings::has_relay);
    if is_listening { Trace::Relay } else { Trace::Reject }
}

#[cfg(test)]
mod tests;

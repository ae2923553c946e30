//! `trace`: what a ruleset does with the first packet of a connection.
//!
//! This is the kernel's walk through the table, on the typed ruleset: tests speak about behaviour with
//! it, and `explain` answers with it. The random draw is an argument.

use std::net::{IpAddr, SocketAddr};

use crate::model::service::Protocol;
use crate::routing::portal::PortalKey;
use crate::ruleset::dispatch::Action;
use crate::ruleset::{Rule, Ruleset, Settings};

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from; none: not known, and no source range lets it in.
    pub source: Option<IpAddr>,
    /// Where it goes.
    pub destination: PortalKey,
    /// How it comes to the rules.
    pub direction: Direction,
}

/// How a packet comes to the rules of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The pod sends it to somebody else.
    Sent,
    /// The pod forwards it for a guest: it came by an interface that `GuestInterfaces` names.
    Forwarded,
    /// It came by any other interface, from a neighbour.
    Inbound,
    /// It goes to one of the pod's own addresses, whoever sends it.
    ToPod,
}

impl Packet {
    /// A packet that the pod sends to somebody else.
    #[must_use]
    pub const fn sent(source: Option<IpAddr>, destination: PortalKey) -> Self {
        Self { source, destination, direction: Direction::Sent }
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Sent to this backend.
    Forward(SocketAddr),
    /// Handed to the relay.
    Relay,
    /// Refusals at once: the portal has no backend.
    Reject,
    /// Dropped: the portal's endpoints may not be used from here.
    Drop,
    /// Dropped: the source is in none of the portal's ranges.
    SourceDenied,
    /// Refusals: a cluster address, but not a port of its service.
    WrongPort,
    /// Dropped: in a service range, but no service's address.
    Unallocated,
    /// Left as it is.
    Pass,
}

/// Walks a packet through the ruleset; `draw` is the random number that chooses a slot, or how many were
/// before it where backends take turns.
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
        let allowed = |source: IpAddr| sources.iter().any(|net| net.contains(&source));
        if !packet.source.is_some_and(allowed) {
            return Trace::SourceDenied;
        }
    }
    match dispatch.action {
        Action::Reject => Trace::Reject,
        Action::Drop => Trace::Drop,
        Action::Relay => relay(ruleset),
        Action::Forward { count, .. } | Action::RoundRobin { count, .. } => {
            let slot = usize::try_from(draw % u32::from(count)).ok();
            // A slot that is empty lets the rule go by, as in the kernel.
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

/// What becomes of what the relay is to serve.
fn relay(ruleset: &Ruleset) -> Trace {
    let is_listening = ruleset.settings().is_some_and(Settings::has_relay);
    if is_listening { Trace::Relay } else { Trace::Reject }
}

#[cfg(test)]
mod tests;

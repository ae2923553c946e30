//! `Target`: one set of backends of a service port, with its number in the kernel and the slots of its backends.
//!
//! The cluster address, the external addresses and the node port of a port share a target, so a changed endpoint is one
//! or two changed elements, however many addresses a service has. A port has two targets if it serves clients outside
//! the cluster by local endpoints only.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::chain::{BackendSelection, NodeChain, OwnChain};
use crate::model::address::Family;
use crate::model::digest::digest;
use crate::model::service::{AFFINITY_S_MAX, Protocol, ServiceKey, TrafficPolicy};
use crate::routing::portal::{ExternalTarget, Portal, Verdict};
use crate::ruleset::rule::{ids, slots};

/// The number of targets that a table can contain: a number has 18 bits.
pub const TARGETS_MAX: u32 = 1 << 18;

const CODE_BITS: u32 = 14;

/// The number of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetNumber(u32);

impl TargetNumber {
    /// Returns the number; `None` if it is too large.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (number < TARGETS_MAX).then_some(Self(number))
    }

    /// Returns the number in the key of a backend. The code of a frontend is masked out of its value, so the number
    /// stays in the upper bits.
    #[must_use]
    pub const fn key(self) -> u32 {
        self.0 << CODE_BITS
    }

    /// Parses the number in the key of a backend.
    #[must_use]
    pub fn from_key(key: u32) -> Option<Self> {
        (key & u32::from(code::MASK) == 0).then_some(Self(key >> CODE_BITS))
    }

    pub(super) const fn next(self) -> Self {
        Self((self.0 + 1) % TARGETS_MAX)
    }
}

impl fmt::Display for TargetNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What happens to the first packet of a connection to a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendAction {
    /// It is rejected.
    Reject,
    /// It is dropped.
    Drop,
    /// It is forwarded to one of the backends, in slots 0 to count - 1, at random.
    Forward(TargetNumber, u16),
    /// The target's own chain selects the backend.
    OwnChain(TargetNumber),
}

impl FrontendAction {
    /// Returns its number in the kernel: the code, and above it the number of the target.
    #[must_use]
    pub const fn value(self) -> u32 {
        match self {
            Self::Reject => code::REJECT as u32,
            Self::Drop => code::DROP as u32,
            Self::Forward(target, count) => target.key() | count as u32,
            Self::OwnChain(target) => target.key() | code::OWN_CHAIN as u32,
        }
    }

    /// Parses a number; `None` if no table contains it.
    #[must_use]
    pub fn from_value(value: u32) -> Option<Self> {
        let target = TargetNumber(value >> CODE_BITS);
        match u16::try_from(value & u32::from(code::MASK)).ok()? {
            code::REJECT => (target.0 == 0).then_some(Self::Reject),
            code::DROP => (target.0 == 0).then_some(Self::Drop),
            code::OWN_CHAIN => Some(Self::OwnChain(target)),
            count @ 1..=code::COUNT_MAX => Some(Self::Forward(target, count)),
            _ => None,
        }
    }

    /// Returns the target.
    #[must_use]
    pub const fn target(self) -> Option<TargetNumber> {
        match self {
            Self::Reject | Self::Drop => None,
            Self::Forward(target, _) | Self::OwnChain(target) => Some(target),
        }
    }
}

/// What the maps of frontends contain: an action, and whether other rules are evaluated before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendValue {
    /// The action; with `has_short`, only for clients outside the cluster.
    pub action: FrontendAction,
    /// Whether clients in the cluster have another action.
    pub has_short: bool,
    /// Whether the source of a connection is checked.
    pub is_guarded: bool,
}

impl FrontendValue {
    /// Returns its number in the kernel: that of the action, with flags in the code.
    #[must_use]
    pub const fn value(self) -> u32 {
        let short = if self.has_short { code::SHORT } else { 0 };
        let guarded = if self.is_guarded { code::GUARDED } else { 0 };
        self.action.value() | (short | guarded) as u32
    }

    /// Parses a number; `None` if no table contains it.
    #[must_use]
    pub fn from_value(value: u32) -> Option<Self> {
        let flags = u32::from(code::FLAGS);
        Some(Self {
            action: FrontendAction::from_value(value & !flags)?,
            has_short: value & u32::from(code::SHORT) != 0,
            is_guarded: value & u32::from(code::GUARDED) != 0,
        })
    }
}

/// Codes: bits 0 to 13 of a frontend's number, and the keys of the maps `codes` and `picks`, which lead to chains.
///
/// A code is a number of backends, or a constant, with flags. A code with flags leads to the chain that evaluates them,
/// and continues with `picks`, whose keys have no flags: the kernel rejects maps that lead back to a chain that uses them.
pub mod code {
    /// All bits of a code.
    pub const MASK: u16 = (1 << super::CODE_BITS) - 1;
    /// The source of a connection is checked first.
    pub const GUARDED: u16 = 1 << 13;
    /// Clients in the cluster have another action.
    pub const SHORT: u16 = 1 << 12;
    /// The flags.
    pub const FLAGS: u16 = GUARDED | SHORT;
    /// The combinations of flags.
    pub const ALL_FLAGS: [u16; 4] = [0, SHORT, GUARDED, FLAGS];
    /// Rejected.
    pub const REJECT: u16 = 0;
    /// Handled by the target's own chain.
    pub const OWN_CHAIN: u16 = SHORT - 2;
    /// Dropped.
    pub const DROP: u16 = SHORT - 1;
    /// The largest number of backends with a shared chain.
    pub const COUNT_MAX: u16 = OWN_CHAIN - 1;
}

/// Identifies a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TargetKey {
    service: ServiceKey,
    port_name: Arc<str>,
    protocol: Protocol,
    pub(super) family: Family,
    is_local: bool,
}

impl TargetKey {
    fn new(portal: &Portal, policy: TrafficPolicy) -> Self {
        Self {
            service: portal.service.clone(),
            port_name: portal.port_name.clone(),
            protocol: portal.key.protocol,
            family: Family::of(portal.key.address),
            is_local: policy == TrafficPolicy::Local,
        }
    }

    /// Returns the preferred number.
    pub(super) fn preferred(&self) -> TargetNumber {
        let Self { service, port_name, protocol, family, is_local } = self;
        let digest = digest(format_args!("{service} {port_name} {protocol} {family} {is_local}"));
        // FNV-1a mixes its low bits worst, so the high half is folded in.
        let folded = digest ^ (digest >> 32);
        TargetNumber(u32::try_from(folded % u64::from(TARGETS_MAX)).unwrap_or_default())
    }
}

/// The desired backends of a target.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) key: TargetKey,
    selection: BackendSelection,
    backends: Arc<[SocketAddr]>,
}

/// What a portal requires for one kind of clients.
#[derive(Debug, Clone)]
pub(super) enum Requirement {
    Reject,
    Drop,
    Forward(Desired),
}

impl Requirement {
    /// Returns what clients in the cluster and on the node get.
    pub(super) fn in_cluster(portal: &Portal) -> Self {
        Self::new(portal, portal.verdict, &portal.backends, portal.policy)
    }

    /// Returns what clients outside the cluster get, if the portal's service has `externalTrafficPolicy: Local`.
    pub(super) fn external(portal: &Portal) -> Option<Self> {
        let ExternalTarget { verdict, backends } = portal.node.as_ref()?.external.as_ref()?;
        Some(Self::new(portal, *verdict, backends, TrafficPolicy::Local))
    }

    fn new(portal: &Portal, verdict: Verdict, backends: &Arc<[SocketAddr]>, policy: TrafficPolicy) -> Self {
        match verdict {
            Verdict::Reject => Self::Reject,
            Verdict::Drop => Self::Drop,
            Verdict::Forward if backends.is_empty() => Self::Reject,
            Verdict::Forward => {
                let selection = match portal.affinity_s {
                    Some(affinity_s) => BackendSelection::Affinity(affinity_s.clamp(1, AFFINITY_S_MAX)),
                    None if portal.is_round_robin() && backends.len() > 1 => BackendSelection::RoundRobin,
                    None => BackendSelection::Random,
                };
                Self::Forward(Desired {
                    key: TargetKey::new(portal, policy),
                    selection,
                    backends: Arc::clone(backends),
                })
            }
        }
    }
}

/// A target in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `None` if the target was read from the kernel, and no portal has claimed it yet.
    pub(super) key: Option<TargetKey>,
    /// The address family.
    pub family: Family,
    /// How a backend is selected.
    pub selection: BackendSelection,
    /// The backends by slot.
    pub backends: Arc<[SocketAddr]>,
    /// With session affinity: the id of each backend, which does not change if its slot does.
    pub ids: Arc<[u32]>,
    /// The number of frontends that lead to it.
    pub(super) users: usize,
}

impl Target {
    /// Returns the target for the desired backends. A remaining backend keeps its slot and its id.
    pub(super) fn new(desired: &Desired, old: Option<&Self>) -> Self {
        let Desired { key, selection, backends } = desired;
        let backends: Arc<[SocketAddr]> = match old {
            Some(old) => slots(&old.backends, backends).into(),
            None => Arc::clone(backends),
        };
        let known = old.into_iter().flat_map(|old| old.backends.iter().zip(old.ids.iter()));
        let ids = match selection {
            BackendSelection::Affinity(_) => ids(&backends, known).into(),
            BackendSelection::Random | BackendSelection::RoundRobin => Arc::default(),
        };
        let users = old.map_or(0, |old| old.users);
        Self { key: Some(key.clone()), family: key.family, selection: *selection, backends, ids, users }
    }

    /// Returns the number of backends.
    #[must_use]
    pub fn count(&self) -> u16 {
        // A portal has fewer (`BACKENDS_MAX`).
        u16::try_from(self.backends.len()).unwrap_or(u16::MAX)
    }

    /// Whether it shares its chain with other targets that have the same number of backends.
    fn has_shared_chain(&self) -> bool {
        self.selection == BackendSelection::Random && self.count() <= code::COUNT_MAX
    }

    /// Returns the action of a frontend that leads to this target.
    pub(super) fn action(&self, number: TargetNumber) -> FrontendAction {
        if self.has_shared_chain() {
            FrontendAction::Forward(number, self.count())
        } else {
            FrontendAction::OwnChain(number)
        }
    }

    /// Returns the chain that selects a backend.
    pub(super) fn chain(&self, number: TargetNumber) -> NodeChain {
        let Self { family, selection, .. } = *self;
        let count = self.count();
        if self.has_shared_chain() {
            NodeChain::Pick(count)
        } else {
            NodeChain::Own(OwnChain { number, family, selection, count })
        }
    }
}

//! `NodeChain`: the chains that select a backend.

use std::fmt;

use serde::Serialize;

use super::target::TargetNumber;
use crate::model::address::Family;

/// How a target selects a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendSelection {
    /// At random.
    Random,
    /// At random for new clients; known clients stay with their backend for this time, in seconds.
    Affinity(u32),
    /// By strict round robin.
    RoundRobin,
}

/// The chain of a target with session affinity, with strict round robin, or with more backends than shared chains have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnChain {
    /// The target.
    pub number: TargetNumber,
    /// Its address family.
    pub family: Family,
    /// How it selects a backend.
    pub selection: BackendSelection,
    /// The number of its backends.
    pub count: u16,
}

/// A chain that selects a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeChain {
    /// Shared by all targets with this number of backends.
    Pick(u16),
    /// The chain of one target.
    Own(OwnChain),
}

/// The name of the chain, which contains everything on which its rules depend.
impl fmt::Display for NodeChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pick(count) => write!(f, "pick-{count}"),
            Self::Own(OwnChain { number, family, selection, count }) => {
                let family = if *family == Family::V4 { 4 } else { 6 };
                match selection {
                    BackendSelection::Affinity(seconds) => {
                        write!(f, "own{family}-{number}-{count}-sticky-{seconds}s")
                    }
                    BackendSelection::RoundRobin => write!(f, "own{family}-{number}-{count}-turn"),
                    BackendSelection::Random => write!(f, "own{family}-{number}-{count}-random"),
                }
            }
        }
    }
}

impl NodeChain {
    /// Parses the name of a chain.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let chain = Self::parse_parts(name)?;
        (chain.to_string() == name).then_some(chain)
    }

    fn parse_parts(name: &str) -> Option<Self> {
        if let Some(count) = name.strip_prefix("pick-") {
            return Some(Self::Pick(count.parse().ok()?));
        }
        let family = match name.get(..5)? {
            "own4-" => Family::V4,
            "own6-" => Family::V6,
            _ => return None,
        };
        let (number, rest) = name.get(5..)?.split_once('-')?;
        let (count, selection) = rest.split_once('-')?;
        let selection = match selection.strip_prefix("sticky-") {
            Some(seconds) => BackendSelection::Affinity(seconds.strip_suffix('s')?.parse().ok()?),
            None if selection == "turn" => BackendSelection::RoundRobin,
            None if selection == "random" => BackendSelection::Random,
            None => return None,
        };
        let number = TargetNumber::new(number.parse().ok()?)?;
        Some(Self::Own(OwnChain { number, family, selection, count: count.parse().ok()? }))
    }
}

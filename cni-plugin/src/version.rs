//! `Version`: the versions of CNI that can be chained, from 0.3.0 on.
//!
//! The order is that of time, so that what came with a version can be asked for. What must not go in here:
//! how a result looks in each; it is passed through.

use crate::failure::{Code, Failure};

/// A version of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    /// CHECK came.
    V0_4_0,
    V1_0_0,
    /// GC and STATUS came.
    V1_1_0,
}

impl Version {
    pub(crate) const LATEST: Self = Self::V1_1_0;
    const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version with exactly this name, as the runtime compares them.
    pub(crate) fn named(name: &str) -> Result<Self, Failure> {
        Self::ALL.into_iter().find(|version| version.name() == name).ok_or_else(|| {
            let supported = Self::ALL.map(Self::name).join(", ");
            let why = if name.is_empty() {
                // So says the specification.
                format!("no cniVersion, which means 0.1.0; supported are {supported}")
            } else {
                format!("cniVersion {name:?} is not supported; supported are {supported}")
            };
            Failure::new(Code::IncompatibleVersion, why)
        })
    }

    /// Refuses a verb that came later.
    pub(crate) fn needs(self, verb: &str, since: Self) -> Result<(), Failure> {
        if self >= since {
            return Ok(());
        }
        let why =
            format!("{verb} came with cniVersion {}, the configuration says {}", since.name(), self.name());
        Err(Failure::new(Code::IncompatibleVersion, why))
    }

    /// The answer to VERSION.
    pub(crate) fn answer() -> String {
        let supported = Self::ALL.map(|version| format!("\"{}\"", version.name())).join(",");
        format!("{{\"cniVersion\":\"{}\",\"supportedVersions\":[{supported}]}}", Self::LATEST.name())
    }
}

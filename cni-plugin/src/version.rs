//! `Version`: the versions of the CNI specification with chained plugins, from 0.3.0 on.
//!
//! The versions are ordered by time, so that a verb can be compared with the version that introduced it.

use crate::error::{CniError, Code};

/// The version of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    /// Introduced CHECK.
    V0_4_0,
    V1_0_0,
    /// Introduced GC and STATUS.
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

    /// Parses a version, exactly as runtimes compare them.
    pub(crate) fn from_name(name: &str) -> Result<Self, CniError> {
        Self::ALL.into_iter().find(|version| version.name() == name).ok_or_else(|| {
            let supported = Self::ALL.map(Self::name).join(", ");
            let why = if name.is_empty() {
                // The specification defines 0.1.0 as the default.
                format!("no cniVersion, which means 0.1.0 (supported: {supported})")
            } else {
                format!("unsupported cniVersion {name:?} (supported: {supported})")
            };
            CniError::new(Code::IncompatibleVersion, why)
        })
    }

    /// Rejects a verb that a later version introduced.
    pub(crate) fn require(self, verb: &str, since: Self) -> Result<(), CniError> {
        if self >= since {
            return Ok(());
        }
        let why =
            format!("{verb} requires cniVersion {}, the configuration has {}", since.name(), self.name());
        Err(CniError::new(Code::IncompatibleVersion, why))
    }

    /// The result of VERSION.
    pub(crate) fn version_result() -> String {
        let supported = Self::ALL.map(|version| format!("\"{}\"", version.name())).join(",");
        format!("{{\"cniVersion\":\"{}\",\"supportedVersions\":[{supported}]}}", Self::LATEST.name())
    }
}

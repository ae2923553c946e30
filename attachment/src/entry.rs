//! The plugin's entry in a CNI configuration: what it may hold, as the plugin reads it and the agent checks it.
//!
//! What must not go in here: reading a file, or what is done with a value.

/// Our type.
pub const PLUGIN_TYPE: &str = "portico-cni";
/// The capability by which runtimes pass a pod's annotations.
pub const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// Annotations that begin so are ours.
pub const ANNOTATION_PREFIX: &str = "portico.dev/";
/// How runtimes name what is CNI's own, beside the keys below.
const CNI_PREFIX: &str = "cni.dev/";
/// What the specification, libcni and we know.
const KNOWN: [&str; 19] = [
    "args",
    "capabilities",
    "cniVersion",
    "cniVersions",
    "disableCheck",
    "disableGC",
    "dns",
    "ipMasq",
    "ipam",
    "loadOnlyInlinedPlugins",
    "name",
    "onAgentDown",
    "plugins",
    "prevResult",
    "runtimeConfig",
    "socket",
    "stateDir",
    "type",
    "$schema",
];

/// Whether a key means something to anybody; another is a typing error, perhaps.
#[must_use]
pub fn is_known_key(key: &str) -> bool {
    KNOWN.contains(&key) || key.starts_with(CNI_PREFIX)
}

/// What to do with a pod while no agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnAgentDown {
    /// Program it from the agent's last snapshot.
    #[default]
    Snapshot,
    /// Have the runtime try again later.
    Fail,
    /// Let it start without portals.
    Ignore,
}

impl OnAgentDown {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Snapshot, Self::Fail, Self::Ignore];

    /// How the configuration names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Fail => "fail",
            Self::Ignore => "ignore",
        }
    }

    /// The choice of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

//! The plugin's entry in a CNI configuration: what it may hold, as the plugin reads it and the agent checks it.
//!
//! What must not go in here: reading a file, or what is done with a value.

use crate::connection::SOCKET_DEFAULT;
use crate::record::STATE_DIR_DEFAULT;

/// Our type.
pub const PLUGIN_TYPE: &str = "portico-cni";
/// The capability by which runtimes pass a pod's annotations.
pub const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// How runtimes name what is CNI's own, beside the keys below.
const CNI_PREFIX: &str = "cni.dev/";
/// What the specification and libcni know, beside our own.
const KNOWN: [&str; 16] = [
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
    "plugins",
    "prevResult",
    "runtimeConfig",
    "type",
    "$schema",
];

/// A key of the entry that is ours; docs/reference/portico-cni.md is made of them.
#[derive(Debug, Clone, Copy)]
pub struct ConfigKey {
    /// How it is written.
    pub name: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it says.
    pub description: &'static str,
}

/// Where the agent listens.
pub const SOCKET: ConfigKey = ConfigKey {
    name: "socket",
    default: SOCKET_DEFAULT,
    description: "The agent's socket, an absolute path.",
};
/// Where records and rulesets lie.
pub const STATE_DIR: ConfigKey = ConfigKey {
    name: "stateDir",
    default: STATE_DIR_DEFAULT,
    description: "Where records of attachments and the last ruleset lie, an absolute path; the agent's `--state-dir`.",
};
/// What to do while no agent answers.
pub const ON_AGENT_DOWN: ConfigKey = ConfigKey {
    name: "onAgentDown",
    default: OnAgentDown::Snapshot.name(),
    description: "What happens to a pod that starts while no agent answers. `snapshot`: the plugin programs it from the last \
           ruleset. `fail`: the runtime tries again later. `ignore`: it starts without portals, and the agent repairs it \
           when it is back.",
};
/// All keys of ours.
pub const PLUGIN_KEYS: [ConfigKey; 3] = [SOCKET, STATE_DIR, ON_AGENT_DOWN];

/// Whether a key means something to anybody; another is a typing error, perhaps.
#[must_use]
pub fn is_known_key(key: &str) -> bool {
    PLUGIN_KEYS.iter().any(|own| own.name == key) || KNOWN.contains(&key) || key.starts_with(CNI_PREFIX)
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
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

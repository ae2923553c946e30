//! The plugin's entry in a CNI configuration: its keys, and the names that the CNI specification permits.
//!
//! The plugin reads these keys, `portico install` writes them, and `portico check` verifies them.

use crate::connection::SOCKET_DEFAULT;
use crate::record::STATE_DIR_DEFAULT;

/// The value of `type`.
pub const PLUGIN_TYPE: &str = "portico-cni";
/// The capability by which runtimes pass a pod's annotations.
pub const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// The capability by which runtimes pass a pod's DNS configuration.
pub const DNS_CAPABILITY: &str = "dns";
/// The prefix of keys that the CNI specification reserves.
const CNI_PREFIX: &str = "cni.dev/";
/// Keys of the CNI specification and of libcni.
const STANDARD_KEYS: [&str; 16] = [
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

/// A key of the plugin's entry. docs/reference/portico-cni.md is generated from these.
#[derive(Debug, Clone, Copy)]
pub struct ConfigKey {
    /// The key.
    pub name: &'static str,
    /// The value if the key is missing.
    pub default: &'static str,
    /// The description in the reference.
    pub description: &'static str,
}

/// The agent's socket.
pub const SOCKET: ConfigKey = ConfigKey {
    name: "socket",
    default: SOCKET_DEFAULT,
    description: "The agent's socket, an absolute path.",
};
/// The directory of records and rulesets.
pub const STATE_DIR: ConfigKey = ConfigKey {
    name: "stateDir",
    default: STATE_DIR_DEFAULT,
    description: "The directory of attachment records and the ruleset snapshot, an absolute path; the agent's \
                  `--state-dir`.",
};
/// The behaviour of the plugin if no agent is running.
pub const ON_AGENT_DOWN: ConfigKey = ConfigKey {
    name: "onAgentDown",
    default: OnAgentDown::Snapshot.name(),
    description: "What happens to a pod that starts while no agent is running. `snapshot`: the plugin programs it from \
                  the last ruleset. `fail`: the runtime retries later. `ignore`: it starts without portals, and the \
                  agent programs it once it is running.",
};
/// All keys of the plugin.
pub const PLUGIN_KEYS: [ConfigKey; 3] = [SOCKET, STATE_DIR, ON_AGENT_DOWN];

/// Whether a key is known; an unknown one may be a typing error.
#[must_use]
pub fn is_known_key(key: &str) -> bool {
    PLUGIN_KEYS.iter().any(|known| known.name == key)
        || STANDARD_KEYS.contains(&key)
        || key.starts_with(CNI_PREFIX)
}

/// Whether a text is valid as a container id or as the name of a network, by the CNI specification.
#[must_use]
pub fn is_cni_name(text: &str) -> bool {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && text.bytes().all(is_valid)
}

/// What the plugin does with a pod if no agent is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnAgentDown {
    /// Program it from the agent's last snapshot.
    #[default]
    Snapshot,
    /// Make the runtime retry later.
    Fail,
    /// Let it start without portals.
    Ignore,
}

impl OnAgentDown {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Snapshot, Self::Fail, Self::Ignore];

    /// The value in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Fail => "fail",
            Self::Ignore => "ignore",
        }
    }

    /// Parses the value in the configuration.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

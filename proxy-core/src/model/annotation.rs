//! Every annotation of ours: its key, where it stands, what it may say and what that does.
//!
//! They are read in several places, and each must be found in one: readers take the key, and where they complain, the
//! values, from here; docs/reference/annotations.md is made of this table. What must not go in here: reading.

/// What the key of each annotation of ours begins with.
pub const PREFIX: &str = "portico.dev/";

/// On which objects an annotation stands, and so who writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppliesTo {
    /// A Service, by its owner.
    Service,
    /// A Pod, by its owner.
    Pod,
    /// A Pod, or its Namespace for all pods that do not say it themselves.
    PodOrNamespace,
    /// What Portico itself writes; nobody else is to.
    Written,
}

/// One annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation {
    /// The whole key.
    pub key: &'static str,
    /// Where it stands.
    pub applies_to: AppliesTo,
    /// What it may say, as a sentence goes on after "is not".
    pub values: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does, for its owner.
    pub description: &'static str,
    /// Which of our programs reads it.
    pub reader: &'static str,
}

impl Annotation {
    /// The key without `portico.dev/`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.key.strip_prefix(PREFIX).unwrap_or(self.key)
    }
}

/// How a service's connections are served.
pub const MODE: Annotation = Annotation {
    key: "portico.dev/mode",
    applies_to: AppliesTo::Service,
    values: "kernel or relay",
    default: "the agent's `--mode`: `kernel`",
    description: "`kernel`: rules translate the address. `relay`: the agent takes connections on sockets inside the pod's network \
           namespace, and tries another backend where one does not answer.",
    reader: "agent",
};

/// Which backend is next.
pub const SCHEDULER: Annotation = Annotation {
    key: "portico.dev/scheduler",
    applies_to: AppliesTo::Service,
    values: "random, rr, lc, dh, sh, sed or nq",
    default: "`random` in the kernel, `rr` in the relay",
    description: "`random`; `rr` strictly in turn; `lc` the fewest connections; `sed` the shortest expected delay (connections and \
           the time to answer); `nq` one without connections, else as `sed`; `sh` by the client's address, `dh` by the \
           portal's. All but `random` and `rr` make the service relayed.",
    reader: "agent",
};

/// From where the relay reaches backends.
pub const DIAL: Annotation = Annotation {
    key: "portico.dev/dial",
    applies_to: AppliesTo::Service,
    values: "pod, node or auto",
    default: "`pod`",
    description: "From where the relay reaches backends: `pod`; `node`, for those that the pod's interface cannot reach (macvlan \
           and its own node); `auto`: the pod, and where that leads nowhere the node. Backends and network policies see \
           that address. `node` and `auto` count only in namespaces that the agent's `--dial-from-node` lists.",
    reader: "agent",
};

/// How long a connection waits for a first backend.
pub const HOLD: Annotation = Annotation {
    key: "portico.dev/hold",
    applies_to: AppliesTo::Service,
    values: "a time such as 10s, 500ms or 2m, at most 300s",
    default: "none: it is refused",
    description: "So long does a relayed connection to a service without a backend wait for the first one (scale from zero).",
    reader: "agent",
};

/// Which other namespaces may have a service's variables.
pub const EXPORT: Annotation = Annotation {
    key: "portico.dev/export",
    applies_to: AppliesTo::Service,
    values: "true, false or names of namespaces with commas",
    default: "`false`",
    description: "Whose pods may ask for this service's variables, besides those of its own namespace.",
    reader: "webhook",
};

/// Which services a pod reaches.
pub const PORTALS: Annotation = Annotation {
    key: "portico.dev/portals",
    applies_to: AppliesTo::Pod,
    values: "all, none, or NAME and NAMESPACE/NAME, with commas",
    default: "`all`",
    description: "Which services have portals in the pod. A name alone is one of the pod's own namespace. It is read when the pod \
           starts; a mistake keeps it from starting, and the event says why. A list has to name the cluster's DNS \
           service, too.",
    reader: "plugin, agent",
};

/// Behind which interfaces of a pod guests are.
pub const GUEST_INTERFACES: Annotation = Annotation {
    key: "portico.dev/guest-interfaces",
    applies_to: AppliesTo::Pod,
    values: "names of interfaces, or how they begin and a star, with commas: tap0,k6t-*",
    default: "none: the pod has no guests",
    description: "Interfaces of the pod behind which guests are, such as virtual machines, whose connections the pod forwards: \
           they have the pod's portals. What comes in by any other interface has none. It is read when the pod starts; a \
           mistake keeps it from starting, and so does the interface of an attachment: neighbours are no guests.",
    reader: "plugin, agent",
};

/// Whether and how variables are injected.
pub const INJECT: Annotation = Annotation {
    key: "portico.dev/inject",
    applies_to: AppliesTo::PodOrNamespace,
    values: "true, false, inline, configmap or auto",
    default: "`true`: the webhook's `--mode`",
    description: "`false`: the pod is left alone. `inline`: at the beginning of each container's `env`. `configmap`: a managed \
           ConfigMap as the first of `envFrom`. `auto`: inline where that gives exactly what the kubelet would, a ConfigMap \
           where not and the pod has a controller.",
    reader: "webhook",
};

/// Which services give variables.
pub const SERVICES: Annotation = Annotation {
    key: "portico.dev/services",
    applies_to: AppliesTo::PodOrNamespace,
    values: "NAME, ALIAS=NAME or ALIAS=NAMESPACE/NAME",
    default: "what the kubelet would give",
    description: "These services alone give variables, with commas. One of another namespace needs an alias, and must be exported \
           to the pod's.",
    reader: "webhook",
};

/// What variables' names begin with.
pub const VARIABLE_PREFIX: Annotation = Annotation {
    key: "portico.dev/prefix",
    applies_to: AppliesTo::PodOrNamespace,
    values: "letters, digits and _, no digit first",
    default: "none",
    description: "What each variable's name begins with, so that `REDIS_PORT` of a service and of a program do not clash.",
    reader: "webhook",
};

/// Which variables a service gives.
pub const FORMS: Annotation = Annotation {
    key: "portico.dev/forms",
    applies_to: AppliesTo::PodOrNamespace,
    values: "all, named or host-port",
    default: "`all`",
    description: "`host-port`: `_SERVICE_HOST` and `_SERVICE_PORT`. `named`: also `_SERVICE_PORT_` and the name of each port. `all`: \
           also the Docker links, as the kubelet gives them.",
    reader: "webhook",
};

/// Which services must be there.
pub const REQUIRE: Annotation = Annotation {
    key: "portico.dev/require",
    applies_to: AppliesTo::PodOrNamespace,
    values: "NAME, NAMESPACE/NAME or an alias of portico.dev/services",
    default: "none",
    description: "Services that must be there, with commas.",
    reader: "webhook",
};

/// What happens where a required service is missing.
pub const ON_MISSING: Annotation = Annotation {
    key: "portico.dev/on-missing",
    applies_to: AppliesTo::PodOrNamespace,
    values: "warn, wait or deny",
    default: "`warn`",
    description: "What happens where a required service is not there. `warn`: the pod starts, with a warning. `wait`: its \
           containers wait for it. `deny`: the pod is refused, also where an annotation cannot be read.",
    reader: "webhook",
};

/// How many bytes of variables there may be.
pub const MAX_BYTES: Annotation = Annotation {
    key: "portico.dev/max-bytes",
    applies_to: AppliesTo::PodOrNamespace,
    values: "a number such as 4096, 64Ki or 1Mi",
    default: "no limit",
    description: "The most bytes of variables in a container. Services that do not fit are left out as a whole, and named in a \
           warning.",
    reader: "webhook",
};

/// What was injected.
pub const INJECTED: Annotation = Annotation {
    key: "portico.dev/injected",
    applies_to: AppliesTo::Written,
    values: "a summary for people",
    default: "",
    description: "On a pod: what was injected. By it the webhook knows that `enableServiceLinks: false` is its own work.",
    reader: "webhook",
};

/// Which pods the controller of ConfigMaps looks at.
pub const VARIABLES: Annotation = Annotation {
    key: "portico.dev/variables",
    applies_to: AppliesTo::Written,
    values: "configmap or warnings",
    default: "",
    description: "A label on a pod. `configmap`: the pod refers to managed ConfigMaps, and a controller makes what its selection \
           says. `warnings`: the pod has warnings alone.",
    reader: "webhook",
};

/// Which variables a pod or a managed ConfigMap has.
pub const SELECTION: Annotation = Annotation {
    key: "portico.dev/selection",
    applies_to: AppliesTo::Written,
    values: "a selection of services, as text",
    default: "",
    description: "On a pod: what its managed ConfigMaps are to hold; they are named after a digest of this text. On a managed \
           ConfigMap: what it holds.",
    reader: "webhook",
};

/// How many managed ConfigMaps a pod refers to.
pub const PARTS: Annotation = Annotation {
    key: "portico.dev/parts",
    applies_to: AppliesTo::Written,
    values: "a number from 1 to 16",
    default: "`1`",
    description: "On a pod: without how many managed ConfigMaps it cannot start.",
    reader: "webhook",
};

/// What whoever made a pod was warned of.
pub const WARNINGS: Annotation = Annotation {
    key: "portico.dev/warnings",
    applies_to: AppliesTo::Written,
    values: "one warning a line",
    default: "",
    description: "On a pod: the warnings of its admission. Where a controller made the pod, an Event on that quotes them.",
    reader: "webhook",
};

/// What stands for the data of a managed ConfigMap.
pub const CONTENT: Annotation = Annotation {
    key: "portico.dev/content",
    applies_to: AppliesTo::Written,
    values: "a digest, the number of variables and their bytes",
    default: "",
    description: "On a managed ConfigMap: what stands for its data, so that no replica has to read that back.",
    reader: "webhook",
};

/// When a managed ConfigMap of release 0.1.0 was last asked for.
pub const USED: Annotation = Annotation {
    key: "portico.dev/used",
    applies_to: AppliesTo::Written,
    values: "seconds since 1970",
    default: "",
    description: "On a managed ConfigMap of release 0.1.0: when a pod last asked for it. Nothing reads it any more.",
    reader: "webhook of 0.1.0",
};

/// All of them.
pub const ALL: [Annotation; 21] = [
    MODE,
    SCHEDULER,
    DIAL,
    HOLD,
    EXPORT,
    PORTALS,
    GUEST_INTERFACES,
    INJECT,
    SERVICES,
    VARIABLE_PREFIX,
    FORMS,
    REQUIRE,
    ON_MISSING,
    MAX_BYTES,
    INJECTED,
    VARIABLES,
    SELECTION,
    PARTS,
    WARNINGS,
    CONTENT,
    USED,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::{Dial, HOLD_MS_MAX, Scheduler};

    #[test]
    fn each_is_ours_and_none_is_there_twice() {
        for (index, annotation) in ALL.iter().enumerate() {
            assert!(
                annotation.key.starts_with(PREFIX) && !annotation.name().is_empty(),
                "{}",
                annotation.key
            );
            assert!(ALL[..index].iter().all(|earlier| earlier.key != annotation.key), "{}", annotation.key);
        }
    }

    #[test]
    fn what_a_service_may_say_is_what_there_is() {
        let words = |values: &'static str| values.split([',', ' ']).collect::<Vec<_>>();
        for scheduler in Scheduler::ALL {
            assert!(words(SCHEDULER.values).contains(&scheduler.name()), "{}", scheduler.name());
        }
        for (name, _) in Dial::NAMES {
            assert!(words(DIAL.values).contains(&name), "{name}");
        }
        assert!(words(HOLD.values).contains(&format!("{}s", HOLD_MS_MAX / 1_000).as_str()));
    }
}

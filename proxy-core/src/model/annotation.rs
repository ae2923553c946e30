//! The annotations of Portico: keys, objects, values and effects.
//!
//! Several components read annotations. They take the keys from here, and the values for their error messages.
//! docs/reference/annotations.md is generated from this table.

/// The prefix of the keys.
pub const PREFIX: &str = "portico.dev/";

/// The objects to which an annotation applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppliesTo {
    /// A service.
    Service,
    /// A pod.
    Pod,
    /// A pod, or its namespace as the default of its pods.
    PodOrNamespace,
    /// A node.
    Node,
    /// Objects on which Portico itself writes the annotation.
    Written,
}

/// An annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Annotation {
    /// The complete key.
    pub key: &'static str,
    /// The objects to which it applies.
    pub applies_to: AppliesTo,
    /// The valid values, as they follow "must be" or "is not" in a message.
    pub values: &'static str,
    /// The default.
    pub default: &'static str,
    /// The effect.
    pub description: &'static str,
    /// The component that reads it.
    pub reader: &'static str,
}

impl Annotation {
    /// Returns the key without `portico.dev/`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.key.strip_prefix(PREFIX).unwrap_or(self.key)
    }
}

/// How connections to a service are served.
pub const MODE: Annotation = Annotation {
    key: "portico.dev/mode",
    applies_to: AppliesTo::Service,
    values: "kernel or relay",
    default: "the agent's `--mode`: `kernel`",
    description: "`kernel`: rules translate the address. `relay`: the agent accepts connections on sockets in the \
                  pod's network namespace, and tries another backend if one does not respond.",
    reader: "agent",
};

/// How the backend of a connection is selected.
pub const SCHEDULER: Annotation = Annotation {
    key: "portico.dev/scheduler",
    applies_to: AppliesTo::Service,
    values: "random, rr, lc, dh, sh, sed or nq",
    default: "`random` in the kernel, `rr` in the relay",
    description: "How the backend of a connection is selected. `random`. `rr`: strict round robin. `lc`: the fewest \
                  connections. `sed`: the shortest expected delay (connections and response time). `nq`: a backend \
                  without connections, otherwise as `sed`. `sh`: by the client's address. `dh`: by the portal's \
                  address. All except `random` and `rr` make the service relayed.",
    reader: "agent",
};

/// The network namespace from which the relay connects to backends.
pub const DIAL: Annotation = Annotation {
    key: "portico.dev/dial",
    applies_to: AppliesTo::Service,
    values: "pod, node or auto",
    default: "`pod`",
    description: "The network namespace from which the relay connects to backends. `pod`. `node`: for backends that \
                  the pod's interface cannot reach (macvlan and its own node). `auto`: the pod's, and if that fails, \
                  the node's. Backends and network policies see the address there. `node` and `auto` are effective \
                  only in namespaces that the agent's `--dial-from-node` lists.",
    reader: "agent",
};

/// How long a connection waits for a first backend.
pub const HOLD: Annotation = Annotation {
    key: "portico.dev/hold",
    applies_to: AppliesTo::Service,
    values: "a duration such as 10s, 500ms or 2m, at most 300s",
    default: "none: the connection is rejected",
    description: "How long a connection to a service without backends waits in the relay for the first one (scale \
                  from zero).",
    reader: "agent",
};

/// The other namespaces whose pods can get a service's variables.
pub const EXPORT: Annotation = Annotation {
    key: "portico.dev/export",
    applies_to: AppliesTo::Service,
    values: "true, false or a comma-separated list of namespaces",
    default: "`false`",
    description: "The namespaces whose pods can request this service's variables, in addition to its own namespace.",
    reader: "webhook",
};

/// The services that have portals in a pod.
pub const PORTALS: Annotation = Annotation {
    key: "portico.dev/portals",
    applies_to: AppliesTo::Pod,
    values: "all, none, off, or a comma-separated list of NAME and NAMESPACE/NAME",
    default: "`all`",
    description: "The services that have portals in the pod. A name without a namespace is in the pod's namespace. \
                  A list must include the cluster's DNS service. `none`: no service; the pod cannot reach service \
                  addresses. `off`: Portico does nothing in the pod, and leaves it to another service proxy, such as \
                  kube-proxy; the webhook adds only variables that the pod itself requests. It is read when the pod \
                  starts; an invalid value prevents the start, and an event contains the reason. The webhook writes \
                  the annotation of a namespace on its new pods that have none, unless it is invalid; pods on the \
                  host network have no portals.",
    reader: "plugin, agent, webhook",
};

/// The interfaces of a pod behind which guests are.
pub const GUEST_INTERFACES: Annotation = Annotation {
    key: "portico.dev/guest-interfaces",
    applies_to: AppliesTo::Pod,
    values: "a comma-separated list of interfaces, or prefixes of their names and a star: tap0,k6t-*",
    default: "none: the pod has no guests",
    description: "Interfaces of the pod behind which guests are, such as virtual machines, whose connections the pod \
                  forwards: they use the pod's portals. Packets from other interfaces do not. It is read when the \
                  pod starts; an invalid value prevents the start, and so does the interface of an attachment: \
                  neighbours are not guests.",
    reader: "plugin, agent",
};

/// The endpoints that responses to DNS queries contain.
pub const DNS_ENDPOINTS: Annotation = Annotation {
    key: "portico.dev/dns-endpoints",
    applies_to: AppliesTo::Service,
    values: "all, node or zone",
    default: "`all`",
    description: "The endpoints of a headless service that the agent's responses to DNS queries contain. `all`. \
                  `node`: those on the pod's own node. `zone`: those in the zone of the pod's node.",
    reader: "agent",
};

/// Whether the agent answers the DNS queries of a pod.
pub const DNS: Annotation = Annotation {
    key: "portico.dev/dns",
    applies_to: AppliesTo::PodOrNamespace,
    values: "on or off",
    default: "`on`, if the agent has `--dns`",
    description: "Whether the agent answers the DNS queries of the pod. `off`: they reach the cluster's DNS servers. \
                  The annotation of a pod is read when the pod starts, and an invalid value prevents the start; a \
                  change of the namespace's annotation applies to running pods, and an invalid value there is \
                  ignored.",
    reader: "plugin, agent",
};

/// Whether and how variables are injected.
pub const INJECT: Annotation = Annotation {
    key: "portico.dev/inject",
    applies_to: AppliesTo::PodOrNamespace,
    values: "true, false, inline, configmap or auto",
    default: "`true`: the webhook's `--mode`",
    description: "`false`: the pod is not changed. `inline`: at the beginning of each container's `env`. \
                  `configmap`: a managed ConfigMap as the first of `envFrom`. `auto`: inline if the result is \
                  exactly that of the kubelet, otherwise a ConfigMap if the pod has a controller.",
    reader: "webhook",
};

/// The services whose variables are injected.
pub const SERVICES: Annotation = Annotation {
    key: "portico.dev/services",
    applies_to: AppliesTo::PodOrNamespace,
    values: "a comma-separated list of NAME, ALIAS=NAME and ALIAS=NAMESPACE/NAME",
    default: "those of the kubelet",
    description: "Only the variables of these services are injected. A service of another namespace needs an alias, \
                  and must be exported to the pod's namespace.",
    reader: "webhook",
};

/// The prefix of the names of variables.
pub const VARIABLE_PREFIX: Annotation = Annotation {
    key: "portico.dev/prefix",
    applies_to: AppliesTo::PodOrNamespace,
    values: "letters, digits and _, not starting with a digit",
    default: "none",
    description: "The prefix of each variable's name, so that `REDIS_PORT` of a service does not conflict with that \
                  of a program.",
    reader: "webhook",
};

/// The forms of variables.
pub const FORMS: Annotation = Annotation {
    key: "portico.dev/forms",
    applies_to: AppliesTo::PodOrNamespace,
    values: "all, named or host-port",
    default: "`all`",
    description: "`host-port`: `_SERVICE_HOST` and `_SERVICE_PORT`. `named`: also `_SERVICE_PORT_` and the name of \
                  each port. `all`: also the Docker links, as the kubelet provides them.",
    reader: "webhook",
};

/// The services that must exist.
pub const REQUIRE: Annotation = Annotation {
    key: "portico.dev/require",
    applies_to: AppliesTo::PodOrNamespace,
    values: "a comma-separated list of NAME, NAMESPACE/NAME and aliases of portico.dev/services",
    default: "none",
    description: "Services that must exist.",
    reader: "webhook",
};

/// What happens if a required service is missing.
pub const ON_MISSING: Annotation = Annotation {
    key: "portico.dev/on-missing",
    applies_to: AppliesTo::PodOrNamespace,
    values: "warn, wait or deny",
    default: "`warn`",
    description: "What happens if a required service is missing. `warn`: the pod starts with a warning. `wait`: its \
                  containers wait for the service. `deny`: the pod is denied, also if an annotation is invalid.",
    reader: "webhook",
};

/// The maximum size of the variables.
pub const MAX_BYTES: Annotation = Annotation {
    key: "portico.dev/max-bytes",
    applies_to: AppliesTo::PodOrNamespace,
    values: "a number such as 4096, 64Ki or 1Mi",
    default: "no limit",
    description: "The maximum size of the variables of a container, in bytes. Services that do not fit are omitted \
                  as a whole, and named in a warning.",
    reader: "webhook",
};

/// The service proxies of a node.
pub const SERVICE_PROXY: Annotation = Annotation {
    key: "portico.dev/service-proxy",
    applies_to: AppliesTo::Node,
    values: "kube-proxy, both or portico",
    default: "`kube-proxy`",
    description: "A label on a node, for agents with `--node-portals=label`. `kube-proxy`: the node has no table of \
                  node portals. `both`: it has one, next to the rules of kube-proxy. `portico`: the same, and \
                  kube-proxy must not run on the node. If the label excludes a table that the node has, the agent \
                  removes the table as soon as another proxy has rules.",
    reader: "agent",
};

/// A request to verify a node.
pub const VERIFY_NODE: Annotation = Annotation {
    key: "portico.dev/verify-node",
    applies_to: AppliesTo::Node,
    values: "any text that no earlier request had",
    default: "none",
    description: "The agent of the node opens connections to some services, and its status reports the result with \
                  this text. `portico migrate` writes it.",
    reader: "agent",
};

/// A request to remove the rules of kube-proxy from a node.
pub const REMOVE_KUBE_PROXY_RULES: Annotation = Annotation {
    key: "portico.dev/remove-kube-proxy-rules",
    applies_to: AppliesTo::Node,
    values: "any text that no earlier request had",
    default: "none",
    description: "The agent of the node removes the rules that `kube-proxy --cleanup` removes, and its status reports \
                  the result with this text. It has an effect only if `portico.dev/service-proxy` is `portico`, and \
                  no kube-proxy runs on the node. `portico migrate` writes it.",
    reader: "agent",
};

/// A summary of the injection.
pub const INJECTED: Annotation = Annotation {
    key: "portico.dev/injected",
    applies_to: AppliesTo::Written,
    values: "a summary for people",
    default: "",
    description: "On a pod: a summary of the injection. It also records that the webhook set `enableServiceLinks: \
                  false`.",
    reader: "webhook",
};

/// The pods that the controller watches.
pub const VARIABLES: Annotation = Annotation {
    key: "portico.dev/variables",
    applies_to: AppliesTo::Written,
    values: "configmap or warnings",
    default: "",
    description: "A label on a pod. `configmap`: the pod references managed ConfigMaps, which the controller creates \
                  from its selection. `warnings`: the pod has only warnings.",
    reader: "webhook",
};

/// The selection of services of a pod or a managed ConfigMap.
pub const SELECTION: Annotation = Annotation {
    key: "portico.dev/selection",
    applies_to: AppliesTo::Written,
    values: "a selection of services, as text",
    default: "",
    description: "On a pod: the content of its managed ConfigMaps, whose names contain a digest of this text. On a \
                  managed ConfigMap: its content.",
    reader: "webhook",
};

/// The number of managed ConfigMaps that a pod references.
pub const PARTS: Annotation = Annotation {
    key: "portico.dev/parts",
    applies_to: AppliesTo::Written,
    values: "a number from 1 to 16",
    default: "`1`",
    description: "On a pod: the number of managed ConfigMaps that it needs to start.",
    reader: "webhook",
};

/// The warnings of a pod's admission.
pub const WARNINGS: Annotation = Annotation {
    key: "portico.dev/warnings",
    applies_to: AppliesTo::Written,
    values: "one warning per line",
    default: "",
    description: "On a pod: the warnings of its admission. If a controller created the pod, an Event on that \
                  controller contains them.",
    reader: "webhook",
};

/// A summary of the data of a managed ConfigMap.
pub const CONTENT: Annotation = Annotation {
    key: "portico.dev/content",
    applies_to: AppliesTo::Written,
    values: "a digest, the number of variables and their bytes",
    default: "",
    description: "On a managed ConfigMap: a summary of its data, so that no replica has to read the data.",
    reader: "webhook",
};

/// When a pod last used a managed ConfigMap of release 0.1.0.
pub const USED: Annotation = Annotation {
    key: "portico.dev/used",
    applies_to: AppliesTo::Written,
    values: "seconds since 1970",
    default: "",
    description: "On a managed ConfigMap of release 0.1.0: when a pod last used it. It is not read any more.",
    reader: "webhook of 0.1.0",
};

/// All annotations.
pub const ALL: [Annotation; 26] = [
    MODE,
    SCHEDULER,
    DIAL,
    HOLD,
    EXPORT,
    DNS_ENDPOINTS,
    PORTALS,
    GUEST_INTERFACES,
    DNS,
    INJECT,
    SERVICES,
    VARIABLE_PREFIX,
    FORMS,
    REQUIRE,
    ON_MISSING,
    MAX_BYTES,
    SERVICE_PROXY,
    VERIFY_NODE,
    REMOVE_KUBE_PROXY_RULES,
    INJECTED,
    VARIABLES,
    SELECTION,
    PARTS,
    WARNINGS,
    CONTENT,
    USED,
];

#[cfg(test)]
mod tests;

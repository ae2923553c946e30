//! The kinds that a test server supports, and their paths.

use serde_json::Value;

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub name: &'static str,
    pub resource: &'static str,
    /// The paths of the versions, beginning with the storage version.
    pub bases: &'static [&'static str],
    pub is_namespaced: bool,
}

const KINDS: [Kind; 11] = [
    Kind { name: "Service", resource: "services", bases: &["/api/v1"], is_namespaced: true },
    Kind { name: "Pod", resource: "pods", bases: &["/api/v1"], is_namespaced: true },
    Kind { name: "Node", resource: "nodes", bases: &["/api/v1"], is_namespaced: false },
    Kind { name: "Namespace", resource: "namespaces", bases: &["/api/v1"], is_namespaced: false },
    Kind { name: "Secret", resource: "secrets", bases: &["/api/v1"], is_namespaced: true },
    Kind { name: "ConfigMap", resource: "configmaps", bases: &["/api/v1"], is_namespaced: true },
    Kind { name: "DaemonSet", resource: "daemonsets", bases: &["/apis/apps/v1"], is_namespaced: true },
    Kind { name: "Event", resource: "events", bases: &["/api/v1"], is_namespaced: true },
    Kind {
        name: "MutatingWebhookConfiguration",
        resource: "mutatingwebhookconfigurations",
        bases: &["/apis/admissionregistration.k8s.io/v1"],
        is_namespaced: false,
    },
    Kind {
        name: "EndpointSlice",
        resource: "endpointslices",
        bases: &["/apis/discovery.k8s.io/v1"],
        is_namespaced: true,
    },
    Kind {
        name: "ServiceCIDR",
        resource: "servicecidrs",
        bases: &["/apis/networking.k8s.io/v1", "/apis/networking.k8s.io/v1beta1"],
        is_namespaced: false,
    },
];

impl Kind {
    pub(crate) fn named(name: &str) -> Self {
        *KINDS.iter().find(|kind| kind.name == name).unwrap_or_else(|| panic!("no kind {name} here"))
    }

    pub(crate) fn of(object: &Value) -> Self {
        Self::named(object["kind"].as_str().expect("an object has a kind"))
    }

    pub(crate) fn api_version(self) -> &'static str {
        let base = self.bases[0];
        base.strip_prefix("/apis/").or(base.strip_prefix("/api/")).expect("a base is one of the two")
    }

    /// The path of one object.
    pub(crate) fn path(self, namespace: &str, name: &str) -> String {
        let Self { resource, bases, .. } = self;
        if self.is_namespaced {
            format!("{}/namespaces/{namespace}/{resource}/{name}", bases[0])
        } else {
            format!("{}/{resource}/{name}", bases[0])
        }
    }
}

/// The objects at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub kind: Kind,
    /// `None` for all namespaces and for a cluster-scoped kind.
    pub namespace: Option<String>,
    /// `None` for all objects.
    pub name: Option<String>,
}

impl Target {
    /// Parses a path.
    pub(crate) fn at(path: &str) -> Option<Self> {
        KINDS.into_iter().find_map(|kind| {
            let rest = kind.bases.iter().find_map(|base| path.strip_prefix(base)?.strip_prefix('/'))?;
            let mut parts = rest.split('/');
            let mut first = parts.next()?;
            let mut namespace = None;
            // The path of a namespace is a prefix of the paths of its objects.
            if kind.is_namespaced && first == "namespaces" {
                namespace = Some(parts.next()?.to_owned());
                first = parts.next()?;
            }
            let name = parts.next().map(str::to_owned);
            (first == kind.resource && parts.next().is_none()).then_some(Self { kind, namespace, name })
        })
    }
}

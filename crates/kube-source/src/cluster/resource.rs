//! `Resource`: what is listed and watched, by which path and which selectors.
//!
//! The selectors are kube-proxy's (its `server.go`), with one addition: services of another proxy are watched, too,
//! since the snapshot must know whether there are any before it says which addresses are free. What must not go in
//! here: what a server answers.

use std::borrow::Cow;

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchScope {
    /// What a service proxy needs: services and slices with kube-proxy's selectors, service ranges, and a node.
    Proxy {
        /// The name of the own node; none: no node is watched.
        node: Option<String>,
    },
    /// Services alone, of all namespaces, without selectors.
    Services,
}

const NO_HEADLESS_NO_OTHER_PROXY: &str =
    "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    Slice,
    ServiceCidr,
    Node,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Service, Self::Slice, Self::ServiceCidr, Self::Node];

    pub(super) fn is_namespaced(self) -> bool {
        matches!(self, Self::Service | Self::Slice)
    }

    /// The name of one object's kind.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Node => "Node",
        }
    }

    /// The name of the resource, as rules of RBAC have it.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Slice => "endpointslices",
            Self::ServiceCidr => "servicecidrs",
            Self::Node => "nodes",
        }
    }

    /// The group of the API.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Service | Self::Node => "",
            Self::Slice => "discovery.k8s.io",
            Self::ServiceCidr => "networking.k8s.io",
        }
    }

    /// The paths of the versions that are read, the best first.
    pub(super) fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["/api/v1/services"],
            Self::Slice => &["/apis/discovery.k8s.io/v1/endpointslices"],
            Self::ServiceCidr => {
                &["/apis/networking.k8s.io/v1/servicecidrs", "/apis/networking.k8s.io/v1beta1/servicecidrs"]
            }
            Self::Node => &["/api/v1/nodes"],
        }
    }
}

/// Something that is listed and watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// Its name, as rules of RBAC have it.
    pub(super) name: Cow<'static, str>,
    /// The group of the API.
    pub(super) group: Cow<'static, str>,
    /// The paths of the versions that are read, the best first.
    pub(super) paths: Vec<Cow<'static, str>>,
    /// Whether a cluster does well without it.
    pub(super) is_optional: bool,
    pub(super) label_selector: Option<Cow<'static, str>>,
    pub(super) field_selector: Option<Cow<'static, str>>,
}

impl Resource {
    fn of(kind: Kind, label_selector: Option<&'static str>) -> (Kind, Self) {
        let resource = Self {
            name: kind.resource().into(),
            group: kind.group().into(),
            paths: kind.paths().iter().copied().map(Cow::Borrowed).collect(),
            is_optional: kind == Kind::ServiceCidr,
            label_selector: label_selector.map(Cow::Borrowed),
            field_selector: None,
        };
        (kind, resource)
    }

    /// The resource at a path, as `/api/v1/pods` or `/apis/apps/v1/namespaces/shop/deployments`.
    pub(super) fn at(path: String) -> Self {
        let mut parts = path.split('/').skip(1);
        let group = if parts.next() == Some("apis") { parts.next().unwrap_or_default() } else { "" };
        Self {
            name: path.rsplit('/').next().unwrap_or_default().to_owned().into(),
            group: group.to_owned().into(),
            paths: vec![path.into()],
            is_optional: false,
            label_selector: None,
            field_selector: None,
        }
    }

    /// The selectors as the end of a query.
    pub(super) fn selectors(&self) -> String {
        let label = self.label_selector.as_deref().map(|text| format!("&labelSelector={}", encoded(text)));
        let field = self.field_selector.as_deref().map(|text| format!("&fieldSelector={}", encoded(text)));
        [label, field].into_iter().flatten().collect()
    }
}

impl WatchScope {
    pub(super) fn resources(&self) -> Vec<(Kind, Resource)> {
        let Self::Proxy { node } = self else { return vec![Resource::of(Kind::Service, None)] };
        let mut all = vec![
            Resource::of(Kind::Service, Some(NO_HEADLESS_NO_OTHER_PROXY)),
            Resource::of(Kind::Service, Some(OTHER_PROXY)),
            Resource::of(Kind::Slice, Some(NO_HEADLESS_NO_OTHER_PROXY)),
            Resource::of(Kind::ServiceCidr, None),
        ];
        all.extend(node.as_ref().map(|name| {
            let (kind, nodes) = Resource::of(Kind::Node, None);
            let field_selector = Some(format!("metadata.name={name}").into());
            (kind, Resource { field_selector, ..nodes })
        }));
        all
    }
}

/// A text as a value in a query.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_watches_what_kube_proxy_watches_and_the_services_of_others() {
        let resources = WatchScope::Proxy { node: Some("n&1".to_owned()) }.resources();
        let queries: Vec<_> =
            resources.iter().map(|(kind, resource)| (kind.name(), resource.selectors())).collect();
        let own = "&labelSelector=%21service.kubernetes.io%2Fheadless%2C\
                   %21service.kubernetes.io%2Fservice-proxy-name";
        let expected = [
            ("Service", own),
            ("Service", "&labelSelector=service.kubernetes.io%2Fservice-proxy-name"),
            ("EndpointSlice", own),
            ("ServiceCIDR", ""),
            ("Node", "&fieldSelector=metadata.name%3Dn%261"),
        ];
        assert_eq!(queries, expected.map(|(kind, query)| (kind, query.to_owned())));
        assert_eq!(WatchScope::Services.resources()[0].1.selectors(), "");
    }

    #[test]
    fn a_path_says_which_resource_a_rule_must_name() {
        for (path, group, name) in [
            ("/api/v1/pods", "", "pods"),
            ("/api/v1/namespaces/shop/configmaps", "", "configmaps"),
            ("/apis/apps/v1/deployments", "apps", "deployments"),
        ] {
            let resource = Resource::at(path.to_owned());
            assert_eq!((&*resource.group, &*resource.name), (group, name));
            assert_eq!(resource.paths, [path]);
        }
    }
}

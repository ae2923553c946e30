//! `Resource`: a resource to list and watch, with its paths and selectors.
//!
//! The selectors are those of kube-proxy (`server.go`), with one addition: services of other proxies are watched, too,
//! because an address that looks unassigned can belong to one of them.

use std::borrow::Cow;

use support::percent_encode_query;

/// The objects to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchScope {
    /// The objects that a service proxy needs: services and EndpointSlices with kube-proxy's selectors, ServiceCIDRs,
    /// and a node.
    Proxy {
        /// The name of the node. `None` watches no node.
        node: Option<String>,
        /// Whether to watch the objects that DNS needs, too: services and EndpointSlices without selectors, and
        /// namespaces.
        has_names: bool,
    },
    /// Only services, of all namespaces and without selectors.
    Services,
}

/// Kube-proxy's selector.
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
    Namespace,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Service, Self::Slice, Self::ServiceCidr, Self::Node, Self::Namespace];

    pub(super) fn is_namespaced(self) -> bool {
        matches!(self, Self::Service | Self::Slice)
    }

    /// Returns the name of the kind.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Slice => "EndpointSlice",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
        }
    }

    /// Returns the name of the resource, as in RBAC rules.
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Slice => "endpointslices",
            Self::ServiceCidr => "servicecidrs",
            Self::Node => "nodes",
            Self::Namespace => "namespaces",
        }
    }

    /// Returns the API group.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Service | Self::Node | Self::Namespace => "",
            Self::Slice => "discovery.k8s.io",
            Self::ServiceCidr => "networking.k8s.io",
        }
    }

    /// Returns the paths of the supported API versions, the preferred one first.
    pub(super) fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["/api/v1/services"],
            Self::Slice => &["/apis/discovery.k8s.io/v1/endpointslices"],
            Self::ServiceCidr => {
                &["/apis/networking.k8s.io/v1/servicecidrs", "/apis/networking.k8s.io/v1beta1/servicecidrs"]
            }
            Self::Node => &["/api/v1/nodes"],
            Self::Namespace => &["/api/v1/namespaces"],
        }
    }
}

/// A resource to list and watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    /// The name, as in RBAC rules.
    pub(super) name: Cow<'static, str>,
    /// The API group.
    pub(super) group: Cow<'static, str>,
    /// The paths of the supported API versions, the preferred one first.
    pub(super) paths: Vec<Cow<'static, str>>,
    /// Whether Portico works without this resource.
    pub(super) is_optional: bool,
    pub(super) label_selector: Option<Cow<'static, str>>,
    pub(super) field_selector: Option<Cow<'static, str>>,
}

impl Resource {
    fn of_kind(kind: Kind, label_selector: Option<&'static str>) -> (Kind, Self) {
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

    /// Returns the resource at a path, such as `/api/v1/pods` or `/apis/apps/v1/namespaces/shop/deployments`.
    pub(super) fn at_path(path: String) -> Self {
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

    /// Returns the selectors as the end of a URL query.
    pub(super) fn selectors(&self) -> String {
        let label = self
            .label_selector
            .as_deref()
            .map(|text| format!("&labelSelector={}", percent_encode_query(text)));
        let field = self
            .field_selector
            .as_deref()
            .map(|text| format!("&fieldSelector={}", percent_encode_query(text)));
        [label, field].into_iter().flatten().collect()
    }
}

impl WatchScope {
    pub(super) fn resources(&self) -> Vec<(Kind, Resource)> {
        let Self::Proxy { node, has_names } = self else {
            return vec![Resource::of_kind(Kind::Service, None)];
        };
        let mut all = if *has_names {
            let kinds = [Kind::Service, Kind::Slice, Kind::Namespace];
            kinds.map(|kind| Resource::of_kind(kind, None)).into()
        } else {
            vec![
                Resource::of_kind(Kind::Service, Some(NO_HEADLESS_NO_OTHER_PROXY)),
                Resource::of_kind(Kind::Service, Some(OTHER_PROXY)),
                Resource::of_kind(Kind::Slice, Some(NO_HEADLESS_NO_OTHER_PROXY)),
            ]
        };
        all.push(Resource::of_kind(Kind::ServiceCidr, None));
        all.extend(node.as_ref().map(|name| {
            let (kind, nodes) = Resource::of_kind(Kind::Node, None);
            let field_selector = Some(format!("metadata.name={name}").into());
            (kind, Resource { field_selector, ..nodes })
        }));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queries(has_names: bool) -> Vec<(&'static str, String)> {
        let resources = WatchScope::Proxy { node: Some("n&1".to_owned()), has_names }.resources();
        resources.iter().map(|(kind, resource)| (kind.name(), resource.selectors())).collect()
    }

    #[test]
    fn proxy_with_names_watches_all_services_slices_and_namespaces() {
        let expected = [
            ("Service", ""),
            ("EndpointSlice", ""),
            ("Namespace", ""),
            ("ServiceCIDR", ""),
            ("Node", "&fieldSelector=metadata.name%3Dn%261"),
        ];
        assert_eq!(queries(true), expected.map(|(kind, query)| (kind, query.to_owned())));
    }

    #[test]
    fn proxy_uses_kube_proxy_selectors_and_watches_services_of_other_proxies() {
        let queries = queries(false);
        let kube_proxy = "&labelSelector=%21service.kubernetes.io%2Fheadless%2C\
                   %21service.kubernetes.io%2Fservice-proxy-name";
        let expected = [
            ("Service", kube_proxy),
            ("Service", "&labelSelector=service.kubernetes.io%2Fservice-proxy-name"),
            ("EndpointSlice", kube_proxy),
            ("ServiceCIDR", ""),
            ("Node", "&fieldSelector=metadata.name%3Dn%261"),
        ];
        assert_eq!(queries, expected.map(|(kind, query)| (kind, query.to_owned())));
        assert_eq!(WatchScope::Services.resources()[0].1.selectors(), "");
    }

    #[test]
    fn resource_name_and_api_group_come_from_the_path() {
        for (path, group, name) in [
            ("/api/v1/pods", "", "pods"),
            ("/api/v1/namespaces/shop/configmaps", "", "configmaps"),
            ("/apis/apps/v1/deployments", "apps", "deployments"),
        ] {
            let resource = Resource::at_path(path.to_owned());
            assert_eq!((&*resource.group, &*resource.name), (group, name));
            assert_eq!(resource.paths, [path]);
        }
    }
}

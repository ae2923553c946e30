//! `PortalsRequest`: the services that have portals in a pod, from the annotation `portico.dev/portals`.
//!
//! The annotation is `all`, `none`, `off`, or a list of services; a name without a namespace is in the pod's namespace.
//! The services need not exist yet. `none` and `off` differ: with `none` the pod has a table without portals, which
//! rejects service addresses; with `off` Portico does nothing in the pod, and another service proxy can serve it.

use std::collections::BTreeSet;

use crate::model::annotation::PORTALS;
use crate::model::service::{ServiceKey, is_service_name};

/// The value for all services, which is also the default.
pub const PORTALS_ALL: &str = "all";
/// The value for no service.
pub const PORTALS_NONE: &str = "none";
/// The value of a pod that Portico does not serve.
pub const PORTALS_OFF: &str = "off";
/// The maximum number of services in a list.
const SERVICES_MAX: usize = 1_000;

/// The portals that a pod requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PortalsRequest {
    /// Those of all services.
    #[default]
    All,
    /// Those of these services only.
    Only(BTreeSet<ServiceKey>),
    /// Portico does not serve the pod.
    Off,
}

impl PortalsRequest {
    /// Parses the annotation of a pod in this namespace, if it is known.
    ///
    /// # Errors
    /// If the value is invalid; the message names the annotation.
    pub fn parse(text: &str, namespace: Option<&str>) -> Result<Self, String> {
        match text.trim() {
            PORTALS_ALL => Ok(Self::All),
            PORTALS_NONE => Ok(Self::Only(BTreeSet::new())),
            PORTALS_OFF => Ok(Self::Off),
            list => services(list, namespace).map(Self::Only),
        }
    }
}

fn services(list: &str, namespace: Option<&str>) -> Result<BTreeSet<ServiceKey>, String> {
    let mut services = BTreeSet::new();
    for item in list.split(',') {
        services.insert(service(item.trim(), namespace)?);
        if services.len() > SERVICES_MAX {
            return Err(format!("annotation {}: more than {SERVICES_MAX} services", PORTALS.key));
        }
    }
    Ok(services)
}

fn service(item: &str, namespace: Option<&str>) -> Result<ServiceKey, String> {
    let invalid =
        |what: &str| format!("annotation {}: \"{item}\" {what}; write {}", PORTALS.key, PORTALS.values);
    let (namespace, name) = match item.split_once('/') {
        Some(parts) => parts,
        None => {
            let unknown = || invalid("has no namespace, and the namespace of the pod is unknown");
            (namespace.ok_or_else(unknown)?, item)
        }
    };
    if !is_service_name(namespace) || !is_service_name(name) {
        return Err(invalid("is not the name of a service"));
    }
    Ok(ServiceKey::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PortalsRequest, String> {
        PortalsRequest::parse(text, Some("default"))
    }

    #[test]
    fn words_select_all_services_none_or_no_service_proxy() {
        assert_eq!(parse(" all "), Ok(PortalsRequest::All));
        assert_eq!(parse("none"), Ok(PortalsRequest::Only(BTreeSet::new())));
        assert_eq!(parse("off\n"), Ok(PortalsRequest::Off));
        assert_eq!(PortalsRequest::default(), PortalsRequest::All);
        for word in [PORTALS_ALL, PORTALS_NONE, PORTALS_OFF] {
            assert!(PORTALS.values.split(", ").any(|value| value == word), "{word} is not documented");
        }
    }

    #[test]
    fn list_contains_services_of_the_pods_namespace_and_of_others() {
        let keys = [ServiceKey::new("default", "redis"), ServiceKey::new("team-b", "postgres")];
        assert_eq!(parse("redis, team-b/postgres"), Ok(PortalsRequest::Only(keys.into())));
        let own = PortalsRequest::parse("a", None).expect_err("the namespace is unknown");
        assert!(own.contains("the namespace of the pod is unknown"), "{own}");
        assert!(PortalsRequest::parse("b/a", None).is_ok());
    }

    #[test]
    fn list_has_at_most_1_000_services() {
        let list = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
        assert!(parse(&list(1_000)).is_ok());
        assert!(parse(&list(1_001)).expect_err("too many").contains("more than 1000 services"));
    }

    #[test]
    fn error_names_the_annotation_and_its_valid_values() {
        for invalid in ["", "a,,b", "A", "a/b/c", "a b", "/x", "x/", "Off", "off,"] {
            let why = parse(invalid).expect_err(invalid);
            assert!(why.contains(PORTALS.key) && why.contains("NAMESPACE/NAME"), "{why}");
        }
    }
}

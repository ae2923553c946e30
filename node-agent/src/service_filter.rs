//! The service filter of a pod, from its annotation `portico.dev/portals`.
//!
//! The annotation is `all`, `none`, or a list of services; a name without a namespace is in the pod's namespace. An
//! invalid annotation is rejected when the pod is attached, so that its owner sees the error. The services need not
//! exist yet.

use std::collections::BTreeSet;

use agent_ipc::{Attachment, PORTALS_ALL};
use proxy_core::annotation::PORTALS;
use proxy_core::portal::ServiceFilter;
use proxy_core::service::{ServiceKey, is_service_name};

/// The value that selects no service.
const NONE: &str = "none";
/// The limits of a view's name in status and log.
const NAMES_MAX: usize = 4;
const NAME_BYTES_MAX: usize = 128;
/// The maximum number of selected services.
const SERVICES_MAX: usize = 1_000;

/// Returns the filter that the pod requests.
pub(crate) fn service_filter(attachment: &Attachment) -> Result<ServiceFilter, String> {
    let Some(text) = attachment.selection() else { return Ok(ServiceFilter::All) };
    if text == NONE {
        return Ok(ServiceFilter::Only([].into()));
    }
    let own = attachment.pod.as_ref().map(|pod| pod.namespace.as_str());
    let services: BTreeSet<ServiceKey> =
        text.split(',').map(|item| service(item.trim(), own)).collect::<Result<_, _>>()?;
    if services.len() > SERVICES_MAX {
        return Err(format!("annotation {}: more than {SERVICES_MAX} services", PORTALS.key));
    }
    Ok(ServiceFilter::Only(services.into_iter().collect()))
}

fn service(item: &str, own: Option<&str>) -> Result<ServiceKey, String> {
    let invalid =
        |what: &str| format!("annotation {}: \"{item}\" {what}; write {}", PORTALS.key, PORTALS.values);
    let (namespace, name) = match item.split_once('/') {
        Some(parts) => parts,
        None => {
            (own.ok_or_else(|| invalid("has no namespace, and the namespace of the pod is unknown"))?, item)
        }
    };
    if !is_service_name(namespace) || !is_service_name(name) {
        return Err(invalid("is not the name of a service"));
    }
    Ok(ServiceKey::new(namespace, name))
}

/// Returns the name of a view in status and log. Pods choose its services, so a long list is truncated, and a digest
/// makes the name unique.
pub(crate) fn view_name(filter: &ServiceFilter) -> String {
    let ServiceFilter::Only(selection) = filter else { return PORTALS_ALL.to_owned() };
    let services = selection.services();
    let Some(first) = services.first() else { return NONE.to_owned() };
    let names: Vec<String> = services.iter().take(NAMES_MAX).map(ToString::to_string).collect();
    let all = names.join(",");
    if services.len() <= NAMES_MAX && all.len() <= NAME_BYTES_MAX {
        return all;
    }
    format!("{first} and {} more ({:016x})", services.len() - 1, selection.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_builders::attachment;

    fn parse(text: &str) -> Result<String, String> {
        let mut attachment = attachment("a");
        attachment.annotations.insert(PORTALS.name().to_owned(), text.to_owned());
        service_filter(&attachment).map(|filter| view_name(&filter))
    }

    #[test]
    fn pod_without_annotation_sees_all_services() {
        assert_eq!(service_filter(&attachment("a")), Ok(ServiceFilter::All));
        assert_eq!(parse("all").as_deref(), Ok("all"));
    }

    #[test]
    fn list_contains_services_of_the_pods_namespace_and_of_others() {
        assert_eq!(parse("redis, team-b/postgres").as_deref(), Ok("default/redis,team-b/postgres"));
        assert_eq!(parse("none").as_deref(), Ok("none"));
    }

    #[test]
    fn view_name_is_short_and_unique() {
        let list = |last: &str| {
            let names: Vec<String> = (0..999).map(|number| format!("service-{number}")).collect();
            parse(&format!("{},{last}", names.join(","))).expect("1,000 services")
        };
        let (one, other) = (list("a"), list("b"));
        assert!(one.len() < 200 && one.starts_with("default/a and 999 more"), "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn error_names_the_annotation_and_its_valid_values() {
        for invalid in ["", "a,,b", "A", "a/b/c", "a b", "/x", "x/"] {
            let why = parse(invalid).expect_err(invalid);
            assert!(why.contains(PORTALS.key) && why.contains("NAMESPACE/NAME"), "{why}");
        }
    }
}

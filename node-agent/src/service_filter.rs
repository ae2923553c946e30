//! Which services a pod wants to see, from its annotations.
//!
//! A list of services, where a name alone means the pod's own namespace; `all` and `none` say it shortly. A mistake is
//! refused when the pod starts, where its owner sees it. What must not go in here: whether such services exist; they
//! may come later.

use std::collections::BTreeSet;

use agent_ipc::{Attachment, PORTALS_ALL};
use proxy_core::annotation::PORTALS;
use proxy_core::portal::ServiceFilter;
use proxy_core::service::ServiceKey;

/// The choice of no service at all.
const NONE: &str = "none";
/// Status and log name so many services of a view, if they are short.
const NAMES_MAX: usize = 4;
const NAME_BYTES_MAX: usize = 128;
/// More services than this are no selection any more.
const SERVICES_MAX: usize = 1_000;

/// The view that the pod asks for.
pub(crate) fn view_of(attachment: &Attachment) -> Result<ServiceFilter, String> {
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
    let wrong =
        |what: &str| format!("annotation {}: \"{item}\" {what}; write {}", PORTALS.key, PORTALS.values);
    let (namespace, name) = match item.split_once('/') {
        Some(parts) => parts,
        None => (own.ok_or_else(|| wrong("has no namespace, and that of the pod is not known"))?, item),
    };
    let is_label = |text: &str| {
        !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if !is_label(namespace) || !is_label(name) {
        return Err(wrong("is no name of a service"));
    }
    Ok(ServiceKey::new(namespace, name))
}

/// How a view is called in status and log. Names come from pods, so a long list is cut; its digest tells it from others.
pub(crate) fn name_of(view: &ServiceFilter) -> String {
    let ServiceFilter::Only(selection) = view else { return PORTALS_ALL.to_owned() };
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

    fn view(text: &str) -> Result<String, String> {
        let mut attachment = attachment("a");
        attachment.annotations.insert(PORTALS.name().to_owned(), text.to_owned());
        view_of(&attachment).map(|view| name_of(&view))
    }

    #[test]
    fn without_a_wish_a_pod_sees_everything() {
        assert_eq!(view_of(&attachment("a")), Ok(ServiceFilter::All));
        assert_eq!(view("all").as_deref(), Ok("all"));
    }

    #[test]
    fn a_list_names_services_of_the_pods_own_and_of_other_namespaces() {
        assert_eq!(view("redis, team-b/postgres").as_deref(), Ok("default/redis,team-b/postgres"));
        assert_eq!(view("none").as_deref(), Ok("none"));
    }

    #[test]
    fn the_name_of_a_view_is_short_and_tells_it_from_others() {
        let list = |last: &str| {
            let names: Vec<String> = (0..999).map(|number| format!("service-{number}")).collect();
            view(&format!("{},{last}", names.join(","))).expect("1,000 services")
        };
        let (one, other) = (list("a"), list("b"));
        assert!(one.len() < 200 && one.starts_with("default/a and 999 more"), "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn a_mistake_is_named_with_what_may_be_written() {
        for wrong in ["", "a,,b", "A", "a/b/c", "a b", "/x", "x/"] {
            let why = view(wrong).expect_err(wrong);
            assert!(why.contains(PORTALS.key) && why.contains("NAMESPACE/NAME"), "{why}");
        }
    }
}

//! The name of a view in status and log.
//!
//! Pods choose the services of a view, so a long list is truncated, and a digest makes the name unique.

use proxy_core::portal::ServiceFilter;
use proxy_core::portals_request::{PORTALS_ALL, PORTALS_NONE};

/// The limits of a name.
const NAMES_MAX: usize = 4;
const NAME_BYTES_MAX: usize = 128;

/// Returns the name of the view with this filter.
pub(crate) fn view_name(filter: &ServiceFilter) -> String {
    let ServiceFilter::Only(selection) = filter else { return PORTALS_ALL.to_owned() };
    let services = selection.services();
    let Some(first) = services.first() else { return PORTALS_NONE.to_owned() };
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
    use proxy_core::service::ServiceKey;

    fn name(services: &[&str]) -> String {
        let keys = services.iter().map(|name| ServiceKey::new("default", *name));
        view_name(&ServiceFilter::Only(keys.collect()))
    }

    #[test]
    fn name_of_a_short_list_contains_all_services() {
        assert_eq!(view_name(&ServiceFilter::All), "all");
        assert_eq!(name(&[]), "none");
        assert_eq!(name(&["redis", "db"]), "default/db,default/redis");
    }

    #[test]
    fn name_of_a_long_list_is_short_and_unique() {
        let list = |last: &'static str| {
            let names: Vec<String> = (0..999).map(|number| format!("service-{number}")).collect();
            name(&names.iter().map(String::as_str).chain([last]).collect::<Vec<_>>())
        };
        let (one, other) = (list("a"), list("b"));
        assert!(one.len() < 200 && one.starts_with("default/a and 999 more"), "{one}");
        assert_ne!(one, other);
    }
}

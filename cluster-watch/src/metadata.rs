//! `Metadata`: name, namespace and labels, which all kinds share.
//!
//! Also the names that many objects repeat: each is stored once. What must not go in here: labels and
//! annotations with a meaning, they belong to the kind that has them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::field::Field;
use crate::validate;

const DEFAULT_NAMESPACE: &str = "default";

/// Texts of which each is stored once: names of namespaces, nodes, zones and ports.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashSet<Arc<str>>,
    /// How many there may be before those are forgotten that nobody else has any more.
    prune_at: usize,
}

impl Names {
    /// Below this, names that nobody else has are not looked for.
    const LEN_MIN: usize = 4096;

    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(found) = self.known.get(text) {
            return Arc::clone(found);
        }
        if self.known.len() >= self.prune_at.max(Self::LEN_MIN) {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            // Never more than twice what is in use.
            self.prune_at = 2 * self.known.len();
            self.known.shrink_to(self.prune_at);
        }
        let new: Arc<str> = text.into();
        self.known.insert(Arc::clone(&new));
        new
    }
}

/// What the name of a kind must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// A DNS label: services.
    Label,
    /// A DNS name: all else.
    Subdomain,
}

/// Name and namespace of an object; the labels are asked for where one is needed.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// Reads and checks name and namespace; none: the name is missing or wrong, and that has been said.
pub(crate) fn metadata(metadata: &Field<'_, '_>, rule: NameRule, names: &mut Names) -> Option<Metadata> {
    let name_field = metadata.at("name");
    let name = named(&name_field, rule);
    let namespace_field = metadata.at("namespace");
    let namespace = namespaced(&namespace_field);
    Some(Metadata { namespace: names.get(namespace?), name: name?.into() })
}

/// The name of an object, which must have one.
pub(crate) fn named<'v>(field: &Field<'_, 'v>, rule: NameRule) -> Option<&'v str> {
    if field.is_missing() {
        field.error("missing: every object has a name");
        return None;
    }
    match rule {
        NameRule::Label => validate::dns_label(field),
        NameRule::Subdomain => validate::dns_subdomain(field),
    }
}

/// The namespace; an object that names none is in `default`.
pub(crate) fn namespaced<'v>(field: &Field<'_, 'v>) -> Option<&'v str> {
    if field.is_missing() {
        return Some(DEFAULT_NAMESPACE);
    }
    validate::dns_label(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_has_any_more_do_not_add_up() {
        let mut names = Names::default();
        let kept: Vec<_> = (0..5_000).map(|number| names.get(&format!("kept-{number}"))).collect();
        for number in 0..100_000 {
            names.get(&format!("gone-{number}"));
            assert!(names.known.len() <= 2 * kept.len() + Names::LEN_MIN);
        }
        assert!(kept.iter().all(|name| Arc::ptr_eq(name, &names.get(name))));
    }
}

//! `Metadata`: the name and namespace of an object, and `Names`, which interns names that many objects repeat.
//!
//! Labels and annotations do not belong here: the parser of a kind reads those that it uses.

use std::collections::HashSet;
use std::sync::Arc;

use crate::objects::field::Field;
use crate::objects::validate;

const DEFAULT_NAMESPACE: &str = "default";

/// Interned names: each namespace, node, zone and port name is stored once.
#[derive(Debug, Default)]
pub(crate) struct Names {
    interned: HashSet<Arc<str>>,
    /// The number of names at which unused names are removed.
    prune_at: usize,
}

impl Names {
    /// Unused names are kept below this number of names.
    const LEN_MIN: usize = 4096;

    /// Returns the interned copy of a name.
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(found) = self.interned.get(text) {
            return Arc::clone(found);
        }
        if self.interned.len() >= self.prune_at.max(Self::LEN_MIN) {
            self.interned.retain(|name| Arc::strong_count(name) > 1);
            // Allows at most as many unused names as there are used ones.
            self.prune_at = 2 * self.interned.len();
            self.interned.shrink_to(self.prune_at);
        }
        let new: Arc<str> = text.into();
        self.interned.insert(Arc::clone(&new));
        new
    }
}

/// The syntax of an object's name, which depends on its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// A DNS label: services and namespaces.
    Label,
    /// A DNS subdomain: all other kinds.
    Subdomain,
}

/// The name and namespace of an object.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// Parses and validates name and namespace. Returns `None` after recording an error if either is invalid.
pub(crate) fn metadata(metadata: &Field<'_, '_>, rule: NameRule, names: &mut Names) -> Option<Metadata> {
    let name_field = metadata.at("name");
    let name = object_name(&name_field, rule);
    let namespace_field = metadata.at("namespace");
    let namespace = namespace_or_default(&namespace_field);
    Some(Metadata { namespace: names.get(namespace?), name: name?.into() })
}

/// Parses the name of an object, which is required.
pub(crate) fn object_name<'v>(field: &Field<'_, 'v>, rule: NameRule) -> Option<&'v str> {
    if field.is_missing() {
        field.error("missing: every object needs a name");
        return None;
    }
    match rule {
        NameRule::Label => validate::dns_label(field),
        NameRule::Subdomain => validate::dns_subdomain(field),
    }
}

/// Parses the namespace, which is `default` if it is missing.
pub(crate) fn namespace_or_default<'v>(field: &Field<'_, 'v>) -> Option<&'v str> {
    if field.is_missing() {
        return Some(DEFAULT_NAMESPACE);
    }
    validate::dns_label(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_names_do_not_accumulate() {
        let mut names = Names::default();
        let used: Vec<_> = (0..5_000).map(|number| names.get(&format!("used-{number}"))).collect();
        for number in 0..100_000 {
            names.get(&format!("unused-{number}"));
            assert!(names.interned.len() <= 2 * used.len() + Names::LEN_MIN);
        }
        assert!(used.iter().all(|name| Arc::ptr_eq(name, &names.get(name))));
    }
}

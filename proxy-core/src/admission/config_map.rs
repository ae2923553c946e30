//! `WantedConfigMap`: a ConfigMap from which containers take variables.
//!
//! Its name depends only on the selection, so that pods with the same settings share it and the controller finds it again.
//! Variables that do not fit into one ConfigMap are split into several, in order: the parts.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Serialize;

use crate::admission::is_offered;
use crate::admission::record::PARTS_MAX;
use crate::admission::rendered::RenderedVariables;
use crate::admission::selection::{Selection, render};
use crate::env::Variable;
use crate::model::digest::digest;
use crate::model::service::ServiceKey;
use crate::model::sha256::{hex, sha256};
use crate::model::snapshot::Snapshot;

/// The prefix of the names of managed ConfigMaps.
const NAME: &str = "portico-env-";
/// The bytes of the digest that a name contains: 128 bits.
const NAME_DIGEST_BYTES: usize = 16;
/// The hexadecimal digits in names of release 0.1.0, from a digest for which users can construct collisions.
const OLD_DIGITS: usize = 16;
/// The API server accepts 1 MiB of values; the object with its managed fields, which repeat each key, must fit into
/// etcd's 1.5 MiB.
const BYTES_MAX: usize = 1 << 20;
/// JSON around a key, its value and its managed field.
const ENTRY_BYTES: usize = 16;

/// A ConfigMap that pods refer to, in the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WantedConfigMap {
    /// Its name, in the namespace of the pods.
    pub name: String,
    /// The text of its selection, which the controller stores with it.
    pub selection: String,
    /// Its data: the variables.
    pub data: BTreeMap<String, String>,
    /// The services that the containers wait for; until all of them exist, the ConfigMap must not exist.
    pub waits_for: Vec<ServiceKey>,
}

impl WantedConfigMap {
    /// Returns the fingerprint of its data.
    #[must_use]
    pub fn content(&self) -> Content {
        let bytes = self.data.iter().map(|(key, value)| key.len() + value.len()).sum();
        // The lengths distinguish ("ab", "c") from ("a", "bc").
        let lens: Vec<[u8; 8]> = self.data.iter().map(|(key, value)| lens(key, value)).collect();
        let entries = self.data.iter().zip(&lens);
        let parts = entries.flat_map(|((key, value), lens)| [&lens[..], key.as_bytes(), value.as_bytes()]);
        let digest = sha256(parts);
        Content { digest: hex(&digest[..NAME_DIGEST_BYTES]), variables: self.data.len(), bytes }
    }
}

fn lens(key: &str, value: &str) -> [u8; 8] {
    let len = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut both = [0; 8];
    both[..4].copy_from_slice(&len(key));
    both[4..].copy_from_slice(&len(value));
    both
}

/// A fingerprint of the data of a ConfigMap, so that the controller need not read the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// A digest of all keys and values.
    pub digest: String,
    /// The number of variables.
    pub variables: usize,
    /// The bytes of all keys and values.
    pub bytes: usize,
}

impl Content {
    /// Parses the text of a fingerprint.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let digest = words.next().filter(|digest| is_hex(digest, 2 * NAME_DIGEST_BYTES))?.to_owned();
        let mut number = || words.next()?.parse().ok();
        let (variables, bytes) = (number()?, number()?);
        words.next().is_none().then_some(Self { digest, variables, bytes })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { digest, variables, bytes } = self;
        write!(out, "{digest} {variables} {bytes}")
    }
}

/// A ConfigMap as a pod refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferredConfigMap {
    /// Its name.
    pub name: String,
    /// The number of variables that it will contain.
    pub variables: usize,
    /// The services that the containers wait for; until all of them exist, the ConfigMap must not exist.
    pub waits_for: Vec<ServiceKey>,
}

/// Whether a ConfigMap with this name is managed by Portico.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with(NAME)
}

/// Returns the name of the first ConfigMap for the text of a selection.
#[must_use]
pub fn base_name(text: &str) -> String {
    format!("{NAME}{}", hex(&sha256([text.as_bytes()])[..NAME_DIGEST_BYTES]))
}

/// Returns the name that release 0.1.0 gives it.
#[must_use]
pub fn old_base_name(text: &str) -> String {
    format!("{NAME}{:016x}", digest(text))
}

/// Whether release 0.1.0 created this name.
#[must_use]
pub fn is_old_name(base: &str) -> bool {
    base.strip_prefix(NAME).is_some_and(|digits| is_hex(digits, OLD_DIGITS))
}

/// Returns the name of a part of the same selection; part 0 is the first ConfigMap.
#[must_use]
pub fn part_name(base: &str, part: usize) -> String {
    if part == 0 { base.to_owned() } else { format!("{base}-{part}") }
}

/// Splits the name of a part into the name of the first ConfigMap and the number of the part.
#[must_use]
pub fn split_name(name: &str) -> Option<(&str, usize)> {
    let digits = name.strip_prefix(NAME)?;
    let (base, part) = match digits.split_once('-') {
        None => (name, 0),
        Some((digits, part)) => {
            (&name[..NAME.len() + digits.len()], part.parse().ok().filter(|part| *part > 0)?)
        }
    };
    let is_valid = is_hex(&base[NAME.len()..], 2 * NAME_DIGEST_BYTES) || is_old_name(base);
    (is_valid && part_name(base, part) == name).then_some((base, part))
}

fn is_hex(digits: &str, len: usize) -> bool {
    digits.len() == len && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the desired ConfigMaps of a selection. Their names begin with `base`; `text` is stored with each.
#[must_use]
pub fn config_maps(snapshot: &Snapshot, namespace: &str, base: &str, text: &str) -> Vec<WantedConfigMap> {
    let Some(selection) = Selection::from_text(text) else { return Vec::new() };
    let RenderedVariables { variables, .. } = render(snapshot, namespace, &selection);
    let waits_for = selection.missing(snapshot, namespace);
    let named = parts(&variables).into_iter().enumerate().map(|(part, range)| {
        let entry = |Variable { name, value }: &Variable| (name.clone(), value.clone());
        let range = if waits_for.is_empty() { range } else { 0..0 };
        WantedConfigMap {
            name: part_name(base, part),
            selection: text.to_owned(),
            data: variables[range].iter().map(entry).collect(),
            waits_for: waits_for.clone(),
        }
    });
    named.collect()
}

/// Returns the ConfigMaps that a pod must refer to, and the names of spare ones for twice as many variables: references
/// cannot be added to a pod later.
pub(super) fn referred(
    snapshot: &Snapshot,
    namespace: &str,
    selection: &Selection,
    text: &str,
    rendered: &RenderedVariables,
) -> (Vec<ReferredConfigMap>, Vec<String>) {
    let base = base_name(text);
    let waits_for = selection.missing(snapshot, namespace);
    let must = parts(&rendered.variables).into_iter().enumerate().map(|(part, range)| ReferredConfigMap {
        name: part_name(&base, part),
        variables: if waits_for.is_empty() { range.len() } else { 0 },
        waits_for: waits_for.clone(),
    });
    let must: Vec<ReferredConfigMap> = must.collect();
    let bytes: usize = rendered.variables.iter().map(entry_bytes).sum();
    let spare = (must.len()..(2 * bytes).div_ceil(BYTES_MAX).min(PARTS_MAX))
        .map(|part| part_name(&base, part))
        .collect();
    (must, spare)
}

impl Selection {
    /// Returns the services that it waits for and that do not exist.
    fn missing(&self, snapshot: &Snapshot, namespace: &str) -> Vec<ServiceKey> {
        self.wait_for.iter().filter(|key| !is_offered(snapshot, key, namespace)).cloned().collect()
    }
}

fn entry_bytes(Variable { name, value }: &Variable) -> usize {
    2 * name.len() + value.len() + ENTRY_BYTES
}

/// Returns the variables of each part, at least one part, which later services can fill.
fn parts(variables: &[Variable]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, variable) in variables.iter().enumerate() {
        let entry = entry_bytes(variable);
        if bytes + entry > BYTES_MAX {
            parts.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += entry;
    }
    parts.push(start..variables.len());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_parts_are_split() {
        let (base, old) = (base_name("{}"), old_base_name("{}"));
        assert_eq!((base.len(), old.len()), (44, 28));
        for base in [&base, &old] {
            for part in [0, 1, 15] {
                assert_eq!(split_name(&part_name(base, part)), Some((base.as_str(), part)));
            }
        }
        assert!(is_old_name(&old) && !is_old_name(&base));
        let odd = [
            "portico-env-",
            "portico-env-mine",
            "other-0123456789abcdef",
            "portico-env-0123456789abcdef-",
            "portico-env-0123456789abcdef-0",
            "portico-env-0123456789abcdef-01",
            "portico-env-0123456789abcdef-+1",
            "portico-env-0123456789ABCDEF",
            "portico-env-0123456789abcdef-1-1",
        ];
        for name in odd {
            assert_eq!(split_name(name), None, "{name}");
        }
    }

    #[test]
    fn fingerprint_covers_every_key_and_value() {
        let of = |data: &[(&str, &str)]| WantedConfigMap {
            name: String::new(),
            selection: String::new(),
            data: data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            waits_for: Vec::new(),
        };
        let content = of(&[("A", "1"), ("B", "2")]).content();
        assert_eq!((content.variables, content.bytes), (2, 4));
        assert_eq!(Content::from_text(&content.to_string()), Some(content.clone()));
        for other in [&[("A", "1"), ("B", "3")][..], &[("A", "1B"), ("", "2")], &[("A", "1B2")], &[]] {
            assert_ne!(of(other).content().digest, content.digest, "{other:?}");
        }
        for text in ["", "x 1 2", &content.digest, &format!("{} 1", content.digest), &format!("{content} 5")]
        {
            assert_eq!(Content::from_text(text), None, "{text}");
        }
    }
}

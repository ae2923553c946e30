//! `WantedConfigMap`: a ConfigMap from which containers take variables.
//!
//! Its name follows from the selection alone, so that pods with the same wish share it, and whoever keeps it finds
//! it again. Variables that are too many for one are cut into several, in order. What must not go in here: making one.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::digest::digest;
use crate::env::Variable;
use crate::inject::is_there;
use crate::inject::selection::{Rendered, Selection, rendered};
use crate::service::ServiceKey;
use crate::snapshot::Snapshot;

/// What the names of all of ours begin with.
const NAME: &str = "portico-env-";
/// The API server takes 1 MiB of values; the object with its managed fields, which name each key again, must fit
/// into etcd's 1.5 MiB.
const BYTES_MAX: usize = 1 << 20;
/// JSON around a key, its value and its managed field.
const ENTRY_BYTES: usize = 16;

/// A ConfigMap that pods refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WantedConfigMap {
    /// Its name, in the namespace of the pods.
    pub name: String,
    /// `Selection::text` of what it holds; whoever makes it keeps this with it.
    pub selection: String,
    /// What it holds.
    pub data: BTreeMap<String, String>,
    /// While there are such it must not be there: the containers wait for these services.
    pub waits_for: Vec<ServiceKey>,
}

/// Whether a ConfigMap of this name is ours.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with(NAME)
}

/// The ConfigMaps of a selection as they should be now.
#[must_use]
pub fn config_maps(snapshot: &Snapshot, namespace: &str, selection: &Selection) -> Vec<WantedConfigMap> {
    of_rendered(snapshot, namespace, selection, &rendered(snapshot, namespace, selection))
}

pub(super) fn of_rendered(
    snapshot: &Snapshot,
    namespace: &str,
    selection: &Selection,
    rendered: &Rendered,
) -> Vec<WantedConfigMap> {
    let text = selection.text();
    let waits_for = selection.wait_for.iter().filter(|key| !is_there(snapshot, key, namespace));
    let waits_for: Vec<ServiceKey> = waits_for.cloned().collect();
    let parts = if waits_for.is_empty() { parts(&rendered.variables) } else { vec![BTreeMap::new()] };
    let number = digest(&text);
    let named = parts.into_iter().enumerate().map(|(part, data)| {
        let name =
            if part == 0 { format!("{NAME}{number:016x}") } else { format!("{NAME}{number:016x}-{part}") };
        WantedConfigMap { name, selection: text.clone(), data, waits_for: waits_for.clone() }
    });
    named.collect()
}

/// At least one, so that services that come later find it.
fn parts(variables: &[Variable]) -> Vec<BTreeMap<String, String>> {
    let mut parts = Vec::new();
    let mut part = BTreeMap::new();
    let mut bytes = 0;
    for Variable { name, value } in variables {
        let entry = 2 * name.len() + value.len() + ENTRY_BYTES;
        if bytes + entry > BYTES_MAX {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += entry;
        part.insert(name.clone(), value.clone());
    }
    parts.push(part);
    parts
}

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
    let number = digest(&text);
    let named = parts(&rendered.variables).into_iter().enumerate().map(|(part, data)| {
        let data = if waits_for.is_empty() { data } else { BTreeMap::new() };
        WantedConfigMap {
            name: name(number, part),
            selection: text.clone(),
            data,
            waits_for: waits_for.clone(),
        }
    });
    named.collect()
}

/// The ConfigMaps that there will be beyond those of now, when the variables have become twice as many: a pod cannot
/// be told of them later.
pub(super) fn spare_names(selection: &Selection, rendered: &Rendered, count: usize) -> Vec<String> {
    let bytes: usize = rendered.variables.iter().map(entry_bytes).sum();
    let number = digest(selection.text());
    (count..(2 * bytes).div_ceil(BYTES_MAX)).map(|part| name(number, part)).collect()
}

fn name(number: u64, part: usize) -> String {
    if part == 0 { format!("{NAME}{number:016x}") } else { format!("{NAME}{number:016x}-{part}") }
}

fn entry_bytes(Variable { name, value }: &Variable) -> usize {
    2 * name.len() + value.len() + ENTRY_BYTES
}

/// At least one, so that services that come later find it.
fn parts(variables: &[Variable]) -> Vec<BTreeMap<String, String>> {
    let mut parts = Vec::new();
    let mut part = BTreeMap::new();
    let mut bytes = 0;
    for variable in variables {
        let entry = entry_bytes(variable);
        if bytes + entry > BYTES_MAX {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += entry;
        part.insert(variable.name.clone(), variable.value.clone());
    }
    parts.push(part);
    parts
}

//! `Account`: what was done to a container, and why; for people.
//!
//! The same accounts make the annotation on the pod. What must not go in here: a decision.

use serde::Serialize;

use crate::admission::pod::ContainerKind;
use crate::admission::prepared::Added;
use crate::admission::selection::Rendered;

/// How variables come into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// At the beginning of `env`.
    Inline,
    /// By a ConfigMap.
    ConfigMap,
}

/// What was done to a container.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Account {
    /// Which of the pod's lists it is in.
    pub kind: ContainerKind,
    /// Its name.
    pub name: String,
    /// How the variables come into it.
    pub way: Way,
    /// Why so.
    pub why: &'static str,
    /// The ConfigMaps that it refers to.
    pub config_maps: Vec<String>,
    /// What it gets; by a ConfigMap, unless it defines the name itself.
    pub added: Added,
    /// Names of services' variables that it defines itself: its own value stands.
    pub kept: Vec<String>,
    /// Of those, the names for which inline would not be exact.
    pub unsure: Vec<String>,
}

/// What was injected, in one line.
pub(super) fn summary(accounts: &[Account], rendered: &Rendered) -> String {
    if rendered.variables.is_empty() {
        return "nothing: no service gives variables".to_owned();
    }
    let mut ways: Vec<String> = Vec::new();
    for account in accounts {
        let way = match account.way {
            Way::Inline => "inline".to_owned(),
            Way::ConfigMap => ["configmap ", &account.config_maps.join(" ")].concat(),
        };
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    let count = rendered.variables.len();
    format!("{}: {count} variables of {}", ways.join(", "), rendered.services)
}

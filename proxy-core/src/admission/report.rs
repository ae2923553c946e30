//! `InjectionReport`: what was injected into a container, and the reason. The annotation on the pod summarises it.

use serde::Serialize;

use crate::admission::pod::ContainerKind;
use crate::admission::rendered::{AddedVariables, RenderedVariables};

/// How a container gets the variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InjectedVia {
    /// Prepended to `env`.
    Inline,
    /// By a ConfigMap in `envFrom`.
    ConfigMap,
}

/// The result for one container.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionReport {
    /// The list of the pod that contains the container.
    pub kind: ContainerKind,
    /// The name of the container.
    pub name: String,
    /// How it gets the variables.
    pub via: InjectedVia,
    /// The reason for that choice.
    pub reason: &'static str,
    /// The ConfigMaps that it refers to.
    pub config_maps: Vec<String>,
    /// The variables that it gets.
    pub added: AddedVariables,
    /// Names of service variables that it defines itself; its own values are kept.
    pub already_defined: Vec<String>,
    /// Those of them for which inline would not be exact.
    pub inexact: Vec<String>,
}

/// Returns a summary of the injection in one line.
pub(super) fn summary(reports: &[InjectionReport], rendered: &RenderedVariables) -> String {
    if rendered.variables.is_empty() {
        return "nothing: no service gives variables".to_owned();
    }
    let mut ways: Vec<String> = Vec::new();
    for report in reports {
        let way = match report.via {
            InjectedVia::Inline => "inline".to_owned(),
            InjectedVia::ConfigMap => ["configmap ", &report.config_maps.join(" ")].concat(),
        };
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    let count = rendered.variables.len();
    format!("{}: {count} variables of {}", ways.join(", "), rendered.services)
}

//! The service environment variables of a container, exactly as the kubelet creates them.
//!
//! It follows pkg/kubelet/envvars/envvars.go and `getServiceEnvVarMap` of kubelet_pods.go, with one difference: if two
//! services define the same variable (`foo` and `foo-service` both define `FOO_SERVICE_PORT`), the kubelet's choice is
//! random. Here the service that is first by name takes precedence, and the conflict is reported.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::model::service::{Service, ServiceKey};
use crate::model::snapshot::Snapshot;

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// A variable that two services define.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VariableConflict {
    /// The name.
    pub name: String,
    /// The service whose value is used.
    pub kept: ServiceKey,
    /// The service whose value is omitted.
    pub lost: ServiceKey,
}

/// The service environment variables of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// The variables, by service in the order of names, and in the order of the kubelet.
    pub variables: Vec<Variable>,
    /// The variables that two services define.
    pub conflicts: Vec<VariableConflict>,
    /// Services whose variables a shell cannot use, because their names begin with a digit.
    pub unaddressable: Vec<ServiceKey>,
}

/// The variables of a service. Each form includes the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forms {
    /// `_SERVICE_HOST` and `_SERVICE_PORT`.
    HostPort,
    /// Also `_SERVICE_PORT_` and the name of each port.
    Named,
    /// Also the Docker links, `_PORT` and `_PORT_*`: those of the kubelet.
    #[default]
    All,
}

/// A service with the prefix of its variables: the part of their names before `_SERVICE_HOST`.
#[derive(Debug)]
pub(crate) struct VariableSource<'a> {
    pub(crate) service: &'a Service,
    pub(crate) prefix: String,
    pub(crate) forms: Forms,
}

/// The variables of several services.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    /// The variables without conflicting ones, each with the index of its service.
    pub(crate) variables: Vec<(usize, Variable)>,
    pub(crate) conflicts: Vec<VariableConflict>,
    pub(crate) unaddressable: Vec<ServiceKey>,
}

/// Returns the variables of a pod in `namespace`; without links, only those of `default/kubernetes`.
#[must_use]
pub fn environment(snapshot: &Snapshot, namespace: &str, links: bool) -> Environment {
    let services = visible(snapshot, namespace, links).into_values();
    let services: Vec<VariableSource<'_>> = services
        .map(|service| VariableSource {
            service,
            prefix: variable_name(&service.key.name),
            forms: Forms::All,
        })
        .collect();
    let Definitions { variables, conflicts, unaddressable } = definitions(&services);
    let variables = variables.into_iter().map(|(_, variable)| variable).collect();
    Environment { variables, conflicts, unaddressable }
}

/// Returns the variables of services. If two define the same variable, the first takes precedence.
pub(crate) fn definitions(services: &[VariableSource<'_>]) -> Definitions {
    let mut variables: Vec<(usize, Variable)> = Vec::new();
    let mut unaddressable = Vec::new();
    for (index, VariableSource { service, prefix, forms }) in services.iter().enumerate() {
        let before = variables.len();
        define(service, prefix, *forms, &mut |name, value| variables.push((index, Variable { name, value })));
        if variables.len() > before && prefix.starts_with(|first: char| first.is_ascii_digit()) {
            unaddressable.push(service.key.clone());
        }
    }
    let (positions, conflicts) = duplicates(services, &variables);
    let (mut positions, mut position) = (positions.into_iter().peekable(), 0..);
    variables.retain(|_| position.next().is_none_or(|position| positions.next_if_eq(&position).is_none()));
    Definitions { variables, conflicts, unaddressable }
}

/// Returns the positions of definitions whose name an earlier one has, in order, and the conflicts. Names are borrowed:
/// a namespace with many services has thousands.
fn duplicates(
    services: &[VariableSource<'_>],
    defined: &[(usize, Variable)],
) -> (Vec<usize>, Vec<VariableConflict>) {
    let mut owners: HashMap<&str, usize> = HashMap::with_capacity(defined.len());
    let (mut positions, mut conflicts) = (Vec::new(), Vec::new());
    for (position, (index, Variable { name, .. })) in defined.iter().enumerate() {
        match owners.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(*index);
            }
            Entry::Occupied(entry) => {
                let key = |index: usize| services[index].service.key.clone();
                conflicts.push(VariableConflict {
                    name: name.clone(),
                    kept: key(*entry.get()),
                    lost: key(*index),
                });
                positions.push(position);
            }
        }
    }
    (positions, conflicts)
}

/// Returns the visible services by name. A service `kubernetes` in the pod's namespace replaces that of `default`
/// (kubelet_pods.go:713-718).
fn visible<'a>(snapshot: &'a Snapshot, namespace: &'a str, links: bool) -> BTreeMap<&'a str, &'a Service> {
    let api_server = snapshot.service(&ServiceKey::new("default", "kubernetes"));
    let own = snapshot.services_in(namespace).filter(|_| links);
    let visible = api_server.into_iter().chain(own).filter(|service| service.cluster_ip_text.is_some());
    visible.map(|service| (&*service.key.name, &**service)).collect()
}

/// Defines the variables of a service in the order of the kubelet (envvars.go:43-60).
fn define(service: &Service, prefix: &str, forms: Forms, put: &mut impl FnMut(String, String)) {
    let Some(host) = service.cluster_ip_text.as_deref() else { return };
    let Some(first) = service.ports.first() else { return };
    put([prefix, "_SERVICE_HOST"].concat(), host.to_owned());
    put([prefix, "_SERVICE_PORT"].concat(), first.port.to_string());
    if forms >= Forms::Named {
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            put([prefix, "_SERVICE_PORT_", &variable_name(&port.name)].concat(), port.port.to_string());
        }
    }
    if forms < Forms::All {
        return;
    }
    for (index, port) in service.ports.iter().enumerate() {
        let (number, protocol) = (port.port.to_string(), port.protocol);
        let url = [protocol.lower(), "://", &host_and_port(host, &number)].concat();
        if index == 0 {
            put([prefix, "_PORT"].concat(), url.clone());
        }
        let link = [prefix, "_PORT_", &number, "_", protocol.upper()].concat();
        put(link.clone(), url);
        put([&link, "_PROTO"].concat(), protocol.lower().to_owned());
        put([&link, "_PORT"].concat(), number);
        put([&link, "_ADDR"].concat(), host.to_owned());
    }
}

/// Converts the name of a service or port to the form in variables (envvars.go:64-70).
pub(crate) fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// Joins host and port as Go's `net.JoinHostPort`: with brackets if the host looks like IPv6.
fn host_and_port(host: &str, port: &str) -> String {
    if host.contains([':', '%']) { ["[", host, "]:", port].concat() } else { [host, ":", port].concat() }
}

#[cfg(test)]
mod tests;

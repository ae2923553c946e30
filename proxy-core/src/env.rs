//! The variables that tell a container about services, exactly as the kubelet makes them.
//!
//! Follows pkg/kubelet/envvars/envvars.go and `getServiceEnvVarMap` of kubelet_pods.go. In one point it
//! is stricter: where two services define one name (`foo` and `foo-service` both define
//! `FOO_SERVICE_PORT`), the kubelet lets chance decide; here the service whose name comes first keeps it,
//! and the clash is reported.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::model::service::{Service, ServiceKey};
use crate::model::snapshot::Snapshot;

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Two services that define one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clash {
    /// The name.
    pub name: String,
    /// Whose value stands.
    pub kept: ServiceKey,
    /// Whose value is left out.
    pub lost: ServiceKey,
}

/// The variables of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// Service by service in the order of their names, each as the kubelet orders them.
    pub variables: Vec<Variable>,
    /// Names that two services define.
    pub clashes: Vec<Clash>,
    /// Services whose variables a shell cannot name, because they begin with a digit.
    pub unaddressable: Vec<ServiceKey>,
}

/// Which variables a service gives; each form holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forms {
    /// `_SERVICE_HOST` and `_SERVICE_PORT`.
    HostPort,
    /// Also `_SERVICE_PORT_` and the name of each port.
    Named,
    /// Also the Docker links, `_PORT` and all that begin with `_PORT_`: what the kubelet gives.
    #[default]
    All,
}

/// A service and what its variables begin with.
#[derive(Debug)]
pub(crate) struct Stemmed<'a> {
    pub(crate) service: &'a Service,
    pub(crate) stem: String,
    pub(crate) forms: Forms,
}

/// What several services define.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    /// The variables that stand, each with the place of its service.
    pub(crate) standing: Vec<(usize, Variable)>,
    pub(crate) clashes: Vec<Clash>,
    pub(crate) unaddressable: Vec<ServiceKey>,
}

/// The variables for a pod in `namespace`; without links, those of `default/kubernetes` alone.
#[must_use]
pub fn environment(snapshot: &Snapshot, namespace: &str, links: bool) -> Environment {
    let services = visible(snapshot, namespace, links).into_values();
    let services: Vec<Stemmed<'_>> = services
        .map(|service| Stemmed { service, stem: mangle(&service.key.name), forms: Forms::All })
        .collect();
    let Definitions { standing, clashes, unaddressable } = definitions(&services);
    let variables = standing.into_iter().map(|(_, variable)| variable).collect();
    Environment { variables, clashes, unaddressable }
}

/// What these services define; of two that define one name the first keeps it.
pub(crate) fn definitions(services: &[Stemmed<'_>]) -> Definitions {
    let mut standing: Vec<(usize, Variable)> = Vec::new();
    let mut unaddressable = Vec::new();
    for (place, Stemmed { service, stem, forms }) in services.iter().enumerate() {
        let before = standing.len();
        define(service, stem, *forms, &mut |name, value| standing.push((place, Variable { name, value })));
        if standing.len() > before && stem.starts_with(|first: char| first.is_ascii_digit()) {
            unaddressable.push(service.key.clone());
        }
    }
    let (stand, clashes) = settle(services, &standing);
    let mut stand = stand.into_iter();
    standing.retain(|_| stand.next().unwrap_or(true));
    Definitions { standing, clashes, unaddressable }
}

/// Says for each definition whether it stands, and which do not: the first of a name does.
fn settle(services: &[Stemmed<'_>], defined: &[(usize, Variable)]) -> (Vec<bool>, Vec<Clash>) {
    let mut owners: HashMap<&str, usize> = HashMap::with_capacity(defined.len());
    let mut clashes = Vec::new();
    let mut stand = Vec::with_capacity(defined.len());
    for (place, Variable { name, .. }) in defined {
        match owners.entry(name) {
            Entry::Vacant(free) => {
                free.insert(*place);
                stand.push(true);
            }
            Entry::Occupied(owner) => {
                let key = |place: usize| services[place].service.key.clone();
                clashes.push(Clash { name: name.clone(), kept: key(*owner.get()), lost: key(*place) });
                stand.push(false);
            }
        }
    }
    (stand, clashes)
}

/// Which services a pod includes, by name: one named `kubernetes` in its own namespace replaces that of
/// `default` (kubelet_pods.go:713-718).
fn visible<'a>(snapshot: &'a Snapshot, namespace: &'a str, links: bool) -> BTreeMap<&'a str, &'a Service> {
    let api_server = snapshot.service(&ServiceKey::new("default", "kubernetes"));
    let own = snapshot.services_in(namespace).filter(|_| links);
    let seen = api_server.into_iter().chain(own).filter(|service| service.cluster_ip_text.is_some());
    seen.map(|service| (&*service.key.name, &**service)).collect()
}

/// Defines the variables of one service, in the kubelet's order (envvars.go:43-60).
fn define(service: &Service, stem: &str, forms: Forms, put: &mut impl FnMut(String, String)) {
    let Some(host) = service.cluster_ip_text.as_deref() else { return };
    let Some(first) = service.ports.first() else { return };
    put([stem, "_SERVICE_HOST"].concat(), host.to_owned());
    put([stem, "_SERVICE_PORT"].concat(), first.port.to_string());
    if forms >= Forms::Named {
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            put([stem, "_SERVICE_PORT_", &mangle(&port.name)].concat(), port.port.to_string());
        }
    }
    if forms < Forms::All {
        return;
    }
    for (index, port) in service.ports.iter().enumerate() {
        let (number, protocol) = (port.port.to_string(), port.protocol);
        let url = [protocol.lower(), "://", &host_and_port(host, &number)].concat();
        if index == 0 {
            put([stem, "_PORT"].concat(), url.clone());
        }
        let link = [stem, "_PORT_", &number, "_", protocol.upper()].concat();
        put(link.clone(), url);
        put([&link, "_PROTO"].concat(), protocol.lower().to_owned());
        put([&link, "_PORT"].concat(), number);
        put([&link, "_ADDR"].concat(), host.to_owned());
    }
}

/// Dashes become underscores, letters upper case; nothing else is touched (envvars.go:64-70).
pub(crate) fn mangle(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// Go's `net.JoinHostPort`: brackets around what looks like IPv6, the text itself untouched.
fn host_and_port(host: &str, port: &str) -> String {
    if host.contains([':', '%']) { ["[", host, "]:", port].concat() } else { [host, ":", port].concat() }
}

#[cfg(test)]
mod tests;

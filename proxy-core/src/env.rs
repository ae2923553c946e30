//! The variables that tell a container about services, exactly as the kubelet makes them.
//!
//! Follows pkg/kubelet/envvars/envvars.go and `getServiceEnvVarMap` of kubelet_pods.go. In one point it
//! is stricter: where two services define one name (`foo` and `foo-service` both define
//! `FOO_SERVICE_PORT`), the kubelet lets chance decide; here the service whose name comes first keeps it,
//! and the clash is reported.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::service::{Service, ServiceKey};
use crate::snapshot::Snapshot;

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

/// The variables for a pod in `namespace`; without links, those of `default/kubernetes` alone.
#[must_use]
pub fn environment(snapshot: &Snapshot, namespace: &str, links: bool) -> Environment {
    let mut maker = Maker::default();
    for service in visible(snapshot, namespace, links).values() {
        maker.add(service);
    }
    maker.environment
}

/// Which services a pod sees, by name: one named `kubernetes` in its own namespace replaces that of
/// `default` (kubelet_pods.go:713-718).
fn visible<'a>(snapshot: &'a Snapshot, namespace: &'a str, links: bool) -> BTreeMap<&'a str, &'a Service> {
    let api_server = snapshot.service(&ServiceKey::new("default", "kubernetes"));
    let own = snapshot.services_in(namespace).filter(|_| links);
    let seen = api_server.into_iter().chain(own).filter(|service| service.cluster_ip_text.is_some());
    seen.map(|service| (&*service.key.name, &**service)).collect()
}

#[derive(Default)]
struct Maker {
    environment: Environment,
    /// Who defined a name, and where it stands.
    defined: HashMap<String, (ServiceKey, usize)>,
}

impl Maker {
    fn add(&mut self, service: &Service) {
        let Some(host) = service.cluster_ip_text.as_deref() else { return };
        let Some(first) = service.ports.first() else { return };
        let prefix = mangle(&service.key.name);
        if prefix.starts_with(|c: char| c.is_ascii_digit()) {
            self.environment.unaddressable.push(service.key.clone());
        }
        let mut define = |name: String, value: String| self.define(&service.key, name, value);
        define(format!("{prefix}_SERVICE_HOST"), host.to_owned());
        define(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            define(format!("{prefix}_SERVICE_PORT_{}", mangle(&port.name)), port.port.to_string());
        }
        for (index, port) in service.ports.iter().enumerate() {
            let url = format!("{}://{}", port.protocol.lower(), host_and_port(host, port.port));
            if index == 0 {
                define(format!("{prefix}_PORT"), url.clone());
            }
            let link = format!("{prefix}_PORT_{}_{}", port.port, port.protocol.upper());
            define(link.clone(), url);
            define(format!("{link}_PROTO"), port.protocol.lower().to_owned());
            define(format!("{link}_PORT"), port.port.to_string());
            define(format!("{link}_ADDR"), host.to_owned());
        }
    }

    fn define(&mut self, service: &ServiceKey, name: String, value: String) {
        match self.defined.get(&name) {
            Some((owner, place)) if owner == service => self.environment.variables[*place].value = value,
            Some((owner, _)) => {
                self.environment.clashes.push(Clash { name, kept: owner.clone(), lost: service.clone() });
            }
            None => {
                let place = self.environment.variables.len();
                self.defined.insert(name.clone(), (service.clone(), place));
                self.environment.variables.push(Variable { name, value });
            }
        }
    }
}

/// Dashes become underscores, letters upper case; nothing else is touched (envvars.go:64-70).
fn mangle(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// Go's `net.JoinHostPort`: brackets around what looks like IPv6, the text itself untouched.
fn host_and_port(host: &str, port: u16) -> String {
    if host.contains([':', '%']) { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests;

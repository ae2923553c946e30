//! A model of the kubelet: the environment with which it starts a container.
//!
//! Written from its source (kubelet_pods.go `makeEnvironmentVariables` and `getServiceEnvVarMap`, envvars.go,
//! expand.go), independent of the injector. If the kubelet's choice between two services is random, the first by name
//! takes precedence here.

use std::collections::BTreeMap;

use serde_json::Value;

pub(super) type Map = BTreeMap<String, String>;

/// A service as the kubelet sees it.
#[derive(Debug, Clone)]
pub(super) struct KubeService {
    pub(super) namespace: &'static str,
    pub(super) name: &'static str,
    /// `None`, or an address.
    pub(super) cluster_ip: &'static str,
    /// Name, protocol, port.
    pub(super) ports: Vec<(&'static str, &'static str, u16)>,
}

/// The sources of variables.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    pub(super) config_maps: BTreeMap<String, Map>,
    pub(super) secrets: BTreeMap<String, Map>,
    pub(super) files: Map,
}

/// Returns the environment of a container, or the reason why it cannot start.
pub(super) fn environment(service_env: &Map, container: &Value, sources: &Sources) -> Result<Map, String> {
    let mut result = Map::new();
    for source in list(container, "envFrom") {
        for (reference, objects) in [("configMapRef", &sources.config_maps), ("secretRef", &sources.secrets)]
        {
            let Some(reference) = source.get(reference) else { continue };
            let prefix = source.get("prefix").and_then(Value::as_str).unwrap_or("");
            match objects.get(reference["name"].as_str().unwrap()) {
                Some(data) => result.extend(data.iter().map(|(k, v)| (format!("{prefix}{k}"), v.clone()))),
                None if is_optional(reference) => {}
                None => return Err(format!("{reference} not found")),
            }
        }
    }
    for entry in list(container, "env") {
        let name = entry["name"].as_str().unwrap();
        let literal = entry.get("value").and_then(Value::as_str).unwrap_or("");
        if !literal.is_empty() {
            let value = expand(literal, &|name| result.get(name).or_else(|| service_env.get(name)).cloned());
            result.insert(name.to_owned(), value);
        } else if let Some(from) = entry.get("valueFrom") {
            if let Some(value) = resolved(from, sources)? {
                result.insert(name.to_owned(), value);
            }
        } else {
            result.insert(name.to_owned(), String::new());
        }
    }
    for (name, value) in service_env {
        if !result.contains_key(name) {
            result.insert(name.clone(), value.clone());
        }
    }
    Ok(result)
}

fn list<'a>(container: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    container.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn is_optional(reference: &Value) -> bool {
    reference.get("optional").and_then(Value::as_bool).unwrap_or(false)
}

/// Returns the value of a source; none if the name is not set.
fn resolved(from: &Value, sources: &Sources) -> Result<Option<String>, String> {
    let (reference, found) = if let Some(reference) = from.get("configMapKeyRef") {
        (reference, in_object(&sources.config_maps, reference))
    } else if let Some(reference) = from.get("secretKeyRef") {
        (reference, in_object(&sources.secrets, reference))
    } else if let Some(reference) = from.get("fileKeyRef") {
        (reference, sources.files.get(reference["key"].as_str().unwrap()))
    } else {
        return Ok(Some(format!("field {from}")));
    };
    match found {
        None if !is_optional(reference) => Err(format!("{reference} not found")),
        found => Ok(found.cloned()),
    }
}

fn in_object<'a>(objects: &'a BTreeMap<String, Map>, reference: &Value) -> Option<&'a String> {
    objects.get(reference["name"].as_str().unwrap())?.get(reference["key"].as_str().unwrap())
}

/// Returns the variables of the services that are visible to a pod.
pub(super) fn service_env(services: &[KubeService], namespace: &str, links: bool) -> Map {
    let mut seen: BTreeMap<&str, &KubeService> = BTreeMap::new();
    for service in services.iter().filter(|service| service.cluster_ip != "None") {
        let is_master = service.namespace == "default" && service.name == "kubernetes";
        if is_master && !seen.contains_key(service.name) || links && service.namespace == namespace {
            seen.insert(service.name, service);
        }
    }
    let mut env = Map::new();
    for service in seen.values() {
        for (name, value) in variables(service) {
            env.entry(name).or_insert(value);
        }
    }
    env
}

pub(super) fn variables(service: &KubeService) -> Vec<(String, String)> {
    let upper = |name: &str| name.replace('-', "_").to_uppercase();
    let (name, ip) = (upper(service.name), service.cluster_ip);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let mut all = vec![(format!("{name}_SERVICE_HOST"), ip.to_owned())];
    for (index, (port_name, protocol, port)) in service.ports.iter().enumerate() {
        let url = format!("{}://{host}:{port}", protocol.to_lowercase());
        if index == 0 {
            all.push((format!("{name}_SERVICE_PORT"), port.to_string()));
            all.push((format!("{name}_PORT"), url.clone()));
        }
        if !port_name.is_empty() {
            all.push((format!("{name}_SERVICE_PORT_{}", upper(port_name)), port.to_string()));
        }
        let prefix = format!("{name}_PORT_{port}_{protocol}");
        all.push((prefix.clone(), url));
        all.push((format!("{prefix}_PROTO"), protocol.to_lowercase()));
        all.push((format!("{prefix}_PORT"), port.to_string()));
        all.push((format!("{prefix}_ADDR"), ip.to_owned()));
    }
    all
}

/// Expands references as expand.go does.
pub(super) fn expand(input: &str, mapping: &dyn Fn(&str) -> Option<String>) -> String {
    let bytes = input.as_bytes();
    let mut out: Vec<u8> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'$', Some(b'$')) => {
                out.push(b'$');
                at += 2;
            }
            (b'$', Some(b'(')) => {
                if let Some(len) = bytes[at + 2..].iter().position(|byte| *byte == b')') {
                    let name = &input[at + 2..at + 2 + len];
                    let value = mapping(name).unwrap_or_else(|| format!("$({name})"));
                    out.extend(value.as_bytes());
                    at += len + 3;
                } else {
                    out.extend(b"$(");
                    at += 2;
                }
            }
            (b'$', Some(other)) => {
                out.extend([b'$', *other]);
                at += 2;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

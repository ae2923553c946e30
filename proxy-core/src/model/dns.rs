//! `Namespace` and `DnsEndpoints`: the parts of the model that only in-pod DNS needs.
//!
//! A namespace without services has a name too, so Namespace objects are watched if the agent answers DNS queries.
//! Services and endpoints refer to a namespace only by its name.

use std::sync::Arc;

use serde::Serialize;

use crate::model::annotation::DNS;

/// A Kubernetes Namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Namespace {
    /// The name.
    pub name: Arc<str>,
    /// Whether the annotation `portico.dev/dns` excludes its pods from in-pod DNS.
    pub is_dns_off: bool,
}

/// The endpoints of a headless service that a response to a DNS query contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DnsEndpoints {
    /// All of them (the default): the members of a StatefulSet must find each other.
    #[default]
    All,
    /// Those on the client's own node.
    Node,
    /// Those in the client's own zone.
    Zone,
}

impl DnsEndpoints {
    /// All values with their names in annotations.
    pub const NAMES: [(&'static str, Self); 3] =
        [("all", Self::All), ("node", Self::Node), ("zone", Self::Zone)];
}

/// Parses the value of the annotation `portico.dev/dns`: whether in-pod DNS is on.
///
/// # Errors
/// If the value is not `on` or `off`.
pub fn parse_dns(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("annotation {}: must be {}", DNS.key, DNS.values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_annotation_is_on_or_off() {
        assert_eq!((parse_dns("on"), parse_dns("off")), (Ok(true), Ok(false)));
        for text in ["", "On", "true", "none", "off "] {
            assert_eq!(
                parse_dns(text),
                Err("annotation portico.dev/dns: must be on or off".to_owned()),
                "{text:?}"
            );
        }
    }
}

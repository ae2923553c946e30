//! `Content`: an object of an API server as core types, and its decoder.
//!
//! The API server has validated the object and applied its defaults, so neither is repeated here. An object is rejected
//! only if it cannot be used.

use ipnet::IpNet;
use proxy_core::dns::Namespace;
use proxy_core::endpoint::EndpointSlice;
use proxy_core::node::Node;
use proxy_core::service::Service;
use serde_json::Value;

use crate::cluster::decoder::{ACCEPT_METADATA, ACCEPT_OBJECT, Decoder};
use crate::cluster::object::{Object, ObjectKey};
use crate::cluster::resource::Kind;
use crate::objects::field::Field;
use crate::objects::finding::Findings;
use crate::objects::metadata::Names;
use crate::objects::node::{dns_namespace, namespace, node, service_cidr};
use crate::objects::service::service;
use crate::objects::slice::{Defaults, ParsedSlice, slice};

/// The maximum length of a rejection. Texts that it quotes are truncated before.
const REASON_CHARS_MAX: usize = 300;

/// The content of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Service(Service),
    Slice(EndpointSlice),
    Ranges(Vec<IpNet>),
    Node(Node),
    Namespace(Namespace),
    /// A valid object without use.
    Unused,
    /// An object that cannot be used, with the reason.
    Rejected(String),
}

impl Decoder for Kind {
    type Content = Content;

    fn kind(&self) -> &str {
        self.name()
    }

    fn accept(&self) -> (&'static str, &'static str) {
        if *self == Self::Namespace { ACCEPT_METADATA } else { ACCEPT_OBJECT }
    }

    fn decode(&self, text: &[u8], names: &mut Names) -> serde_json::Result<Object<Content>> {
        Ok(Object::parse(*self, &serde_json::from_slice(text)?, names))
    }

    fn rejected(reason: String) -> Content {
        Content::Rejected(reason)
    }
}

impl Object<Content> {
    /// Converts an object of a kind to core types.
    pub(super) fn parse(kind: Kind, value: &Value, names: &mut Names) -> Self {
        let version = version(value);
        let Some(key) = key(kind, value, names) else {
            let content = Content::Rejected(format!("{} without a name", kind.name()));
            return Self { key: None, version, content };
        };
        let findings = Findings::default();
        let root = Field::root(value, &findings);
        let content = match kind {
            Kind::Service => service(&root, names).map(|draft| Content::Service(draft.service)),
            Kind::Slice => match slice(&root, Defaults::AsStored, names) {
                ParsedSlice::Slice(slice) => Some(Content::Slice(slice)),
                ParsedSlice::Unused(_) => Some(Content::Unused),
                ParsedSlice::Invalid => None,
            },
            Kind::ServiceCidr => service_cidr(&root).map(|(_, ranges)| Content::Ranges(ranges)),
            Kind::Node => node(&root, names).map(Content::Node),
            Kind::Namespace => namespace(&root, names)
                .map(|(name, annotations)| Content::Namespace(dns_namespace(name, &annotations))),
        };
        let content = match (content, findings.malformed()) {
            (Some(content), None) => content,
            (_, reason) => {
                let first_finding = || Some(findings.into_list().into_iter().next()?.message);
                let reason = reason.or_else(first_finding).unwrap_or_else(|| "invalid object".to_owned());
                Content::Rejected(format!("{} {}: {}", kind.name(), key.shown(), one_line(&reason)))
            }
        };
        Self { key: Some(key), version, content }
    }
}

fn version(value: &Value) -> Option<u64> {
    value.get("metadata")?.get("resourceVersion")?.as_str()?.parse().ok()
}

fn key(kind: Kind, value: &Value, names: &mut Names) -> Option<ObjectKey> {
    let metadata = value.get("metadata")?;
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let namespace = if kind.is_namespaced() { text("namespace")? } else { "" };
    Some(ObjectKey { namespace: names.get(namespace), name: names.get(text("name")?) })
}

/// Removes control characters and truncates the text.
fn one_line(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;

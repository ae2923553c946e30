//! `Object`: an object of an API server as what the core makes of it.
//!
//! The server has judged it already and has set what it sets: nothing is defaulted, drawn or judged again here. Only
//! what cannot be used is refused. What must not go in here: where it comes from.

use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::endpoint::EndpointSlice;
use proxy_core::node::Node;
use proxy_core::service::Service;
use serde_json::Value;

use crate::cluster::decoder::Decoder;
use crate::cluster::resource::Kind;
use crate::objects::field::Field;
use crate::objects::finding::Findings;
use crate::objects::finding::excerpt;
use crate::objects::metadata::Names;
use crate::objects::node::{node, service_cidr};
use crate::objects::service::service;
use crate::objects::slice::{Defaults, ParsedSlice, slice};

/// The identity of an object among those of its kind; what belongs to no namespace has an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        let (namespace, name) = (excerpt(&self.namespace), excerpt(&self.name));
        if namespace.is_empty() { name } else { format!("{namespace}/{name}") }
    }
}

/// What an object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Service(Service),
    Slice(EndpointSlice),
    Ranges(Vec<IpNet>),
    Node(Node),
    /// It is right, but nothing for a portal.
    Nothing,
    /// It cannot be used; the text says why.
    Refused(String),
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object<C = Content> {
    /// None: it has no name.
    pub(super) key: Option<ObjectKey>,
    /// Its resource version: within a resource a later one is higher.
    pub(super) version: Option<u64>,
    pub(super) content: C,
}

impl Decoder for Kind {
    type Content = Content;

    fn kind(&self) -> &str {
        self.name()
    }

    fn decode(&self, text: &[u8], names: &mut Names) -> serde_json::Result<Object> {
        Ok(Object::new(*self, &serde_json::from_slice(text)?, names))
    }

    fn refused(why: String) -> Content {
        Content::Refused(why)
    }
}

impl Object {
    pub(super) fn new(kind: Kind, value: &Value, names: &mut Names) -> Self {
        let version = version(value);
        let Some(key) = key(kind, value, names) else {
            let content = Content::Refused(format!("{} without a name", kind.name()));
            return Self { key: None, version, content };
        };
        let findings = Findings::default();
        let root = Field::root(value, &findings);
        let content = match kind {
            Kind::Service => service(&root, names).map(|draft| Content::Service(draft.service)),
            Kind::Slice => match slice(&root, Defaults::AsStored, names) {
                ParsedSlice::Slice(slice) => Some(Content::Slice(slice)),
                ParsedSlice::Unused(_) => Some(Content::Nothing),
                ParsedSlice::Invalid => None,
            },
            Kind::ServiceCidr => service_cidr(&root).map(|(_, ranges)| Content::Ranges(ranges)),
            Kind::Node => node(&root, names).map(Content::Node),
        };
        let content = match (content, findings.malformed()) {
            (Some(content), None) => content,
            (_, why) => {
                let first = || Some(findings.into_list().into_iter().next()?.message);
                let why = why.or_else(first).unwrap_or_else(|| "it cannot be used".to_owned());
                Content::Refused(format!("{} {}: {}", kind.name(), key.shown(), long_excerpt(&why)))
            }
        };
        Self { key: Some(key), version, content }
    }
}

/// The resource version of an object.
fn version(value: &Value) -> Option<u64> {
    value.get("metadata")?.get("resourceVersion")?.as_str()?.parse().ok()
}

fn key(kind: Kind, value: &Value, names: &mut Names) -> Option<ObjectKey> {
    let metadata = value.get("metadata")?;
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let namespace = if kind.is_namespaced() { text("namespace")? } else { "" };
    Some(ObjectKey { namespace: names.get(namespace), name: names.get(text("name")?) })
}

/// One line, not too long: what it quotes has been cut before.
fn long_excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    text.chars().filter(|character| !character.is_control()).take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;

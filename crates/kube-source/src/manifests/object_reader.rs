//! `ObjectReader`: converts documents to objects, each validated by itself.
//!
//! Errors are recorded in the report with their location, and reading continues. `resolve` later applies the rules that
//! involve several objects. IO and the rules of a single kind do not belong here.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::endpoint::{EndpointSlice, SliceKey};
use proxy_core::node::Node;
use proxy_core::service::ServiceKey;
use serde_json::Value;

use crate::manifests::document::{Document, DocumentSeed, ListHeader, SyntaxError};
use crate::manifests::report::{Report, SourceLocation};
use crate::objects::draft::ServiceDraft;
use crate::objects::endpoints::{EndpointsDraft, endpoints};
use crate::objects::field::Field;
use crate::objects::finding::Findings;
use crate::objects::finding::{Severity, excerpt};
use crate::objects::legacy::{legacy_endpoints, legacy_service};
use crate::objects::metadata::Names;
use crate::objects::node::{namespace, node, service_cidr};
use crate::objects::pods::{Pod, PodKey, pod};
use crate::objects::service::service;
use crate::objects::slice::{Defaults, ParsedSlice, slice};

/// The maximum depth of lists: a list can contain lists (`kubectl get` of several kinds), but these cannot.
const LIST_DEPTH_MAX: usize = 2;

/// An object and its location in the input.
#[derive(Debug)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) location: SourceLocation,
    /// The position in reading order among all objects.
    pub(crate) order: usize,
}

/// The valid objects read so far.
#[derive(Debug, Default)]
pub(crate) struct ObjectReader {
    names: Names,
    pub(crate) report: Report,
    pub(crate) services: BTreeMap<ServiceKey, Located<ServiceDraft>>,
    pub(crate) slices: BTreeMap<SliceKey, Located<EndpointSlice>>,
    pub(crate) endpoints: BTreeMap<ServiceKey, Located<EndpointsDraft>>,
    pub(crate) pods: BTreeMap<PodKey, Located<Pod>>,
    pub(crate) nodes: BTreeMap<Arc<str>, Located<Node>>,
    pub(crate) namespaces: BTreeMap<Arc<str>, Located<BTreeMap<String, String>>>,
    pub(crate) service_cidrs: BTreeMap<Arc<str>, Located<Vec<IpNet>>>,
}

impl ObjectReader {
    /// Parses one document and reads its object, or the items of its list.
    pub(crate) fn document(
        &mut self,
        location: &SourceLocation,
        parse: impl FnOnce(DocumentSeed<'_>) -> Result<Document, SyntaxError>,
    ) -> Result<(), SyntaxError> {
        let mut header = ListHeader::default();
        let mut deferred: Vec<(usize, Value)> = Vec::new();
        let mut index = 0;
        let mut sink = |header: &ListHeader, item: Value| {
            match with_list_type(item, header) {
                Ok(item) => self.object(&item, location, Some(index), 1),
                Err(item) => deferred.push((index, item)),
            }
            index += 1;
        };
        let document = parse(DocumentSeed { header: &mut header, sink: &mut sink });
        let is_list = header.kind.as_deref().map_or(index > 0, |kind| kind.ends_with("List"));
        // If a syntax error came before the type of the list, the type of these items is unknown.
        if is_list && (document.is_ok() || header.kind.is_some()) {
            for (index, item) in deferred {
                let (Ok(item) | Err(item)) = with_list_type(item, &header);
                self.object(&item, location, Some(index), 1);
            }
        }
        if let Document::Object(object) = document?
            && !(is_list && object.contains_key("items"))
        {
            self.object(&Value::Object(object), location, None, 0);
        }
        Ok(())
    }

    /// Reads one object, which can be a list.
    fn object(&mut self, object: &Value, location: &SourceLocation, index: Option<usize>, depth: usize) {
        let label = || index.map(|index| format!("items[{index}]"));
        let kind = object.get("kind").and_then(Value::as_str).filter(|kind| !kind.is_empty());
        let api_version = object.get("apiVersion").and_then(Value::as_str).filter(|text| !text.is_empty());
        if let (Some(kind), Some(items)) = (kind, object.get("items").and_then(Value::as_array))
            && kind.ends_with("List")
        {
            self.nested_list(object, items, location, index, depth);
            return;
        }
        self.report.objects += 1;
        if !object.is_object() {
            let message = "not a Kubernetes object: must be a map with apiVersion and kind".to_owned();
            self.report.add(Severity::Error, location, label().as_deref(), message);
            return;
        }
        let (Some(kind), Some(api_version)) = (kind, api_version) else {
            let missing = match (kind, api_version) {
                (None, None) => "apiVersion and kind",
                (None, _) => "kind",
                _ => "apiVersion",
            };
            let message = format!("missing {missing}");
            let name =
                quoted_name(object).map(|name| format!("{} {name}", excerpt(kind.unwrap_or("object"))));
            self.report.add(Severity::Error, location, name.or_else(label).as_deref(), message);
            return;
        };
        self.known_object(object, (api_version, kind), location, index);
    }

    fn nested_list(
        &mut self,
        list: &Value,
        items: &[Value],
        location: &SourceLocation,
        index: Option<usize>,
        depth: usize,
    ) {
        if depth >= LIST_DEPTH_MAX {
            let label = index.map(|index| format!("items[{index}]"));
            let message = "lists are nested too deep: at most 2 levels".to_owned();
            self.report.add(Severity::Error, location, label.as_deref(), message);
            return;
        }
        let text = |key: &str| list.get(key).and_then(Value::as_str).map(str::to_owned);
        let header = ListHeader { kind: text("kind"), api_version: text("apiVersion") };
        for (index, item) in items.iter().enumerate() {
            let (Ok(item) | Err(item)) = with_list_type(item.clone(), &header);
            self.object(&item, location, Some(index), depth + 1);
        }
    }

    /// Parses an object by its kind, and accepts it unless an error was recorded.
    fn known_object(
        &mut self,
        object: &Value,
        api_version_and_kind: (&str, &str),
        location: &SourceLocation,
        index: Option<usize>,
    ) {
        let findings = Findings::default();
        let root = Field::root(object, &findings);
        let names = &mut self.names;
        let parsed = match api_version_and_kind {
            ("v1", "Service") => service(&root, names).map(Accepted::Service),
            ("discovery.k8s.io/v1" | "discovery.k8s.io/v1beta1", "EndpointSlice") => {
                Some(Accepted::Slice(slice(&root, Defaults::Apply, names)))
            }
            ("v1", "Endpoints") => endpoints(&root, names).map(Accepted::Endpoints),
            ("v1", "Pod") => pod(&root, names).map(Accepted::Pod),
            ("v1", "Node") => node(&root, names).map(Accepted::Node),
            ("v1", "Namespace") => {
                namespace(&root, names).map(|(name, annotations)| Accepted::Namespace(name, annotations))
            }
            ("networking.k8s.io/v1" | "networking.k8s.io/v1beta1", "ServiceCIDR") => {
                service_cidr(&root).map(|(name, ranges)| Accepted::ServiceCidr(name, ranges))
            }
            ("v1beta1", "Service") => legacy_service(&root, object, names, &findings).map(Accepted::Service),
            ("v1beta1", "Endpoints") => legacy_endpoints(&root, names).map(Accepted::Endpoints),
            (api_version, kind) => {
                self.report.ignore(&format!("{api_version} {kind}"));
                return;
            }
        };
        let has_errors = findings.has_errors();
        let label = object_label(object, api_version_and_kind.1, index);
        for finding in findings.into_list() {
            self.report.add(finding.severity, location, Some(&label), finding.message);
        }
        if let Some(accepted) = parsed.filter(|_| !has_errors) {
            self.accept(accepted, location, &label);
        }
    }

    fn accept(&mut self, accepted: Accepted, location: &SourceLocation, label: &str) {
        let order = self.report.objects;
        let report = &mut self.report;
        let location = location.clone();
        match accepted {
            Accepted::Service(draft) => {
                let key = draft.service.key.clone();
                insert(&mut self.services, key, Located { value: draft, location, order }, label, report);
            }
            Accepted::Slice(ParsedSlice::Slice(slice)) => {
                let key = slice.key.clone();
                insert(&mut self.slices, key, Located { value: slice, location, order }, label, report);
            }
            Accepted::Slice(ParsedSlice::Unused(description)) => report.ignore(description),
            Accepted::Slice(ParsedSlice::Invalid) => {}
            Accepted::Endpoints(draft) => {
                let key = draft.service.clone();
                insert(&mut self.endpoints, key, Located { value: draft, location, order }, label, report);
            }
            Accepted::Pod(pod) => {
                let key = pod.key.clone();
                insert(&mut self.pods, key, Located { value: pod, location, order }, label, report);
            }
            Accepted::Node(node) => {
                let key = node.name.clone();
                insert(&mut self.nodes, key, Located { value: node, location, order }, label, report);
            }
            Accepted::Namespace(name, annotations) => {
                insert(
                    &mut self.namespaces,
                    name,
                    Located { value: annotations, location, order },
                    label,
                    report,
                );
            }
            Accepted::ServiceCidr(name, ranges) => {
                insert(
                    &mut self.service_cidrs,
                    name,
                    Located { value: ranges, location, order },
                    label,
                    report,
                );
            }
        }
    }
}

/// A valid object of a supported kind.
enum Accepted {
    Service(ServiceDraft),
    Slice(ParsedSlice),
    Endpoints(EndpointsDraft),
    Pod(Pod),
    Node(Node),
    Namespace(Arc<str>, BTreeMap<String, String>),
    ServiceCidr(Arc<str>, Vec<IpNet>),
}

/// Inserts an object. It replaces an earlier object with the same key, as `kubectl apply` does.
fn insert<K: Ord, T>(
    map: &mut BTreeMap<K, Located<T>>,
    key: K,
    located: Located<T>,
    label: &str,
    report: &mut Report,
) {
    let location = located.location.clone();
    if let Some(earlier) = map.insert(key, located) {
        let message = format!("replaces the object at {}", earlier.location);
        report.add(Severity::Warning, &location, Some(label), message);
    }
}

/// Adds `kind` and `apiVersion` of the list to an item that lacks them. Returns `Err(item)` if the list has none yet.
fn with_list_type(mut item: Value, header: &ListHeader) -> Result<Value, Value> {
    let Some(object) = item.as_object_mut() else {
        // The item is invalid if this is a list. Before `kind` is read, that is unknown.
        return if header.kind.is_some() { Ok(item) } else { Err(item) };
    };
    if object.contains_key("kind") && object.contains_key("apiVersion") {
        return Ok(item);
    }
    let kind = header.kind.as_deref().and_then(|kind| kind.strip_suffix("List"));
    let (Some(kind), Some(api_version)) = (kind.filter(|kind| !kind.is_empty()), &header.api_version) else {
        return Err(item);
    };
    object.entry("kind").or_insert_with(|| kind.into());
    object.entry("apiVersion").or_insert_with(|| api_version.as_str().into());
    Ok(item)
}

/// Returns how messages refer to an object.
fn object_label(object: &Value, kind: &str, index: Option<usize>) -> String {
    match (quoted_name(object), index) {
        (Some(name), _) => format!("{kind} {name}"),
        (None, Some(index)) => format!("{kind} items[{index}]"),
        (None, None) => format!("{kind} without a name"),
    }
}

/// Returns namespace and name of an object, as quoted in messages.
fn quoted_name(object: &Value) -> Option<String> {
    let text = |map: Option<&Value>, key: &str| map?.get(key)?.as_str().map(excerpt);
    let metadata = object.get("metadata");
    let name = text(metadata, "name").or_else(|| text(Some(object), "id"))?;
    let namespace = text(metadata, "namespace").or_else(|| text(Some(object), "namespace"));
    let kind = object.get("kind").and_then(Value::as_str);
    if matches!(kind, Some("Node" | "Namespace" | "ServiceCIDR")) {
        return Some(name);
    }
    Some(format!("{}/{name}", namespace.as_deref().unwrap_or("default")))
}

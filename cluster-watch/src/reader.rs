//! `Reader`: documents to objects, each checked on its own.
//!
//! Whatever is wrong is put into the report with its place, and reading goes on. What two objects have to do
//! with one another is looked at afterwards, in `finish`. What must not go in here: IO, and the rules of a
//! kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::endpoint::{EndpointSlice, SliceKey};
use proxy_core::node::Node;
use proxy_core::service::ServiceKey;
use serde_json::Value;

use crate::document::{Document, DocumentSeed, ListHeader, SyntaxError};
use crate::endpoints::{EndpointsDraft, endpoints};
use crate::field::{Field, Findings};
use crate::legacy::{legacy_endpoints, legacy_service};
use crate::metadata::Names;
use crate::node::{namespace, node, service_cidr};
use crate::pods::{Pod, PodKey, pod};
use crate::report::{Place, Report, Severity, excerpt};
use crate::service::{ServiceDraft, service};
use crate::slice::{Defaults, Sliced, slice};

/// A list may hold lists (`kubectl get` of several kinds), but not those further ones.
const LIST_DEPTH_MAX: usize = 2;
/// Something that was read, and where.
#[derive(Debug)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
    /// Counts all objects: the order of reading.
    pub(crate) order: usize,
}

/// All that has been read so far.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    names: Names,
    pub(crate) report: Report,
    pub(crate) services: BTreeMap<ServiceKey, Placed<ServiceDraft>>,
    pub(crate) slices: BTreeMap<SliceKey, Placed<EndpointSlice>>,
    pub(crate) endpoints: BTreeMap<ServiceKey, Placed<EndpointsDraft>>,
    pub(crate) pods: BTreeMap<PodKey, Placed<Pod>>,
    pub(crate) nodes: BTreeMap<Arc<str>, Placed<Node>>,
    pub(crate) namespaces: BTreeMap<Arc<str>, Placed<BTreeMap<String, String>>>,
    pub(crate) service_cidrs: BTreeMap<Arc<str>, Placed<Vec<IpNet>>>,
}

impl Reader {
    /// Reads one document and takes its object, or the items of its list.
    pub(crate) fn document(
        &mut self,
        place: &Place,
        parse: impl FnOnce(DocumentSeed<'_>) -> Result<Document, SyntaxError>,
    ) -> Result<(), SyntaxError> {
        self.report.documents += 1;
        let mut header = ListHeader::default();
        let mut held: Vec<(usize, Value)> = Vec::new();
        let mut index = 0;
        let mut sink = |header: &ListHeader, item: Value| {
            match completed(item, header) {
                Ok(item) => self.object(&item, place, Some(index), 1),
                Err(item) => held.push((index, item)),
            }
            index += 1;
        };
        let read = parse(DocumentSeed { header: &mut header, sink: &mut sink });
        let is_list = header.kind.as_deref().map_or(index > 0, |kind| kind.ends_with("List"));
        // Where reading broke off before the list said what it is, nothing is known of its items.
        if is_list && (read.is_ok() || header.kind.is_some()) {
            for (index, item) in held {
                let (Ok(item) | Err(item)) = completed(item, &header);
                self.object(&item, place, Some(index), 1);
            }
        }
        if let Document::Object(object) = read?
            && !(is_list && object.contains_key("items"))
        {
            self.object(&Value::Object(object), place, None, 0);
        }
        Ok(())
    }

    /// Takes one object.
    fn object(&mut self, object: &Value, place: &Place, index: Option<usize>, depth: usize) {
        let label = || index.map(|index| format!("items[{index}]"));
        let kind = object.get("kind").and_then(Value::as_str).filter(|kind| !kind.is_empty());
        let api_version = object.get("apiVersion").and_then(Value::as_str).filter(|text| !text.is_empty());
        if let (Some(kind), Some(items)) = (kind, object.get("items").and_then(Value::as_array))
            && kind.ends_with("List")
        {
            self.nested_list(object, items, place, index, depth);
            return;
        }
        self.report.objects += 1;
        if !object.is_object() {
            let message = "not an object: a Kubernetes object is a map with apiVersion and kind".to_owned();
            self.report.add(Severity::Error, place, label().as_deref(), message);
            return;
        }
        let (Some(kind), Some(api_version)) = (kind, api_version) else {
            let missing = match (kind, api_version) {
                (None, None) => "apiVersion and kind",
                (None, _) => "kind",
                _ => "apiVersion",
            };
            let message = format!("{missing} missing: what the object is cannot be told");
            let name = shown_name(object).map(|name| format!("{} {name}", excerpt(kind.unwrap_or("object"))));
            self.report.add(Severity::Error, place, name.or_else(label).as_deref(), message);
            return;
        };
        self.known_object(object, (api_version, kind), place, index);
    }

    fn nested_list(
        &mut self,
        list: &Value,
        items: &[Value],
        place: &Place,
        index: Option<usize>,
        depth: usize,
    ) {
        if depth >= LIST_DEPTH_MAX {
            let label = index.map(|index| format!("items[{index}]"));
            let message = "a list in a list in a list is not read".to_owned();
            self.report.add(Severity::Error, place, label.as_deref(), message);
            return;
        }
        let text = |key: &str| list.get(key).and_then(Value::as_str).map(str::to_owned);
        let header = ListHeader { kind: text("kind"), api_version: text("apiVersion") };
        for (index, item) in items.iter().enumerate() {
            let (Ok(item) | Err(item)) = completed(item.clone(), &header);
            self.object(&item, place, Some(index), depth + 1);
        }
    }

    fn known_object(
        &mut self,
        object: &Value,
        api_version_and_kind: (&str, &str),
        place: &Place,
        index: Option<usize>,
    ) {
        let findings = Findings::default();
        let root = Field::root(object, &findings);
        let names = &mut self.names;
        let read = match api_version_and_kind {
            ("v1", "Service") => service(&root, names).map(Kept::Service),
            ("discovery.k8s.io/v1" | "discovery.k8s.io/v1beta1", "EndpointSlice") => {
                Some(Kept::Slice(slice(&root, Defaults::Apply, names)))
            }
            ("v1", "Endpoints") => endpoints(&root, names).map(Kept::Endpoints),
            ("v1", "Pod") => pod(&root, names).map(Kept::Pod),
            ("v1", "Node") => node(&root, names).map(Kept::Node),
            ("v1", "Namespace") => {
                namespace(&root).map(|(name, annotations)| Kept::Namespace(name, annotations))
            }
            ("networking.k8s.io/v1" | "networking.k8s.io/v1beta1", "ServiceCIDR") => {
                service_cidr(&root).map(|(name, ranges)| Kept::ServiceCidr(name, ranges))
            }
            ("v1beta1", "Service") => legacy_service(&root, object, names, &findings).map(Kept::Service),
            ("v1beta1", "Endpoints") => legacy_endpoints(&root, names).map(Kept::Endpoints),
            (api_version, kind) => {
                self.report.ignore(&format!("{api_version} {kind}"));
                return;
            }
        };
        let is_refused = findings.has_errors();
        let label = label_of(object, api_version_and_kind.1, index);
        for finding in findings.into_list() {
            self.report.add(finding.severity, place, Some(&label), finding.message);
        }
        if let Some(read) = read.filter(|_| !is_refused) {
            self.keep(read, place, &label);
        }
    }

    fn keep(&mut self, kept: Kept, place: &Place, label: &str) {
        let order = self.report.objects;
        let report = &mut self.report;
        let place = place.clone();
        match kept {
            Kept::Service(draft) => {
                let key = draft.service.key.clone();
                put(&mut self.services, key, Placed { value: draft, place, order }, label, report);
            }
            Kept::Slice(Sliced::Slice(slice)) => {
                let key = slice.key.clone();
                put(&mut self.slices, key, Placed { value: slice, place, order }, label, report);
            }
            Kept::Slice(Sliced::Passed(what)) => report.ignore(what),
            Kept::Slice(Sliced::Refused) => {}
            Kept::Endpoints(draft) => {
                let key = draft.service.clone();
                put(&mut self.endpoints, key, Placed { value: draft, place, order }, label, report);
            }
            Kept::Pod(pod) => {
                let key = pod.key.clone();
                put(&mut self.pods, key, Placed { value: pod, place, order }, label, report);
            }
            Kept::Node(node) => {
                let key = node.name.clone();
                put(&mut self.nodes, key, Placed { value: node, place, order }, label, report);
            }
            Kept::Namespace(name, annotations) => {
                put(&mut self.namespaces, name, Placed { value: annotations, place, order }, label, report);
            }
            Kept::ServiceCidr(name, ranges) => {
                put(&mut self.service_cidrs, name, Placed { value: ranges, place, order }, label, report);
            }
        }
    }
}

/// An object of a kind that counts.
enum Kept {
    Service(ServiceDraft),
    Slice(Sliced),
    Endpoints(EndpointsDraft),
    Pod(Pod),
    Node(Node),
    Namespace(Arc<str>, BTreeMap<String, String>),
    ServiceCidr(Arc<str>, Vec<IpNet>),
}

/// Keeps an object; of two with one identity the later counts, as when they are applied in turn.
fn put<K: Ord, T>(
    map: &mut BTreeMap<K, Placed<T>>,
    key: K,
    placed: Placed<T>,
    label: &str,
    report: &mut Report,
) {
    let place = placed.place.clone();
    if let Some(earlier) = map.insert(key, placed) {
        let message = format!("replaces the one read before, at {}", earlier.place);
        report.add(Severity::Warning, &place, Some(label), message);
    }
}

/// An item with what its list says of it; an error if neither says what it is.
fn completed(mut item: Value, header: &ListHeader) -> Result<Value, Value> {
    let Some(object) = item.as_object_mut() else {
        // In a list it is a mistake; whether this is a list may still come.
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

fn label_of(object: &Value, kind: &str, index: Option<usize>) -> String {
    match (shown_name(object), index) {
        (Some(name), _) => format!("{kind} {name}"),
        (None, Some(index)) => format!("{kind} items[{index}]"),
        (None, None) => format!("{kind} without name"),
    }
}

/// Namespace and name, as messages call an object.
fn shown_name(object: &Value) -> Option<String> {
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

//! Lists of the double, in pages, with fields in the order of a real server.
//!
//! Generated objects are created while they are sent, so that hundreds of megabytes need no memory.

use std::io;

use http::Response;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};

use super::double::{Body, Inner, refusal};
use super::kind::Kind;
use super::store::Selector;
use super::watch_stream::ChannelBody;

/// Objects that are generated while they are sent.
#[derive(Debug, Clone)]
pub struct Generated {
    pub kind: &'static str,
    pub count: usize,
    /// Name, namespace and labels of the object with this number.
    pub metadata: fn(usize) -> Value,
    /// The fields after the metadata, such as `"spec":{}`.
    pub content: fn(usize) -> String,
}

/// The kind of the objects that are sent, and whether only their metadata is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ObjectFormat {
    pub kind: Kind,
    pub is_partial: bool,
}

/// An object to send.
pub(crate) enum OutgoingObject {
    Stored(Value),
    Generated(Generated, usize),
}

impl ObjectFormat {
    pub(crate) fn kind_name(self) -> &'static str {
        if self.is_partial { "PartialObjectMetadata" } else { self.kind.name }
    }

    pub(crate) fn api_version(self) -> &'static str {
        if self.is_partial { "meta.k8s.io/v1" } else { self.kind.api_version() }
    }

    /// Returns the text of an object. Objects in a list have no kind.
    pub(crate) fn text(self, sent: &OutgoingObject, is_listed: bool) -> String {
        let head = format!("\"kind\":\"{}\",\"apiVersion\":\"{}\",", self.kind_name(), self.api_version());
        let head = if is_listed && !self.is_partial { "" } else { &head };
        match sent {
            OutgoingObject::Stored(object) => {
                let fields = object.as_object().expect("an object").iter();
                let others =
                    fields.filter(|(key, _)| !["kind", "apiVersion", "metadata"].contains(&key.as_str()));
                let others: String = if self.is_partial {
                    String::new()
                } else {
                    others.map(|(key, value)| format!(",\"{key}\":{value}")).collect()
                };
                format!("{{{head}\"metadata\":{}{others}}}", metadata_text(&object["metadata"]))
            }
            OutgoingObject::Generated(generated, number) => {
                let mut metadata = (generated.metadata)(*number);
                metadata["resourceVersion"] = "1".into();
                metadata["uid"] = format!("generated-{number}").into();
                let metadata = metadata_text(&metadata);
                if self.is_partial {
                    return format!("{{{head}\"metadata\":{metadata}}}");
                }
                format!("{{{head}\"metadata\":{metadata},{}}}", (generated.content)(*number))
            }
        }
    }
}

/// A real server writes name, namespace and version before annotations and labels.
fn metadata_text(metadata: &Value) -> String {
    const FIRST: [&str; 4] = ["name", "namespace", "uid", "resourceVersion"];
    let Some(fields) = metadata.as_object() else { return metadata.to_string() };
    let first = FIRST.iter().filter_map(|key| Some((*key, fields.get(*key)?)));
    let others = fields.iter().map(|(key, value)| (key.as_str(), value));
    let others = others.filter(|(key, _)| !FIRST.contains(key));
    let texts: Vec<String> = first.chain(others).map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", texts.join(","))
}

impl Inner {
    /// Returns all objects of a kind at a version.
    pub(crate) fn all(&self, version: u64, kind: Kind, selector: &Selector) -> Vec<OutgoingObject> {
        let stored = self
            .store
            .at(version, kind, selector)
            .into_iter()
            .map(|(_, object)| OutgoingObject::Stored(object));
        let of_kind = self.generated.iter().filter(|generated| generated.kind == kind.name);
        let made = of_kind.flat_map(|generated| {
            let selected =
                move |number: &usize| selector.selects(&json!({"metadata": (generated.metadata)(*number)}));
            (0..generated.count)
                .filter(selected)
                .map(|number| OutgoingObject::Generated(generated.clone(), number))
        });
        stored.chain(made).collect()
    }
}

/// Responds with a page of a list. The token contains the version of the list and the number of objects so far.
pub(crate) fn list_response(
    inner: &Inner,
    format: ObjectFormat,
    selector: &Selector,
    query: &impl Fn(&str) -> String,
) -> Response<Body> {
    let limit: usize = query("limit").parse().unwrap_or(usize::MAX);
    let token = query("continue");
    let (version, skip) = match token.split_once('.') {
        Some((version, skip)) => (version.parse().unwrap_or(0), skip.parse().unwrap_or(0)),
        None => (inner.store.version, 0),
    };
    if !inner.store.has_version(version) {
        return refusal(410, "The provided continue parameter is too old");
    }
    let all = inner.all(version, format.kind, selector);
    let left = all.len().saturating_sub(skip).saturating_sub(limit);
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if left > 0 {
        metadata["continue"] = format!("{version}.{}", skip + limit).into();
    }
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        format.kind_name(),
        format.api_version()
    );
    let page: Vec<OutgoingObject> = all.into_iter().skip(skip).take(limit).collect();
    let (sender, pieces) = channel(2);
    tokio::spawn(send(sender, format, head, page));
    let mut response = Response::new(ChannelBody(pieces).boxed());
    response.headers_mut().insert("Content-Type", "application/json".parse().expect("a header"));
    response
}

async fn send(
    sender: Sender<io::Result<Frame<Bytes>>>,
    format: ObjectFormat,
    head: String,
    page: Vec<OutgoingObject>,
) {
    let mut text = head;
    for (number, object) in page.iter().enumerate() {
        if number > 0 {
            text.push(',');
        }
        text.push_str(&format.text(object, true));
        if text.len() > 64 << 10
            && sender.send(Ok(Frame::data(std::mem::take(&mut text).into()))).await.is_err()
        {
            return;
        }
    }
    text.push_str("]}\n");
    // Sending fails if the reader closed the connection.
    let _ = sender.send(Ok(Frame::data(text.into()))).await;
}

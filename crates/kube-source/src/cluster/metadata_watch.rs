//! A watch of the metadata of any resource: what there is, and then every change.
//!
//! It lists and watches as `watch_cluster` does, with the same limits, and keeps of an object its key and its version.
//! What must not go in here: what an object means.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{Sender, channel};

use crate::cluster::follow::Follower;
use crate::cluster::object::{Object, ObjectKey};
use crate::cluster::object_meta::{Kept, MetaDecoder, ObjectMeta};
use crate::cluster::refusals::Refusals;
use crate::cluster::resource::Resource;
use crate::cluster::said::Said;
use crate::cluster::table::{News, Table};
use crate::cluster::trouble::Troubles;
use crate::cluster::{QUEUE_LEN_MAX, WatchOptions};
use crate::event::RejectedObjects;
use crate::objects::metadata::Names;

/// There is one source, and one selection of it.
const ONLY: usize = 0;

/// Which objects are watched, and what is kept of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataSelection {
    /// The path of the resource, as `/api/v1/pods` or `/apis/apps/v1/namespaces/shop/deployments`.
    pub path: String,
    /// The labels that objects have, as `app=x,!y`.
    pub label_selector: Option<String>,
    /// The fields that objects have, as `metadata.name=x`.
    pub field_selector: Option<String>,
    /// The labels that are kept; a key that ends with `/` stands for all that begin with it.
    pub labels: Vec<String>,
    /// The annotations that are kept, in the same way.
    pub annotations: Vec<String>,
}

/// What a watch of metadata tells, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataEvent {
    /// An object came or changed.
    Applied(ObjectMeta),
    /// An object went, or no longer matches.
    Deleted(ObjectKey),
    /// All that there was at first has been told.
    Synced,
    /// The source cannot be read; all that was told stays in force. Text: what, where, why (one line).
    Outage(String),
    /// It can be read again.
    Recovered,
    /// How many objects cannot be used has changed, or there is one to name.
    Rejected(RejectedObjects),
}

/// Tells the metadata of the objects that an API server has, and every change, until the receiver or the future is
/// dropped.
pub async fn watch_metadata(
    client: kube::Client,
    selection: MetadataSelection,
    limits: WatchOptions,
    tell: Sender<MetadataEvent>,
) {
    let MetadataSelection { path, label_selector, field_selector, labels, annotations } = selection;
    let resource = Resource {
        label_selector: label_selector.map(Into::into),
        field_selector: field_selector.map(Into::into),
        ..Resource::at(path)
    };
    let decoder = MetaDecoder { resource: resource.name.to_string(), labels, annotations };
    let names = Arc::new(Mutex::new(Names::default()));
    let (say, mut heard) = channel(QUEUE_LEN_MAX);
    let following = Follower::new(client, (decoder, resource), ONLY, limits, names, say).run();
    let telling = async {
        let mut collector = MetadataCollector::new();
        while let Some((_, said)) = heard.recv().await {
            collector.step(said);
            for event in collector.events.drain(..) {
                if tell.send(event).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = telling => {}
        () = tell.closed() => {}
    }
}

/// What a follower says, made into what is told.
#[derive(Debug)]
struct MetadataCollector {
    table: Table,
    troubles: Troubles,
    refusals: Refusals<()>,
    is_synced: bool,
    events: Vec<MetadataEvent>,
}

impl MetadataCollector {
    fn new() -> Self {
        Self {
            table: Table::default(),
            troubles: Troubles::default(),
            refusals: Refusals::new(),
            is_synced: false,
            events: Vec::new(),
        }
    }

    fn step(&mut self, said: Said<Kept>) {
        match said {
            Said::Begin => self.table.begin(ONLY),
            Said::Listed(object) => self.object(object, true),
            Said::Changed(object) => self.object(object, false),
            Said::Gone(key) => {
                if let Some(key) = key
                    && self.table.remove(ONLY, &key) == Some(true)
                {
                    self.events.push(MetadataEvent::Deleted(key));
                }
            }
            Said::End => self.end(),
            Said::Lost(fault) => {
                let told = self.troubles.lost(ONLY, fault);
                self.events.extend(told.map(MetadataEvent::Outage));
            }
            Said::Denied(text) => {
                let told = self.troubles.denied(ONLY, text);
                self.events.extend(told.map(MetadataEvent::Outage));
            }
            Said::Absent | Said::Found => {
                let is_well = self.troubles.found(ONLY);
                self.events.extend(is_well.then_some(MetadataEvent::Recovered));
            }
        }
        self.report_refused(None);
    }

    fn object(&mut self, object: Object<Kept>, is_listed: bool) {
        let Object { key, version, content } = object;
        match (content, key) {
            (Ok(meta), Some(key)) => {
                let hash = Some(hash(&meta));
                if self.table.put(ONLY, &key, version, hash, is_listed) == News::Different {
                    self.events.push(MetadataEvent::Applied(meta));
                }
            }
            (Ok(_), None) => {}
            (Err(why), key) => {
                if self.table.refuse(ONLY, key.as_ref()) {
                    let Self { table, refusals, .. } = self;
                    let reason = refusals.name(((), key), why, |(), key| table.is_refused(key));
                    self.report_refused(reason);
                }
            }
        }
    }

    fn end(&mut self) {
        let gone = self.table.end(ONLY).into_iter().filter(|(_, was_told)| *was_told);
        self.events.extend(gone.map(|(key, _)| MetadataEvent::Deleted(key)));
        if !std::mem::replace(&mut self.is_synced, true) {
            self.events.push(MetadataEvent::Synced);
        }
    }

    fn report_refused(&mut self, reason: Option<String>) {
        let report = self.refusals.report(self.table.refused(), reason);
        self.events.extend(report.map(MetadataEvent::Rejected));
    }
}

/// What tells one state of an object from another.
fn hash(meta: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&meta.uid, &meta.resource_version).hash(&mut hasher);
    hasher.finish()
}

//! Events: what a controller would swallow is written beside the owner of its pods.
//!
//! A ReplicaSet that makes a pod drops the warnings of the answer. One event for each owner and text; the API server
//! forgets it after an hour. What must not go in here: what to warn of.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::api::Api;
use crate::clock::{now_s, rfc3339};
use crate::log::chain;

/// How many may wait to be written; what comes when there are more is not written.
const WAITING_MAX: usize = 256;
/// An API server takes no longer messages.
const MESSAGE_CHARS_MAX: usize = 1_024;

/// Something to be told of an owner.
#[derive(Debug)]
struct Notice {
    namespace: String,
    owner: Value,
    message: String,
}

/// Writes events, after those that wait.
#[derive(Debug, Clone)]
pub(crate) struct Notices(Sender<Notice>);

impl Notices {
    /// Writes to this API server from now on.
    pub(crate) fn start(api: Api) -> Self {
        let (say, heard) = channel(WAITING_MAX);
        tokio::spawn(write(api, heard));
        Self(say)
    }

    /// Tells of the controller of a pod, if it has one.
    pub(crate) fn tell(&self, namespace: &str, pod: &Value, warnings: &[String]) {
        let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(owner) = owners.iter().find(|owner| owner["controller"] == true) else { return };
        let message = warnings.join("; ").chars().take(MESSAGE_CHARS_MAX).collect();
        // Where too many wait, this one is not missed.
        let _ = self.0.try_send(Notice { namespace: namespace.to_owned(), owner: owner.clone(), message });
    }
}

async fn write(api: Api, mut heard: Receiver<Notice>) {
    while let Some(notice) = heard.recv().await {
        let path = format!("/api/v1/namespaces/{}/events", notice.namespace);
        match api.create(&path, &event(&notice, now_s())).await {
            Ok(_) => {}
            // It has been told.
            Err(error) if error.is_conflict() => {}
            Err(error) => tracing::warn!(error = chain(error), "write an event"),
        }
    }
}

fn event(notice: &Notice, time_s: i64) -> Value {
    let Notice { namespace, owner, message } = notice;
    let mut hasher = DefaultHasher::new();
    (owner["uid"].as_str(), message).hash(&mut hasher);
    let owner_name = owner["name"].as_str().unwrap_or_default();
    let time = rfc3339(time_s);
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{owner_name}.{:016x}", hasher.finish()), "namespace": namespace},
        "involvedObject": {
            "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner_name,
            "namespace": namespace, "uid": owner["uid"],
        },
        "reason": "ServiceVariables",
        "message": message,
        "type": "Warning",
        "source": {"component": "portico-webhook"},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    })
}

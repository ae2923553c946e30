//! `EventRecorder`: writes Events about warnings and refusals that a controller of pods would not show.
//!
//! A ReplicaSet drops the warnings of an admission response, so admission stores them on the pod, and the recorder
//! writes an Event on the ReplicaSet. A tenant controls that text, so it is quoted and truncated, and each namespace
//! has a limited rate of Events. The name of an Event is a digest of its object and text and the number of the
//! occurrence, so two replicas that report the same write one Event.

mod limiter;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use http::Method;
use kube_source::ObjectMeta;
use proxy_core::annotation::WARNINGS;
use proxy_core::portal::{PortalConflict, RefusalReason};
use proxy_core::service::{Created, ServiceKey};
use serde_json::{Value, json};
use support::with_causes;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use crate::api::{Api, ApiError};
use crate::clock::{now_s, rfc3339};
use crate::controller::event_recorder::limiter::{EventLimiter, Verdict};
use crate::controller::lookup;
use crate::counters::Counters;

/// The length of the queue; the recorder drops what exceeds it.
const QUEUE_LEN_MAX: usize = 256;
/// The number of concurrent writes.
const WRITES_MAX: usize = 4;
/// An older pod was reported by an earlier process.
const POD_AGE_MAX_S: i64 = 300;
/// The API server rejects longer messages.
const MESSAGE_CHARS_MAX: usize = 1_024;
/// The part of a pod's annotation that is quoted.
const QUOTED_CHARS_MAX: usize = 640;
/// The name of an Event is the truncated name of its object, and a digest.
const OBJECT_NAME_CHARS_MAX: usize = 200;

/// The object of an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    api_version: String,
    kind: String,
    name: String,
    identity: Identity,
}

impl Target {
    fn service(key: &ServiceKey, created: Created) -> Self {
        Self {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            name: key.name.to_string(),
            identity: Identity::Created(created),
        }
    }
}

/// What distinguishes an object from another one of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Identity {
    Uid(String),
    /// A service of which the uid is looked up before the Event is written.
    Created(Created),
}

/// An Event that is not written yet.
#[derive(Debug)]
struct Report {
    namespace: Arc<str>,
    target: Target,
    reason: &'static str,
    message: String,
}

impl Report {
    /// Whether a second report with the same text is another occurrence, and not the same one: checks report a service
    /// once until the cause ends.
    fn can_recur(&self) -> bool {
        matches!(self.target.identity, Identity::Created(_))
    }
}

/// Queues Events for writing.
#[derive(Debug, Clone)]
pub(crate) struct EventRecorder {
    queue: Sender<Report>,
    counters: Counters,
}

impl EventRecorder {
    /// Starts a task that writes to this API server.
    pub(crate) fn start(api: Api, counters: Counters) -> Self {
        let (queue, reports) = channel(QUEUE_LEN_MAX);
        tokio::spawn(write_all(api, reports, counters.clone()));
        Self { queue, counters }
    }

    /// Reports the warnings of a new pod on its controller, if it has both.
    pub(crate) fn warnings(&self, pod: &ObjectMeta) {
        let Some(text) = pod.annotations.get(WARNINGS.key) else { return };
        let Some(target) = controller_of(pod) else { return };
        if pod.created_s.is_some_and(|created_s| created_s.saturating_add(POD_AGE_MAX_S) < now_s()) {
            return;
        }
        let message = format!("a pod has the annotation portico.dev/warnings: {}", quoted(text));
        self.report(&pod.key.namespace, target, "ServiceVariables", message);
    }

    /// Reports refused ConfigMaps on the controller of a pod that needs them, or on the pod.
    pub(crate) fn refused_config_map(&self, pod: &ObjectMeta, why: &str) {
        let target = controller_of(pod).unwrap_or_else(|| Target {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.key.name.to_string(),
            identity: Identity::Uid(pod.uid.to_string()),
        });
        self.report(&pod.key.namespace, target, "ServiceVariablesRefused", why.to_owned());
    }

    /// Reports on a service that every node refuses portals of it. The caller reports a refusal once until it ends.
    pub(crate) fn refused_portals(
        &self,
        service: &ServiceKey,
        created: Created,
        reason: RefusalReason,
        count: usize,
    ) {
        let target = Target::service(service, created);
        let portals = if count == 1 { "1 portal" } else { &format!("{count} portals") };
        self.report(&service.namespace, target, "PortalsRefused", format!("{portals} refused: {reason}"));
    }

    /// Reports on a service that it claims a port of another service. The caller reports a conflict once until it ends.
    pub(crate) fn portal_conflict(&self, service: &ServiceKey, conflict: &PortalConflict) {
        let target = Target::service(service, conflict.created);
        self.report(&service.namespace, target, "PortalConflict", conflict.to_string());
    }

    fn report(&self, namespace: &Arc<str>, target: Target, reason: &'static str, message: String) {
        let message = message.chars().take(MESSAGE_CHARS_MAX).collect();
        let report = Report { namespace: Arc::clone(namespace), target, reason, message };
        if self.queue.try_send(report).is_err() {
            self.counters.event("dropped");
        }
    }
}

/// Returns the controller of a pod, if the reference to it is valid in an Event.
fn controller_of(pod: &ObjectMeta) -> Option<Target> {
    let owner = pod.owner_references.iter().find(|owner| owner.controller)?;
    let is_valid = |text: &str, punctuation: &str| {
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || punctuation.contains(letter);
        (1..=253).contains(&text.len()) && text.chars().all(is_allowed)
    };
    let fields = [(&owner.api_version, "/.-"), (&owner.kind, ""), (&owner.name, ".-"), (&owner.uid, "-")];
    fields.into_iter().all(|(text, punctuation)| is_valid(text, punctuation)).then(|| Target {
        api_version: owner.api_version.to_string(),
        kind: owner.kind.to_string(),
        name: owner.name.to_string(),
        identity: Identity::Uid(owner.uid.to_string()),
    })
}

/// Quotes and truncates text that a tenant wrote, and escapes line breaks and control characters.
fn quoted(text: &str) -> String {
    let start: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    let suffix = if start.len() < text.len() { " (cut)" } else { "" };
    format!("{start:?}{suffix}")
}

async fn write_all(api: Api, mut reports: Receiver<Report>, counters: Counters) {
    let (mut limiter, mut writes) = (EventLimiter::default(), JoinSet::new());
    while let Some(report) = reports.recv().await {
        let digest = digest(&report);
        let occurrence = match limiter.check(&report.namespace, digest, report.can_recur(), Instant::now()) {
            Verdict::Duplicate => continue,
            Verdict::Limited => {
                counters.event("limited");
                continue;
            }
            Verdict::Write { occurrence } => occurrence,
        };
        if writes.len() >= WRITES_MAX {
            writes.join_next().await;
        }
        let (api, counters) = (api.clone(), counters.clone());
        writes.spawn(async move {
            match write(&api, &report, occurrence).await {
                Ok(true) => counters.event("written"),
                // The object is gone.
                Ok(false) => {}
                // Another replica has written it.
                Err(ApiError::Conflict { .. }) => {}
                Err(error) => {
                    counters.event("failed");
                    let namespace = &*report.namespace;
                    tracing::warn!(namespace, error = with_causes(&error), "failed to record Event");
                }
            }
        });
    }
}

/// Writes an Event; false if its object does not exist.
async fn write(api: &Api, report: &Report, occurrence: u32) -> Result<bool, ApiError> {
    let uid = match &report.target.identity {
        Identity::Uid(uid) => uid.clone(),
        Identity::Created(_) => {
            let Some(uid) = lookup::service_uid(api, &report.namespace, &report.target.name).await? else {
                return Ok(false);
            };
            uid.into()
        }
    };
    let path = format!("/api/v1/namespaces/{}/events", report.namespace);
    api.write(Method::POST, &path, &event(report, occurrence, &uid, now_s())).await?;
    Ok(true)
}

fn digest(Report { namespace, target, reason, message }: &Report) -> u64 {
    let mut hasher = DefaultHasher::new();
    (namespace, &target.kind, &target.identity, &target.name, reason, message).hash(&mut hasher);
    hasher.finish()
}

fn event(report: &Report, occurrence: u32, uid: &str, time_s: i64) -> Value {
    let Report { namespace, target, reason, message } = report;
    let time = rfc3339(time_s);
    let name: String = target.name.chars().take(OBJECT_NAME_CHARS_MAX).collect();
    let digest = digest(report).wrapping_add(occurrence.into());
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{digest:016x}"), "namespace": **namespace},
        "involvedObject": {
            "apiVersion": target.api_version, "kind": target.kind, "name": target.name,
            "namespace": **namespace, "uid": uid,
        },
        "reason": reason,
        "message": message,
        "type": "Warning",
        "source": {"component": "portico-webhook"},
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_tenant_is_quoted_and_truncated_and_cannot_end_the_quotation() {
        assert_eq!(quoted("a\nb\" run: \u{1b}[2J\u{202e}"), r#""a\nb\" run: \u{1b}[2J\u{202e}""#);
        let long = quoted(&"ä".repeat(5_000));
        assert!(long.chars().count() <= QUOTED_CHARS_MAX + 8 && long.ends_with("\" (cut)"));
    }

    #[test]
    fn event_of_a_recreated_service_has_another_name() {
        let report = |created: &str| {
            let target = Target::service(&ServiceKey::new("a", "web"), Created::parse(created));
            Report { namespace: "a".into(), target, reason: "PortalsRefused", message: "1 portal".to_owned() }
        };
        let name = |created: &str| event(&report(created), 0, "u", 0)["metadata"]["name"].clone();
        let [first, second] = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"];
        assert_eq!(name(first), name(first));
        assert_ne!(name(first), name(second));
    }
}

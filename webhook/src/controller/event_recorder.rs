//! `EventRecorder`: Events on the owners of pods, for what a controller of pods would not show: warnings and refusals.
//!
//! A ReplicaSet drops the warnings of an answer, so the pod carries them, and here they become an Event on the
//! ReplicaSet. The owner of a pod may write anything there, so it is quoted and cut, and a namespace has so many Events
//! for each stretch of time. The name of an Event follows from its owner and text: of two replicas one writes it. What
//! must not go in here: what to warn of.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use kube_source::ObjectMeta;
use proxy_core::annotation::WARNINGS;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use crate::api::{Api, ApiError};
use crate::clock::{now_s, rfc3339};
use crate::log::chain;
use crate::tally::Tallied;

/// How many may wait to be written; what comes when there are more is not written.
const WAITING_MAX: usize = 256;
/// How many are written at a time.
const WRITING_MAX: usize = 4;
/// How many Events a namespace has at once, and after how long it has one more.
const BURST_OF_NAMESPACE: u32 = 20;
const REFILL: Duration = Duration::from_secs(30);
/// So many that were written are known, so that they are not written again; an API server forgets them after an hour.
const TOLD_MAX: usize = 4_096;
/// An older pod was seen by whoever ran before.
const POD_AGE_MAX_S: i64 = 300;
/// An API server takes no longer messages.
const MESSAGE_CHARS_MAX: usize = 1_024;
/// What is quoted of a pod's annotation.
const QUOTED_CHARS_MAX: usize = 640;
/// An Event's name is that of its owner, cut, and a digest.
const OWNER_NAME_CHARS_MAX: usize = 200;

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

/// Something to be told.
#[derive(Debug)]
struct Notice {
    namespace: Arc<str>,
    subject: Subject,
    reason: &'static str,
    message: String,
}

/// Writes Events, after those that wait.
#[derive(Debug, Clone)]
pub(crate) struct EventRecorder {
    say: Sender<Notice>,
    tallied: Tallied,
}

impl EventRecorder {
    /// Writes to this API server from now on.
    pub(crate) fn start(api: Api, tallied: Tallied) -> Self {
        let (say, heard) = channel(WAITING_MAX);
        tokio::spawn(write(api, heard, tallied.clone()));
        Self { say, tallied }
    }

    /// Quotes the warnings of a pod on its controller, if it has both and is new.
    pub(crate) fn warnings(&self, pod: &ObjectMeta) {
        let Some(text) = pod.annotations.get(WARNINGS.key) else { return };
        let Some(subject) = controller_of(pod) else { return };
        if pod.created_s.is_some_and(|created_s| created_s.saturating_add(POD_AGE_MAX_S) < now_s()) {
            return;
        }
        let message = format!("a pod has the annotation portico.dev/warnings: {}", quoted(text));
        self.tell(&pod.key.namespace, subject, "ServiceVariables", message);
    }

    /// Tells of ConfigMaps that are not made, on the controller of a pod that needs them, or on the pod.
    pub(crate) fn refusal(&self, pod: &ObjectMeta, why: &str) {
        let subject = controller_of(pod).unwrap_or_else(|| Subject {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.key.name.to_string(),
            uid: pod.uid.to_string(),
        });
        self.tell(&pod.key.namespace, subject, "ServiceVariablesRefused", why.to_owned());
    }

    fn tell(&self, namespace: &Arc<str>, subject: Subject, reason: &'static str, message: String) {
        let message = message.chars().take(MESSAGE_CHARS_MAX).collect();
        let notice = Notice { namespace: Arc::clone(namespace), subject, reason, message };
        if self.say.try_send(notice).is_err() {
            self.tallied.event("dropped");
        }
    }
}

/// The controller of a pod, if what the pod says of it may stand in an Event.
fn controller_of(pod: &ObjectMeta) -> Option<Subject> {
    let owner = pod.owner_references.iter().find(|owner| owner.controller)?;
    let is_sound = |text: &str, further: &str| {
        let is_sound = |letter: char| letter.is_ascii_alphanumeric() || further.contains(letter);
        (1..=253).contains(&text.len()) && text.chars().all(is_sound)
    };
    let all = [(&owner.api_version, "/.-"), (&owner.kind, ""), (&owner.name, ".-"), (&owner.uid, "-")];
    all.into_iter().all(|(text, further)| is_sound(text, further)).then(|| Subject {
        api_version: owner.api_version.to_string(),
        kind: owner.kind.to_string(),
        name: owner.name.to_string(),
        uid: owner.uid.to_string(),
    })
}

/// A text of somebody else in quotation marks, without line ends and other control characters, cut.
fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(QUOTED_CHARS_MAX).collect();
    let more = if cut.len() < text.len() { " (cut)" } else { "" };
    format!("{cut:?}{more}")
}

/// What was written, and what each namespace may still write.
#[derive(Debug, Default)]
struct Ledger {
    told: HashSet<u64>,
    told_before: HashSet<u64>,
    /// How many Events a namespace has used, and as of when.
    used: HashMap<Arc<str>, (u32, Instant)>,
}

/// What becomes of a notice.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Write,
    Duplicate,
    Limited,
}

impl Ledger {
    fn judge(&mut self, notice: &Notice, now: Instant) -> Verdict {
        let digest = digest(notice);
        if self.told.contains(&digest) || self.told_before.contains(&digest) {
            return Verdict::Duplicate;
        }
        // A namespace that has all of its Events again is not worth remembering.
        self.used.retain(|_, (used, at)| refilled(*used, *at, now) > 0);
        let (used, at) = self.used.get(&notice.namespace).copied().unwrap_or((0, now));
        let used = refilled(used, at, now);
        if used >= BURST_OF_NAMESPACE {
            return Verdict::Limited;
        }
        let at = if used == 0 { now } else { at + REFILL * (self.spent(&notice.namespace) - used) };
        self.used.insert(Arc::clone(&notice.namespace), (used + 1, at));
        if self.told.len() >= TOLD_MAX / 2 {
            self.told_before = std::mem::take(&mut self.told);
        }
        self.told.insert(digest);
        Verdict::Write
    }

    fn spent(&self, namespace: &Arc<str>) -> u32 {
        self.used.get(namespace).map_or(0, |(used, _)| *used)
    }
}

/// How many are still used up after a while.
fn refilled(used: u32, at: Instant, now: Instant) -> u32 {
    let elapsed = now.saturating_duration_since(at).as_secs() / REFILL.as_secs();
    used.saturating_sub(u32::try_from(elapsed).unwrap_or(u32::MAX))
}

async fn write(api: Api, mut heard: Receiver<Notice>, tallied: Tallied) {
    let (mut ledger, mut writing) = (Ledger::default(), JoinSet::new());
    while let Some(notice) = heard.recv().await {
        match ledger.judge(&notice, Instant::now()) {
            Verdict::Duplicate => continue,
            Verdict::Limited => {
                tallied.event("limited");
                continue;
            }
            Verdict::Write => {}
        }
        if writing.len() >= WRITING_MAX {
            writing.join_next().await;
        }
        let (api, tallied) = (api.clone(), tallied.clone());
        writing.spawn(async move {
            let path = format!("/api/v1/namespaces/{}/events", notice.namespace);
            match api.write(Method::POST, &path, &event(&notice, now_s())).await {
                Ok(_) => tallied.event("written"),
                // Another replica has told it.
                Err(ApiError::Conflict { .. }) => {}
                Err(error) => {
                    tallied.event("failed");
                    tracing::warn!(
                        namespace = &*notice.namespace,
                        error = chain(error),
                        "failed to write an Event"
                    );
                }
            }
        });
    }
}

fn digest(Notice { namespace, subject, reason, message }: &Notice) -> u64 {
    let mut hasher = DefaultHasher::new();
    (namespace, &subject.uid, &subject.name, reason, message).hash(&mut hasher);
    hasher.finish()
}

fn event(notice: &Notice, time_s: i64) -> Value {
    let Notice { namespace, subject, reason, message } = notice;
    let time = rfc3339(time_s);
    let owner: String = subject.name.chars().take(OWNER_NAME_CHARS_MAX).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{owner}.{:016x}", digest(notice)), "namespace": **namespace},
        "involvedObject": {
            "apiVersion": subject.api_version, "kind": subject.kind, "name": subject.name,
            "namespace": **namespace, "uid": subject.uid,
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

    fn notice(namespace: &str, message: String) -> Notice {
        let subject = Subject {
            api_version: "apps/v1".to_owned(),
            kind: "ReplicaSet".to_owned(),
            name: "web".to_owned(),
            uid: "u".to_owned(),
        };
        Notice { namespace: namespace.into(), subject, reason: "ServiceVariables", message }
    }

    #[test]
    fn a_text_is_quoted_and_cut_and_cannot_end_the_quotation() {
        assert_eq!(quoted("a\nb\" run: \u{1b}[2J\u{202e}"), r#""a\nb\" run: \u{1b}[2J\u{202e}""#);
        let long = quoted(&"ä".repeat(5_000));
        assert!(long.chars().count() <= QUOTED_CHARS_MAX + 8 && long.ends_with("\" (cut)"));
    }

    #[test]
    fn a_namespace_has_so_many_events_and_others_are_not_affected() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let mut written = |namespace: &str, count: u32, at: Instant| {
            let texts = (0..count).map(|number| notice(namespace, format!("{at:?} {number}")));
            texts.filter(|notice| ledger.judge(notice, at) == Verdict::Write).count()
        };
        assert_eq!(written("a", 1_000, start), 20);
        assert_eq!(written("b", 5, start), 5);
        assert_eq!(written("a", 1_000, start + REFILL * 3), 3);
        assert_eq!(written("a", 1_000, start + REFILL * 4), 1);
        assert_eq!(written("a", 1_000, start + REFILL * 100), 20);
    }

    #[test]
    fn what_was_told_is_not_told_again_and_not_all_of_it_is_kept() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.judge(&notice("a", "x".to_owned()), now), Verdict::Write);
        assert_eq!(ledger.judge(&notice("a", "x".to_owned()), now), Verdict::Duplicate);
        for number in 0..3 * TOLD_MAX {
            ledger.judge(&notice(&format!("n{number}"), String::new()), now + REFILL * 2);
        }
        assert!(ledger.told.len() + ledger.told_before.len() <= TOLD_MAX);
        assert!(ledger.used.len() <= 3 * TOLD_MAX);
    }
}

//! `Admitter`: a review in, its answer out, and nothing else: whoever forges a review changes nothing in the cluster.
//!
//! What is done to a pod is decided by `proxy_core::admission`; what the pod then needs is made by the controller, once there
//! is a pod. Where services or namespaces are not known the API server is told by an error, and its failure policy
//! decides. What must not go in here: HTTP, and any write.

use std::collections::BTreeSet;
use std::time::Instant;

use admission_review::{Answer, PodReview, Review, answer, pass, pass_too_large, review};
use proxy_core::admission::{InjectOptions, Injection, Selection, injection_with};
use tokio::sync::watch;

use crate::namespaces::Namespaces;
use crate::remembered::Remembered;
use crate::services::ServiceState;
use crate::tally::Tallied;

/// An answer, and how it is counted.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) outcome: &'static str,
    pub(crate) answer: Answer,
}

/// Answers reviews.
pub(crate) struct Admitter {
    pub(crate) options: InjectOptions,
    pub(crate) known: watch::Receiver<ServiceState>,
    pub(crate) namespaces: Namespaces,
    pub(crate) remembered: Remembered,
    /// Namespaces whose pods are left alone, whatever is registered.
    pub(crate) excepted: BTreeSet<String>,
    pub(crate) tallied: Tallied,
}

impl Admitter {
    /// The answer to the body of a request; an error says why there is none.
    pub(crate) async fn answer(&self, body: &[u8]) -> Result<Answered, String> {
        let began = Instant::now();
        match review(body) {
            Err(bad) => {
                tracing::warn!(uid = bad.uid, why = bad.why, "a review that is none");
                Ok(Answered { outcome: "bad_review", answer: bad.answer() })
            }
            Ok(Review::Other { uid }) => Ok(Answered { outcome: "untouched", answer: pass(&uid) }),
            Ok(Review::TooLarge { uid, why }) => {
                tracing::debug!(uid, why, "a pod is too large to look at");
                Ok(Answered { outcome: "too_large", answer: pass_too_large(&uid, &why) })
            }
            Ok(Review::Pod(review)) if self.excepted.contains(&review.namespace) => {
                Ok(Answered { outcome: "untouched", answer: pass(&review.uid) })
            }
            Ok(Review::Pod(review)) => self.pod(&review, began).await,
        }
    }

    async fn pod(&self, review: &PodReview, began: Instant) -> Result<Answered, String> {
        let annotations = self.namespaces.annotations(&review.namespace).await;
        // A call that comes before all services are known waits as long as it may.
        let mut known = self.known.clone();
        let synced = known.wait_for(|known| known.is_synced).await;
        let snapshot = synced.map_err(|_| "services are not known".to_owned())?.snapshot.clone();
        let prepare =
            |selection: &Selection| self.remembered.prepared(&snapshot, &review.namespace, selection);
        let admission = review.admission(&annotations);
        let injection = injection_with(&snapshot, &self.options, &admission, &prepare);
        let answer = answer(&review.uid, &injection);
        self.tallied
            .injected(if injection.patch.is_empty() { 0 } else { answer.size() }, injection.warnings.len());
        log(review, &injection, began);
        let outcome = match &injection {
            Injection { denied: Some(_), .. } => "denied",
            Injection { patch, .. } if patch.is_empty() => "untouched",
            _ => "injected",
        };
        Ok(Answered { outcome, answer })
    }
}

/// What was denied is told; what was injected stands on the pod, so that it is worth a line only to whoever looks closely.
fn log(review: &PodReview, injection: &Injection, began: Instant) {
    let Injection { patch, warnings, denied, accounts, untouched, config_maps: _, label: _ } = injection;
    let PodReview { uid, namespace, dry_run, pod, old_pod } = review;
    let metadata = &pod["metadata"];
    let name = metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default();
    let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    if let Some(why) = denied {
        tracing::warn!(namespace, pod = name, uid, why, "denied");
    } else if patch.is_empty() {
        let why = untouched.as_deref().unwrap_or("it has everything");
        tracing::debug!(namespace, pod = name, uid, why, "untouched");
    } else {
        let variables: usize = accounts.iter().map(|account| account.added.len()).sum();
        let (ephemeral, containers, warnings) = (old_pod.is_some(), accounts.len(), warnings.len());
        tracing::debug!(
            namespace,
            pod = name,
            uid,
            containers,
            variables,
            warnings,
            ephemeral,
            dry_run,
            took_us,
            "injected"
        );
    }
}

//! `AdmissionHandler`: processes a review and returns the response. It has no other effect: a forged review changes
//! nothing in the cluster.
//!
//! `proxy_core::admission` decides what is injected; the controller creates the ConfigMaps once the pod exists. If the
//! services are not known, the API server gets an error, and its failure policy decides.

use std::collections::BTreeSet;
use std::time::Instant;

use admission_review::{PodReview, Review, allow, allow_too_large, parse_review, response, response_len};
use proxy_core::admission::{InjectOptions, Injection, Selection, inject_with};
use tokio::sync::watch;

use crate::counters::Counters;
use crate::load::RequestLoad;
use crate::namespaces::Namespaces;
use crate::render_cache::RenderCache;
use crate::services::ServiceState;

/// The body of a response, and the outcome in the metrics.
#[derive(Debug)]
pub(crate) struct ReviewResponse {
    pub(crate) outcome: &'static str,
    pub(crate) body: Vec<u8>,
}

/// Processes reviews.
pub(crate) struct AdmissionHandler {
    pub(crate) options: InjectOptions,
    pub(crate) services: watch::Receiver<ServiceState>,
    pub(crate) namespaces: Namespaces,
    pub(crate) render_cache: RenderCache,
    /// Namespaces whose pods are never changed, whatever is registered.
    pub(crate) excepted: BTreeSet<String>,
    pub(crate) counters: Counters,
}

impl AdmissionHandler {
    /// Processes the body of a request. The response is charged to `load` before it is built, in place of the request.
    pub(crate) async fn handle(&self, body: Vec<u8>, load: &RequestLoad) -> Result<ReviewResponse, String> {
        let start = Instant::now();
        let review = parse_review(&body);
        drop(body);
        let (outcome, body) = match review {
            Ok(Review::Pod(review)) if !self.excepted.contains(&review.namespace) => {
                return self.handle_pod(&review, load, start).await;
            }
            Ok(Review::Pod(PodReview { uid, .. }) | Review::Other { uid }) => ("untouched", allow(&uid)),
            Ok(Review::TooLarge { uid, reason }) => {
                tracing::debug!(uid, reason, "pod is too large to inspect");
                ("too_large", allow_too_large(&uid, &reason))
            }
            Err(bad) => {
                tracing::warn!(uid = bad.uid, reason = bad.reason, "malformed AdmissionReview");
                ("bad_review", bad.response())
            }
        };
        load.answered(body.len()).await;
        Ok(ReviewResponse { outcome, body })
    }

    async fn handle_pod(
        &self,
        review: &PodReview,
        load: &RequestLoad,
        start: Instant,
    ) -> Result<ReviewResponse, String> {
        let annotations = self.namespaces.annotations(&review.namespace).await;
        // A request before the initial sync waits until its timeout.
        let mut services = self.services.clone();
        let synced = services.wait_for(|services| services.is_synced).await;
        let snapshot = synced.map_err(|_| "services are not known".to_owned())?.snapshot.clone();
        let render =
            |selection: &Selection| self.render_cache.render(&snapshot, &review.namespace, selection);
        let injection = inject_with(&snapshot, &self.options, &review.admission(&annotations), &render);
        let len = response_len(&review.uid, &injection);
        self.counters.injected(if injection.patch.is_empty() { 0 } else { len }, injection.warnings.len());
        log(review, &injection, start);
        let outcome = match &injection {
            Injection { denied: Some(_), .. } => "denied",
            Injection { patch, .. } if patch.is_empty() => "untouched",
            _ => "injected",
        };
        load.answered(len).await;
        Ok(ReviewResponse { outcome, body: response(&review.uid, &injection) })
    }
}

/// Logs a denial as a warning. An injection is recorded on the pod, so that its level is debug.
fn log(review: &PodReview, injection: &Injection<'_>, start: Instant) {
    let Injection { patch, warnings, denied, containers, skipped, portals, config_maps: _, label: _ } =
        injection;
    let PodReview { uid, namespace, dry_run, pod, old_pod } = review;
    let metadata = &pod["metadata"];
    let name = metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default();
    if let Some(reason) = denied {
        tracing::warn!(namespace, pod = name, uid, reason, "denied");
    } else if patch.is_empty() {
        let reason = skipped.as_deref().unwrap_or("already complete");
        tracing::debug!(namespace, pod = name, uid, reason, "not mutated");
    } else {
        let variables: usize = containers.iter().map(|report| report.added.len()).sum();
        tracing::debug!(
            namespace,
            pod = name,
            uid,
            containers = containers.len(),
            variables,
            warnings = warnings.len(),
            ephemeral = old_pod.is_some(),
            portals,
            dry_run,
            duration_us = start.elapsed().as_micros(),
            "injected"
        );
    }
}

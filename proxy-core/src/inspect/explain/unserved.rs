//! The explanation for a pod that Portico does not serve.

use crate::inspect::explain::{Explanation, Outcome};
use crate::model::annotation::PORTALS;

/// Explains any connection of a pod that is off.
#[must_use]
pub fn explain_unserved() -> Explanation {
    let reason = format!("not translated: Portico does not serve the pod, because {} is off", PORTALS.key);
    let other =
        "another service proxy on its path can translate it, such as kube-proxy or the portals of the node";
    Explanation {
        verdict: Outcome::Pass,
        portal: None,
        backends: Vec::new(),
        masqueraded: None,
        steps: vec![other.to_owned(), reason.clone()],
        reason,
    }
}

//! Watching an API server: the events that a consumer receives, also if the server is faulty.
//!
//! Each behaviour is tested with the double, and with a real API server if `KUBEBUILDER_ASSETS` is set. Only the double
//! can produce faults. No test sleeps: a test waits for an expected event, and proves that another event does not occur
//! by waiting for a later one.

mod behaviour;
mod content;
mod large;
mod metadata;
mod names;
pub(crate) mod observed_cluster;
mod outage;
mod random_changes;

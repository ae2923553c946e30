//! Watching an API server: what a consumer sees of it, whatever the server does.
//!
//! Each behaviour is shown by the double, and by a real API server where `KUBEBUILDER_ASSETS` names its binaries;
//! what a real one does not do on demand, the double does. Nothing sleeps: what must come is waited for, and what must
//! not come is shown by something that comes later.

#[path = "apiserver/api.rs"]
#[allow(dead_code)]
mod apiserver;
#[path = "cluster_live/behaviour.rs"]
mod behaviour;
#[path = "cluster_live/chance.rs"]
mod chance;
#[path = "cluster_live/content.rs"]
mod content;
#[path = "cluster_live/large.rs"]
mod large;
#[path = "cluster_live/metadata.rs"]
mod metadata;
#[path = "cluster_live/object.rs"]
mod object;
#[path = "cluster_live/outage.rs"]
mod outage;
#[path = "cluster_live/seen.rs"]
mod seen;

//! Watching an API server: what a consumer sees of it, whatever the server does.
//!
//! Each behaviour is shown by the double, and by a real API server where `KUBEBUILDER_ASSETS` names its binaries;
//! what a real one does not do on demand, the double does. Nothing sleeps: what must come is waited for, and what must
//! not come is shown by something that comes later.

mod behaviour;
mod chance;
mod content;
mod large;
mod metadata;
mod outage;
mod seen;

//! The program on an API server: the double, and a real one where `KUBEBUILDER_ASSETS` names its binaries.
//!
//! What both show is shown by both. The real one calls the webhook itself; the double has the conflicts.

mod attacks;
mod double;
mod notices;
mod parts;
mod portal_limits;
mod quota;
mod real;
mod rights;
mod side_effects;
mod upgrade;

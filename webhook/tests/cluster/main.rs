//! The program with an API server: the double, and a real one with the feature `api-server`.
//!
//! Both test what both support. The real one calls the webhook itself; the double can produce conflicts.

mod attacks;
mod double;
mod events;
mod parts;
mod portal_conflicts;
mod portal_limits;
mod portals;
mod quota;
mod real;
mod rights;
mod side_effects;
mod upgrade;

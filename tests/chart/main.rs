//! The Helm chart: rendered objects, rejected values, privileges of pods, and grants of roles.

mod guards;
mod images;
mod operations;
mod pods;
mod rendering;
mod rights;
mod schema;
mod upgrade;

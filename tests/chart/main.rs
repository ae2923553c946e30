//! The Helm chart: what it renders, what it refuses, what its pods may do, and what its roles grant.

mod agent;
mod guards;
mod images;
mod operations;
mod pods;
mod rendering;
mod rights;
mod schema;
mod upgrade;

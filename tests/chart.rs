//! The Helm chart: what it renders, what it refuses, what its pods may do, and what its roles grant.

#[path = "chart/agent.rs"]
mod agent;
#[path = "apiserver/api.rs"]
#[allow(dead_code)]
mod apiserver;
#[path = "chart/guards.rs"]
mod guards;
#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/images.rs"]
mod images;
#[path = "chart/operations.rs"]
mod operations;
#[path = "chart/pods.rs"]
mod pods;
#[path = "chart/rendering.rs"]
mod rendering;
#[path = "chart/rights.rs"]
mod rights;
#[path = "chart/schema.rs"]
mod schema;
#[path = "chart/upgrade.rs"]
mod upgrade;

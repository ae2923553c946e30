//! The pages that load balancers and tools request from a node: the health-check ports of services, and the pages of
//! kube-proxy.
//!
//! All contents are those of kube-proxy (pkg/proxy/healthcheck). The state is pure: `HealthChecks` computes the checks
//! from snapshots, and `ProxyHealth` records whether updates are applied. The servers read the state at each request, so
//! a change applies to the next request, also on a connection that is already open.
//!
//! ```text
//! let health = Arc::new(ProxyHealth::new(HEALTH_TIMEOUT));
//! runtime.spawn(serve_proxy_pages(Arc::clone(&health), claims)); // :10256 and 127.0.0.1:10249
//! let mut servers = HealthCheckServers::new(runtime.clone(), Arc::clone(&health));
//! let mut checks = HealthChecks::default();
//! health.set_pending(now);                                     // a change was received
//! servers.apply(checks.refresh(&snapshot, &node, &changed));   // on any thread
//! health.set_updated(SystemTime::now());                       // the kernel has all changes
//! health.set_leaving(node.is_leaving);
//! ```
//! `HealthChecks::conflicts` and `HealthCheckServers::reports` are for the status and metrics. Dropping the servers
//! closes their ports; another process that has a port is never disturbed.

mod check_page;
mod check_server;
mod check_table;
mod port_binding;
mod proxy_health;
mod proxy_pages;

pub use check_server::{HealthCheckReport, HealthCheckServers};
pub use check_table::{HealthCheck, HealthCheckConflict, HealthChecks};
pub use proxy_health::{HEALTH_TIMEOUT, ProxyHealth};
pub(crate) use proxy_pages::SERVER_NAME;
pub use proxy_pages::{HEALTH_PORT, MODE_PORT};
pub use proxy_pages::{PortClaims, serve_proxy_pages};

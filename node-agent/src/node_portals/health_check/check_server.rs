//! `HealthCheckServers`: the HTTP servers of the health-check ports of services.
//!
//! Each port has a listener on every address of the node, as kube-proxy has unless node ports are limited to some
//! addresses: it need not be replaced if addresses change. Any path and method is answered. All servers share one limit
//! of connections, and the number of listeners is bounded, since tenants create services.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use daemon::{ConnectionLimits, Page, PageConnections, Pages, serve_pages};
use proxy_core::service::ServiceKey;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::check_page::service_page;
use super::check_table::HealthCheck;
use super::port_binding::{ListenScope, listen};
use super::proxy_health::ProxyHealth;

/// The maximum number of listeners.
const LISTENERS_MAX: usize = 4_096;
/// The limits of connections of all ports. A load balancer can check many services from one address.
const LIMITS: ConnectionLimits = ConnectionLimits { total: 512, of_a_peer: 256 };

/// The state of a health-check port, for the status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheckReport {
    /// The port.
    pub port: u16,
    /// The service.
    pub service: ServiceKey,
    /// The number of its ready endpoints on this node.
    pub local_endpoints: usize,
    /// Whether the node answers at this port.
    pub is_listening: bool,
    /// Why it does not, if attempts to listen failed.
    pub error: Option<String>,
}

/// The servers of all health-check ports. Dropping them closes the ports.
#[derive(Debug)]
pub struct HealthCheckServers {
    runtime: Handle,
    health: Arc<ProxyHealth>,
    connections: PageConnections,
    listeners_max: usize,
    servers: BTreeMap<u16, Server>,
    /// Whether another process is to have the ports.
    is_paused: bool,
}

#[derive(Debug)]
struct Server {
    port: Arc<CheckedPort>,
    /// `None` if there are too many listeners.
    task: Option<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl HealthCheckServers {
    /// No servers yet. They run on this runtime, whose threads are in the node's network namespace.
    #[must_use]
    pub fn new(runtime: Handle, health: Arc<ProxyHealth>) -> Self {
        let connections = PageConnections::new(LIMITS);
        Self {
            runtime,
            health,
            connections,
            listeners_max: LISTENERS_MAX,
            servers: BTreeMap::new(),
            is_paused: false,
        }
    }

    /// Applies changes of health checks. A port whose check changed answers with the new one immediately.
    pub fn apply(&mut self, changes: Vec<(u16, Option<HealthCheck>)>) {
        for (port, check) in changes {
            match (check, self.servers.get(&port)) {
                (None, _) => drop(self.servers.remove(&port)),
                (Some(check), Some(server)) => server.port.state().check = check,
                (Some(check), None) => {
                    let port_state = CheckedPort::new(check, Arc::clone(&self.health));
                    self.servers.insert(port, Server { port: Arc::new(port_state), task: None });
                }
            }
        }
        self.start_servers();
    }

    /// Returns the state of every port.
    #[must_use]
    pub fn reports(&self) -> Vec<HealthCheckReport> {
        let report = |(port, server): (&u16, &Server)| {
            let PortState { check, is_listening, error } = server.port.state().clone();
            let HealthCheck { service, local_endpoints } = check;
            HealthCheckReport { port: *port, service, local_endpoints, is_listening, error }
        };
        self.servers.iter().map(report).collect()
    }

    /// Closes all ports, so that another process can have them, or opens them again.
    pub fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
        if is_paused {
            for server in self.servers.values_mut() {
                server.task = None;
                let mut state = server.port.state();
                (state.is_listening, state.error) = (false, None);
            }
        }
        self.start_servers();
    }

    fn start_servers(&mut self) {
        if self.is_paused {
            return;
        }
        let running = self.servers.values().filter(|server| server.task.is_some()).count();
        let idle = self.servers.iter_mut().filter(|(_, server)| server.task.is_none());
        for (index, (number, server)) in idle.enumerate() {
            if running + index >= self.listeners_max {
                let error = format!("more than {} health-check ports", self.listeners_max);
                server.port.fail(*number, &error, 1);
                continue;
            }
            let serving = serve(*number, Arc::clone(&server.port), self.connections.clone());
            server.task = Some(AbortOnDrop(self.runtime.spawn(serving).abort_handle()));
        }
    }
}

/// Serves one port until aborted.
async fn serve(number: u16, port: Arc<CheckedPort>, connections: PageConnections) {
    let on_failure = |error: &std::io::Error, failures| port.fail(number, &error.to_string(), failures);
    let listener = listen(ListenScope::Node, number, on_failure).await;
    {
        let mut state = port.state();
        state.is_listening = true;
        if state.error.take().is_some() {
            let service = &state.check.service;
            tracing::info!(port = number, %service, "health-check port is served again");
        }
    }
    serve_pages(listener, connections, port).await;
}

/// A port and its current check.
#[derive(Debug)]
struct CheckedPort {
    health: Arc<ProxyHealth>,
    state: Mutex<PortState>,
}

#[derive(Debug, Clone)]
struct PortState {
    check: HealthCheck,
    is_listening: bool,
    error: Option<String>,
}

impl CheckedPort {
    fn new(check: HealthCheck, health: Arc<ProxyHealth>) -> Self {
        Self { health, state: Mutex::new(PortState { check, is_listening: false, error: None }) }
    }

    fn state(&self) -> MutexGuard<'_, PortState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a failure to listen, and logs the first one.
    fn fail(&self, number: u16, error: &str, failures: u32) {
        let mut state = self.state();
        if failures == 1 && state.error.is_none() {
            let service = &state.check.service;
            tracing::warn!(port = number, %service, error, "failed to listen on health-check port; will retry");
        }
        state.error = Some(error.to_owned());
    }
}

impl Pages for CheckedPort {
    async fn page(&self, _path: &str) -> Option<Page> {
        let check = self.state().check.clone();
        Some(service_page(&check, self.health.status(Instant::now()).is_healthy))
    }

    fn has_any_method(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::proxy_health::HEALTH_TIMEOUT;
    use super::*;

    #[tokio::test]
    async fn port_beyond_the_limit_of_listeners_is_reported_and_served_when_another_is_removed() {
        let health = Arc::new(ProxyHealth::new(HEALTH_TIMEOUT));
        let mut servers = HealthCheckServers::new(Handle::current(), health);
        servers.listeners_max = 1;
        let check = |name| Some(HealthCheck { service: ServiceKey::new("shop", name), local_endpoints: 1 });
        // Nothing else happens in this test, so it does not matter whether the ports are free.
        servers.apply(vec![(1, check("first")), (2, check("second"))]);
        let errors = servers.reports().into_iter().map(|report| report.error).collect::<Vec<_>>();
        assert_eq!(errors, [None, Some("more than 1 health-check ports".to_owned())]);
        assert!(servers.servers[&2].task.is_none());
        servers.apply(vec![(1, None)]);
        assert!(servers.servers[&2].task.is_some());
    }
}

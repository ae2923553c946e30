//! The health-check ports of services and the pages of kube-proxy, requested over HTTP in a network namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use node_agent::node_portals::health_check::{
    HEALTH_TIMEOUT, HealthCheck, HealthCheckServers, PortClaims, ProxyHealth, serve_proxy_pages,
};
use proxy_core::service::ServiceKey;
use test_support::eventually::eventually;
use test_support::namespace::{in_new_netns, run};
use tokio::runtime::Runtime;
use tokio::sync::watch;

const RESPONSE: Duration = Duration::from_secs(10);
/// The time in which a check must follow a change.
const LATENCY_MAX: Duration = Duration::from_millis(5);
const CHANGES: usize = 21;
const PORT: u16 = 31_000;

/// Runs `body` in a new network namespace with a runtime there.
fn on_node(body: impl FnOnce(&Runtime) + Send) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        body(&builder.worker_threads(1).enable_all().build().expect("a runtime"));
    });
}

fn new_servers(runtime: &Runtime) -> (HealthCheckServers, Arc<ProxyHealth>) {
    let health = Arc::new(ProxyHealth::new(HEALTH_TIMEOUT));
    (HealthCheckServers::new(runtime.handle().clone(), Arc::clone(&health)), health)
}

fn check(name: &str, local_endpoints: usize) -> Option<HealthCheck> {
    Some(HealthCheck { service: ServiceKey::new("shop", name), local_endpoints })
}

fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&address, RESPONSE).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(RESPONSE)).map_err(|error| error.to_string())?;
    Ok(stream)
}

/// Sends a request on a connection, and returns the response.
fn request_on(mut stream: TcpStream, line: &str) -> Result<String, String> {
    let request = format!("{line} HTTP/1.1\r\nHost: node\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut response = String::new();
    stream.read_to_string(&mut response).map_err(|error| error.to_string())?;
    Ok(response)
}

fn request(address: impl Into<SocketAddr>, line: &str) -> Result<String, String> {
    request_on(connect(address.into())?, line)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Requests a path until a server answers.
fn get(port: u16, path: &str) -> String {
    eventually("a response", || request(local(port), &format!("GET {path}")))
}

fn has_status(response: &str, status: u16) -> bool {
    response.starts_with(&format!("HTTP/1.1 {status} "))
}

fn has_header(response: &str, header: &str) -> bool {
    response.lines().any(|line| line.eq_ignore_ascii_case(header))
}

#[test]
fn health_check_port_answers_in_both_families_with_the_page_of_kube_proxy() {
    on_node(|runtime| {
        let (mut servers, _) = new_servers(runtime);
        servers.apply(vec![(PORT, check("web", 2))]);
        get(PORT, "/");
        let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        for address in [format!("127.0.0.1:{PORT}"), format!("[::1]:{PORT}")] {
            let address: SocketAddr = address.parse().expect("an address");
            let response = request(address, "GET /any/path").expect("a response");
            assert!(
                has_status(&response, 200) && response.ends_with(&format!("\r\n\r\n{body}")),
                "{response}"
            );
            for header in [
                "Content-Type: application/json",
                "X-Content-Type-Options: nosniff",
                "X-Load-Balancing-Endpoint-Weight: 2",
            ] {
                assert!(has_header(&response, header), "{header}: {response}");
            }
        }
        for line in ["HEAD /", "OPTIONS /", "POST /"] {
            let response = request(local(PORT), line).expect("a response");
            assert!(has_status(&response, 200), "{line}: {response}");
        }
        let [report] = &servers.reports()[..] else { panic!("{:?}", servers.reports()) };
        assert!(report.is_listening && report.error.is_none(), "{report:?}");
    });
}

#[test]
fn health_check_follows_endpoints_and_the_proxy_within_5_ms() {
    on_node(|runtime| {
        let (mut servers, health) = new_servers(runtime);
        servers.apply(vec![(PORT, check("web", 1))]);
        get(PORT, "/");
        let mut latencies = Vec::new();
        for change in 0..CHANGES {
            let local_endpoints = change % 2;
            // The server has accepted the first connection before the change.
            let open = connect(local(PORT)).expect("a connection");
            let changed_at = Instant::now();
            servers.apply(vec![(PORT, check("web", local_endpoints))]);
            let response = request(local(PORT), "GET /").expect("a response");
            latencies.push(changed_at.elapsed());
            for response in [response, request_on(open, "GET /").expect("a response")] {
                assert!(has_status(&response, if local_endpoints == 0 { 503 } else { 200 }), "{response}");
                let weight = format!("X-Load-Balancing-Endpoint-Weight: {local_endpoints}");
                assert!(has_header(&response, &weight), "{response}");
            }
        }
        latencies.sort_unstable();
        assert!(latencies[CHANGES / 2] < LATENCY_MAX, "{latencies:?}");

        servers.apply(vec![(PORT, check("web", 1))]);
        let late = Instant::now().checked_sub(HEALTH_TIMEOUT).expect("an uptime of a minute");
        health.set_pending(late);
        let response = get(PORT, "/");
        assert!(
            has_status(&response, 503) && response.contains("\"serviceProxyHealthy\": false"),
            "{response}"
        );
        health.set_updated(SystemTime::now());
        assert!(has_status(&get(PORT, "/"), 200));
    });
}

#[test]
fn port_of_another_process_is_reported_and_taken_over_when_it_is_free() {
    on_node(|runtime| {
        let (mut servers, _) = new_servers(runtime);
        let other = TcpListener::bind(local(PORT)).expect("listen");
        servers.apply(vec![(PORT, check("web", 1)), (PORT + 1, check("api", 1))]);
        assert!(has_status(&get(PORT + 1, "/"), 200), "another service");
        let error =
            eventually("a report", || servers.reports()[0].error.clone().ok_or("no error".to_owned()));
        assert!(error.contains("in use"), "{error}");
        assert!(!servers.reports()[0].is_listening && servers.reports()[1].is_listening);
        drop(other);
        assert!(get(PORT, "/").contains("\"name\": \"web\""));
        assert_eq!(servers.reports()[0].error, None);
    });
}

#[test]
fn removed_health_check_closes_its_port() {
    on_node(|runtime| {
        let (mut servers, _) = new_servers(runtime);
        servers.apply(vec![(PORT, check("web", 1))]);
        get(PORT, "/");
        servers.apply(vec![(PORT, None)]);
        eventually("a closed port", || match request(local(PORT), "GET /") {
            Err(error) if error.contains("refused") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        servers.apply(vec![(PORT, check("api", 1))]);
        assert!(get(PORT, "/").contains("\"name\": \"api\""));
        drop(servers);
        eventually("a closed port", || request(local(PORT), "GET /").map_or(Ok(()), Err));
    });
}

#[test]
fn silent_connections_to_one_port_do_not_keep_clients_of_others_out() {
    on_node(|runtime| {
        let (mut servers, _) = new_servers(runtime);
        servers.apply(vec![(PORT, check("web", 1)), (PORT + 1, check("api", 1))]);
        get(PORT, "/");
        let silent: Vec<TcpStream> = (0..600).filter_map(|_| connect(local(PORT)).ok()).collect();
        assert!(silent.len() > 300, "{}", silent.len());
        assert!(has_status(&get(PORT + 1, "/"), 200));
        assert!(has_status(&get(PORT, "/"), 200));
    });
}

#[test]
fn health_check_port_answers_while_ipv6_is_disabled() {
    on_node(|runtime| {
        run("sysctl", &["-w", "net.ipv6.conf.all.disable_ipv6=1"], "");
        let (mut servers, _) = new_servers(runtime);
        servers.apply(vec![(PORT, check("web", 1))]);
        assert!(has_status(&get(PORT, "/"), 200));
    });
}

#[test]
fn pages_of_kube_proxy_follow_the_node_and_pending_updates() {
    on_node(|runtime| {
        let health = Arc::new(ProxyHealth::new(HEALTH_TIMEOUT));
        let (_claims, claimed) = watch::channel(PortClaims::both(true));
        runtime.spawn(serve_proxy_pages(Arc::clone(&health), claimed));
        let statuses = || ["/healthz", "/livez"].map(|path| get(10_256, path)[9..12].to_owned());
        assert_eq!(statuses(), ["200", "200"]);
        let response = get(10_256, "/healthz");
        for text in
            ["{\"lastUpdated\": \"20", "\",\"currentTime\": \"20", " +0000 UTC\", \"nodeEligible\": true}"]
        {
            assert!(response.contains(text), "{response}");
        }
        health.set_leaving(true);
        assert_eq!(statuses(), ["503", "200"]);
        health.set_leaving(false);
        health.set_pending(Instant::now().checked_sub(HEALTH_TIMEOUT).expect("an uptime of a minute"));
        assert_eq!(statuses(), ["503", "503"]);
        health.set_updated(SystemTime::now());
        assert_eq!(statuses(), ["200", "200"]);
        assert!(has_status(&get(10_256, "/other"), 404));
        assert!(get(10_249, "/proxyMode").ends_with("\r\n\r\nnftables"));
    });
}

#[test]
fn running_kube_proxy_keeps_its_ports_until_it_stops() {
    on_node(|runtime| {
        let kube_proxy = TcpListener::bind("[::]:10256").expect("listen");
        let (_claims, claimed) = watch::channel(PortClaims::both(true));
        runtime.spawn(serve_proxy_pages(Arc::new(ProxyHealth::new(HEALTH_TIMEOUT)), claimed));
        assert!(has_status(&get(10_249, "/proxyMode"), 200));
        // kube-proxy gets the connection.
        let client = connect(local(10_256)).expect("a connection");
        let (_, peer) = kube_proxy.accept().expect("a connection");
        assert_eq!(peer.port(), client.local_addr().expect("an address").port());
        drop(kube_proxy);
        assert!(has_status(&get(10_256, "/healthz"), 200));
    });
}

#[test]
fn ports_are_released_for_a_kube_proxy_and_taken_again() {
    on_node(|runtime| {
        let (mut servers, health) = new_servers(runtime);
        servers.apply(vec![(PORT, check("web", 1))]);
        let (claims, claimed) = watch::channel(PortClaims::both(true));
        runtime.spawn(serve_proxy_pages(health, claimed));
        assert!(has_status(&get(10_256, "/healthz"), 200) && has_status(&get(PORT, "/"), 200));
        claims.send_replace(PortClaims { health: true, mode: false });
        drop(listen_soon(10_249));
        assert!(has_status(&get(10_256, "/healthz"), 200), "another port is kept");
        claims.send_replace(PortClaims::both(false));
        servers.set_paused(true);
        drop([listen_soon(10_256), listen_soon(PORT)]);
        claims.send_replace(PortClaims::both(true));
        servers.set_paused(false);
        assert!(has_status(&get(10_256, "/healthz"), 200) && has_status(&get(PORT, "/"), 200));
    });
}

/// Listens as soon as no other process has the port.
fn listen_soon(port: u16) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{port}: {error}"),
        }
    }
}

//! `KubeProxyProbe`: what a kube-proxy on the node says about itself at its ports.
//!
//! The port of its metrics is at the loopback address of the primary family. While no kube-proxy runs, the agent answers
//! at these ports, with a header that names it. A response is read up to a limit, since any process can have the ports.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::node_portals::health_check::{HEALTH_PORT, MODE_PORT, SERVER_NAME};

const TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum that is read of a response.
const RESPONSE_BYTES_MAX: u64 = 4 << 20;
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// The time of its last sync, in each family; absent or 0 before the first one.
const LAST_SYNC: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
/// The time at which the last sync was queued, in each family. kube-proxy sets it when it starts.
const LAST_QUEUED: &str = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds";

/// A kube-proxy that responds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeProxyProbe {
    /// Its mode, if it responds at the port of its metrics.
    pub mode: Option<String>,
}

/// Returns the kube-proxy that responds.
#[must_use]
pub fn probe_kube_proxy() -> Option<KubeProxyProbe> {
    if let Some(mode) = get(MODE_PORT, "/proxyMode", &["200"]) {
        return Some(KubeProxyProbe { mode: Some(mode.trim().to_owned()) });
    }
    // Its metrics can be at another port. It is running also if it is not healthy.
    let page = get(HEALTH_PORT, "/healthz", &["200", "503"])?;
    page.contains("lastUpdated").then(KubeProxyProbe::default)
}

/// Whether the kube-proxy has programmed all families since it started.
#[must_use]
pub fn is_kube_proxy_synced() -> bool {
    get(MODE_PORT, "/metrics", &["200"]).is_some_and(|page| is_synced(&page))
}

fn is_synced(metrics: &str) -> bool {
    let synced: Vec<(&str, f64)> = times(metrics, LAST_SYNC).collect();
    let has_time = |family: &str| synced.iter().any(|(other, time)| *other == family && *time > 0.0);
    !synced.is_empty()
        && synced.iter().all(|(family, _)| has_time(family))
        && times(metrics, LAST_QUEUED).all(|(family, _)| has_time(family))
}

/// The times of a metric, with the labels of each.
fn times<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    let time = move |line: &'a str| {
        let (labels, time) = line.strip_prefix(name)?.rsplit_once(' ')?;
        Some((labels, time.parse().ok()?))
    };
    metrics.lines().filter_map(time)
}

/// Returns the configuration of the kube-proxy, if it responds.
#[must_use]
pub fn kube_proxy_config() -> Option<Value> {
    let page: Value = serde_json::from_str(&get(MODE_PORT, "/configz", &["200"])?).ok()?;
    page.get("kubeproxy.config.k8s.io").cloned()
}

/// Returns the body of a page with one of these statuses at a port of a loopback address, unless the agent serves it.
fn get(port: u16, path: &str, statuses: &[&str]) -> Option<String> {
    let request = |address| request(SocketAddr::new(address, port), path, statuses).ok().flatten();
    LOOPBACK.into_iter().find_map(request)
}

fn request(address: SocketAddr, path: &str, statuses: &[&str]) -> io::Result<Option<String>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut response = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response)?;
    let response = String::from_utf8_lossy(&response);
    let Some((head, body)) = response.split_once("\r\n\r\n") else { return Ok(None) };
    let is_expected = head.split(' ').nth(1).is_some_and(|status| statuses.contains(&status));
    let own = format!("server: {SERVER_NAME}");
    let is_own = head.lines().any(|line| line.eq_ignore_ascii_case(&own));
    Ok((is_expected && !is_own).then(|| body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages of the real kube-proxy: a family that has not been programmed has no time, or 0.
    #[test]
    fn kube_proxy_is_synced_once_every_family_has_a_time() {
        let line =
            |name: &str, family: &str, time: &str| format!("{name}{{ip_family=\"{family}\"}} {time}\n");
        let page = |v6: &str| {
            let queued = line(LAST_QUEUED, "IPv4", "1.78e+09") + &line(LAST_QUEUED, "IPv6", "1.78e+09");
            format!("# TYPE {LAST_SYNC} gauge\n{queued}{}{v6}", line(LAST_SYNC, "IPv4", "1.79e+09"))
        };
        assert!(is_synced(&page(&line(LAST_SYNC, "IPv6", "1.79e+09"))));
        assert!(!is_synced(&page(&line(LAST_SYNC, "IPv6", "0"))));
        assert!(!is_synced(&page("")), "IPv6 is queued, and not programmed");
        assert!(
            is_synced(&format!("{LAST_QUEUED} 1.78e+09\n{LAST_SYNC} 1.79e+09\n")),
            "an older kube-proxy without the label"
        );
        assert!(!is_synced("process_start_time_seconds 1\n"), "another program");
    }
}

//! The metrics page: the agent's report in version 0.0.4 of the Prometheus text format.

use daemon::MetricsPage;
use proxy_core::portals_request::PORTALS_ALL;
use relay::{RefusalCounts, RelayReport, TrafficTotals};

use crate::node_portals::add_node_metrics;
use crate::pod_dns::add_dns_metrics;
use crate::report::{APPLY_BOUNDS_S, AttachmentReport, MemoryReport, ProgrammedPortals, Report};

/// Returns the metrics page.
pub(crate) fn metrics(report: &Report) -> String {
    let mut page = MetricsPage::new("portico_", &report.version);
    let flag = |is_set: bool| f64::from(u8::from(is_set));
    page.gauge("synced", "1 if the initial sync is complete", flag(report.synced));
    page.gauge("source_outage", "1 while the service source cannot be read", flag(report.outage.is_some()));
    let rejected = report.objects_rejected as f64;
    page.gauge("objects_rejected", "objects that are malformed or exceed a limit", rejected);
    page.gauge("services", "services", report.services as f64);
    attachments(&mut page, report);
    tables(&mut page, report);
    events(&mut page, report);
    relay(&mut page, &report.relay);
    if let Some(node) = &report.node_portals {
        add_node_metrics(&mut page, node);
    }
    if let Some(dns) = &report.dns {
        add_dns_metrics(&mut page, dns);
    }
    let help = "time from a service change to the kernel's acknowledgement";
    page.histogram("apply_duration_seconds", help, &APPLY_BOUNDS_S, &report.counts.apply_duration_seconds);
    page.into_text()
}

/// Attachments by state.
fn attachments(page: &mut MetricsPage, report: &Report) {
    let count = |is_counted: fn(&AttachmentReport) -> bool| {
        report.attachments.iter().filter(|attachment| is_counted(attachment)).count() as f64
    };
    let lag_ms = report.attachments.iter().map(|attachment| attachment.lag_ms).max().unwrap_or(0);
    page.gauge("attachments", "attachments", report.attachments.len() as f64);
    page.gauge("attachments_behind", "attachments that are not up to date", count(|a| a.lag_ms > 0));
    page.gauge("attachments_failing", "attachments whose last job failed", count(|a| a.error.is_some()));
    page.gauge(
        "attachments_audit_backoff",
        "attachments that audits skip for a while because of repeated drift",
        count(|a| a.audit_backoff_ms > 0),
    );
    page.gauge(
        "attachments_on_demand",
        "attachments with on-demand portals",
        count(|a| a.portals == ProgrammedPortals::OnDemand),
    );
    page.gauge(
        "attachments_unserved",
        "attachments of pods that Portico does not serve (portico.dev/portals: off)",
        report.unserved.attachments as f64,
    );
    let unwritten = report.records_unwritten as f64;
    page.gauge("records_unwritten", "attachment records that could not be written yet", unwritten);
    page.gauge("lag_seconds", "lag of the attachment that is furthest behind", lag_ms as f64 / 1_000.0);
}

/// The contents of tables. Pods choose the names of other views, so these are only counted.
fn tables(page: &mut MetricsPage, report: &Report) {
    let all = report.views.get(PORTALS_ALL).map_or(0, |view| view.portals);
    page.gauge("portals", "portals of all services", all as f64);
    let others = report.views.keys().filter(|view| *view != PORTALS_ALL).count();
    page.gauge("views_selected", "views of pods that select services", others as f64);
    let refused = report.refused.iter().map(|(reason, count)| (reason, *count as u64));
    page.gauges("portals_refused", "refused portals of services, by reason", "reason", refused);
    let MemoryReport { limit, tables_max, tables } = report.memory;
    let bytes = |bytes: Option<u64>| bytes.map_or(f64::INFINITY, |bytes| bytes as f64);
    page.gauge("memory_limit_bytes", "memory limit of the agent, including kernel memory", bytes(limit));
    page.gauge("memory_tables_max_bytes", "memory budget of the tables of all pods", bytes(tables_max));
    page.gauge("memory_tables_bytes", "estimated memory of the tables of all pods", tables as f64);
}

/// Numbers of events since the start.
fn events(page: &mut MetricsPage, report: &Report) {
    let counts = &report.counts;
    page.counter("applied_total", "transactions that the kernel committed", counts.applied);
    page.counter("apply_failed_total", "failed jobs in network namespaces", counts.failed);
    page.counter("audits_total", "audits of network namespaces", counts.audits);
    page.counter("repairs_total", "drifted network namespaces that were reprogrammed", counts.repairs);
    page.counter(
        "portals_activated_total",
        "addresses whose on-demand portals were activated",
        counts.activated,
    );
    page.counter(
        "portals_evicted_total",
        "addresses whose on-demand portals were evicted because they were idle",
        counts.evicted,
    );
    page.counter("attached_total", "attachments since the start, including recovered ones", counts.attached);
    page.counter("detached_total", "attachments that ended", counts.detached);
    page.counter("source_outages_total", "outages of the service source", counts.outages);
    page.gauge(
        "dial_from_node_ignored",
        "services whose annotation portico.dev/dial is ignored: --dial-from-node does not list their namespace",
        counts.dial_ignored as f64,
    );
}

/// Sums over all pods; `portico top` shows each pod.
fn relay(page: &mut MetricsPage, relay: &RelayReport) {
    let portals = || relay.namespaces.iter().flat_map(|netns| &netns.portals);
    let backends = portals().flat_map(|portal| &portal.backends);
    let ejected = backends.filter(|backend| backend.is_ejected).count();
    page.gauge("relay_connections", "relayed connections and flows", relay.connections as f64);
    page.gauge(
        "relay_pending_connections",
        "connections that wait for a first backend",
        relay.pending() as f64,
    );
    page.gauge("relay_backends_ejected", "backends that are skipped because they failed", ejected as f64);
    let TrafficTotals { connections, sent, received, retries, failed } = relay.totals;
    page.counter("relay_connections_total", "connections and flows that were relayed", connections);
    page.counter("relay_sent_bytes_total", "bytes from clients to backends", sent);
    page.counter("relay_received_bytes_total", "bytes from backends to clients", received);
    page.counter("relay_retries_total", "attempts to connect to another backend after a failure", retries);
    page.counter("relay_failed_total", "connections for which no backend was reachable", failed);
    let RefusalCounts { node, pod, sockets } = relay.refused;
    page.counters(
        "relay_over_limit_total",
        "connections and flows refused because of a limit, by limit",
        "limit",
        [("node", node), ("pod", pod), ("sockets", sockets)],
    );
    page.counter(
        "relay_evicted_total",
        "stalled connections reset because their buffers exceeded the memory limit",
        relay.evicted,
    );
    page.counter(
        "relay_unmatched_connections_total",
        "connections and datagrams to the relay that matched no portal",
        relay.unmatched,
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::{Counts, DnsStatus, UnservedReport, ViewReport};

    fn report() -> Report {
        let mut counts = Counts { applied: 3, ..Counts::default() };
        counts.apply_duration_seconds.observe(&APPLY_BOUNDS_S, 0.002);
        Report {
            version: "1.2.3".to_owned(),
            node: String::new(),
            synced: true,
            outage: None,
            objects_rejected: 0,
            services: 2,
            views: ["all", "default/a"]
                .map(|view| (view.to_owned(), ViewReport { revision: 1, portals: 4 }))
                .into(),
            refused: BTreeMap::from([("service-portals".to_owned(), 3)]),
            memory: MemoryReport { limit: None, tables_max: None, tables: 7 },
            attachments: Vec::new(),
            unserved: UnservedReport { attachments: 5, pods: Vec::new() },
            records_unwritten: 0,
            counts,
            node_portals: Some(crate::node_portals::NodeReport::default()),
            relay: Default::default(),
            dns: Some(DnsStatus::default()),
            audit: Default::default(),
            counters: false,
            traffic: None,
        }
    }

    #[test]
    fn metrics_reference_matches_the_page() {
        let body = xtask::reference::metrics(&metrics(&report()));
        let about = "Metrics that `portico agent` serves at `/metrics` (`--metrics`). An attachment is one interface \
                     of one pod; a view is the set of services that is visible to a pod. For alerts, see \
                     [operations](../operations.md#metrics).";
        expect_test::expect_file!["../../docs/reference/agent-metrics.md"]
            .assert_eq(&xtask::reference::page("Metrics of the agent", about, &body));
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_with_a_type() {
        let page = metrics(&report());
        let mut types = Vec::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                types.push(rest.split(' ').next().expect("a name").to_owned());
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(types.iter().any(|known| name.starts_with(known.as_str())), "{line}");
            }
        }
        for line in [
            "portico_synced 1",
            "portico_applied_total 3",
            "portico_relay_connections 0",
            "portico_build_info{version=\"1.2.3\"} 1",
            "portico_portals 4",
            "portico_views_selected 1",
            "portico_attachments_unserved 5",
            "portico_portals_refused{reason=\"service-portals\"} 3",
            "portico_memory_limit_bytes +Inf",
            "portico_dns_queries_total{outcome=\"nxdomain\"} 0",
            "portico_dns_pods_unserved{reason=\"mesh\"} 0",
            "portico_dns_upstream_lookup_seconds_total 0",
            "portico_apply_duration_seconds_bucket{le=\"0.001\"} 0",
            "portico_apply_duration_seconds_bucket{le=\"0.005\"} 1",
            "portico_apply_duration_seconds_count 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}

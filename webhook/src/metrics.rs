//! The metrics page, in version 0.0.4 of Prometheus's text format.

use std::collections::BTreeMap;

use daemon::MetricsPage;

use crate::counters::{BOUNDS_S, Counts};

/// The values of the page.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) is_ready: bool,
    pub(crate) is_synced: bool,
    pub(crate) has_outage: bool,
    pub(crate) objects_rejected: usize,
    pub(crate) services: usize,
    pub(crate) connections: usize,
    /// The memory of requests and responses.
    pub(crate) in_flight_bytes: usize,
    /// The expiry of the certificate, in seconds since 1970.
    pub(crate) certificate_expiry_s: Option<i64>,
    pub(crate) counts: Counts,
}

/// Renders the page.
pub(crate) fn metrics(report: &Report) -> String {
    let Report { is_ready, is_synced, has_outage, objects_rejected, .. } = *report;
    let Report { services, connections, in_flight_bytes, certificate_expiry_s, .. } = *report;
    let mut page = MetricsPage::new("portico_webhook_", env!("CARGO_PKG_VERSION"));
    let flag = |is_set: bool| f64::from(u8::from(is_set));
    page.gauge("ready", "1 if this replica should receive requests", flag(is_ready));
    page.gauge("synced", "1 after the initial sync of services", flag(is_synced));
    page.gauge("source_outage", "1 while the source of services is unavailable", flag(has_outage));
    let rejected = objects_rejected as f64;
    page.gauge("objects_rejected", "objects that are invalid or exceed a limit", rejected);
    page.gauge("services", "known services", services as f64);
    page.gauge("connections", "open connections of clients", connections as f64);
    page.gauge("in_flight_bytes", "bytes of requests and responses in memory", in_flight_bytes as f64);
    if let Some(expiry_s) = certificate_expiry_s {
        let help = "expiry of the serving certificate, in seconds since 1970";
        page.gauge("certificate_expiry_timestamp_seconds", help, expiry_s as f64);
    }
    counts(&mut page, &report.counts);
    page.into_text()
}

/// Numbers of events since the start.
fn counts(page: &mut MetricsPage, counts: &Counts) {
    let mut counters = |name: &str, help: &str, label: &str, counts: &BTreeMap<&str, u64>| {
        page.counters(name, help, label, counts.iter().map(|(value, count)| (value, *count)));
    };
    counters("requests_total", "requests by outcome", "outcome", &counts.requests);
    let help = "connections closed because of an error or a limit, by reason";
    counters("connections_closed_total", help, "reason", &counts.connections_closed);
    counters("config_map_operations_total", "operations on ConfigMaps", "operation", &counts.config_maps);
    let help = "ConfigMaps that were not created, by reason";
    counters("config_maps_refused_total", help, "reason", &counts.config_maps_refused);
    counters("events_total", "Events by result", "result", &counts.events);
    page.counter("warnings_total", "warnings to clients that create pods", counts.warnings);
    page.counter("patch_bytes_total", "bytes of responses with a patch", counts.patch_bytes);
    let durations = &counts.request_duration_seconds;
    page.histogram("request_duration_seconds", "duration of requests", &BOUNDS_S, durations);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::counters::Counters;

    #[test]
    fn reference_of_webhook_metrics_matches_the_page() {
        let counters = Counters::default();
        counters.request("injected", Duration::from_millis(2));
        counters.closed("not_tls");
        counters.config_map("created");
        counters.refused("count");
        counters.event("written");
        let report =
            Report { certificate_expiry_s: Some(0), counts: counters.snapshot(), ..Report::default() };
        let body = xtask::reference::metrics(&metrics(&report));
        let about = "What `portico-webhook` serves at `/metrics` (`--admin`). What to alert on: \
                     [operations](../operations.md#metrics).";
        expect_test::expect_file!["../../docs/reference/webhook-metrics.md"]
            .assert_eq(&xtask::reference::page("Metrics of the webhook", about, &body));
    }

    #[test]
    fn page_contains_the_counts() {
        let counters = Counters::default();
        counters.request("injected", Duration::from_millis(2));
        counters.closed("not_tls");
        let counts = counters.snapshot();
        let page = metrics(&Report { is_ready: true, services: 7, counts, ..Report::default() });
        for line in [
            "portico_webhook_ready 1",
            "portico_webhook_services 7",
            "portico_webhook_requests_total{outcome=\"injected\"} 1",
            "portico_webhook_connections_closed_total{reason=\"not_tls\"} 1",
            "portico_webhook_request_duration_seconds_bucket{le=\"0.001\"} 0",
            "portico_webhook_request_duration_seconds_bucket{le=\"0.003\"} 1",
            "portico_webhook_request_duration_seconds_bucket{le=\"+Inf\"} 1",
            "portico_webhook_request_duration_seconds_count 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
        assert!(!page.contains("certificate_expiry"));
    }
}

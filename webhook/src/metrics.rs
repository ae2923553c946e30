//! The metrics page, in version 0.0.4 of Prometheus's text format.
//!
//! What must not go in here: counting.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use crate::tally::{BOUNDS_S, Tally};

/// What the page shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) is_ready: bool,
    pub(crate) is_synced: bool,
    pub(crate) has_trouble: bool,
    pub(crate) objects_refused: usize,
    pub(crate) services: usize,
    pub(crate) connections: usize,
    /// What requests and answers hold.
    pub(crate) held_bytes: usize,
    /// When the certificate ends, in seconds since 1970.
    pub(crate) certificate_ends_s: Option<i64>,
    pub(crate) tally: Tally,
}

/// The page.
pub(crate) fn metrics(report: &Report) -> String {
    let Report { is_ready, is_synced, has_trouble, objects_refused, .. } = report;
    let Report { services, connections, held_bytes, certificate_ends_s, tally, .. } = report;
    let mut page = String::new();
    let mut gauge = |name: &str, help: &str, value: &dyn Display| {
        metric(&mut page, "gauge", name, help, &[(String::new(), value.to_string())]);
    };
    gauge("ready", "1 where requests are to be sent here", &u8::from(*is_ready));
    gauge("synced", "1 where services are known", &u8::from(*is_synced));
    gauge("source_trouble", "1 while the source of services cannot be read", &u8::from(*has_trouble));
    gauge("objects_refused", "objects that cannot be used: malformed, or over a limit", objects_refused);
    gauge("services", "services that are known", services);
    gauge("connections", "connections of clients", connections);
    gauge("held_bytes", "bytes of requests that are arriving and answers that are being sent", held_bytes);
    if let Some(ends_s) = certificate_ends_s {
        gauge("certificate_ends_seconds", "when the certificate ends, in seconds since 1970", ends_s);
    }
    let mut counter = |name: &str, help: &str, label: &str, counts: &BTreeMap<&str, u64>| {
        let values: Vec<_> = counts
            .iter()
            .map(|(value, count)| (format!("{{{label}=\"{value}\"}}"), count.to_string()))
            .collect();
        metric(&mut page, "counter", name, help, &values);
    };
    counter("requests_total", "requests by how they ended", "outcome", &tally.requests);
    counter("closed_total", "connections closed before they were of use", "reason", &tally.closed);
    counter("config_maps_total", "what was done to ConfigMaps", "what", &tally.config_maps);
    counter("config_maps_refused_total", "ConfigMaps that were not made, by why", "reason", &tally.refused);
    counter("events_total", "what became of Events", "what", &tally.events);
    let mut total = |name: &str, help: &str, value: u64| {
        metric(&mut page, "counter", name, help, &[(String::new(), value.to_string())]);
    };
    total("warnings_total", "warnings given", tally.warnings);
    total("patch_bytes_total", "bytes of patches", tally.patch_bytes);
    let bounds = BOUNDS_S.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    let counts = tally.seconds.iter().chain([&tally.count]);
    let buckets = bounds.zip(counts);
    let mut values: Vec<_> =
        buckets.map(|(bound, count)| (format!("_bucket{{le=\"{bound}\"}}"), count.to_string())).collect();
    values.push(("_sum".to_owned(), tally.seconds_sum.to_string()));
    values.push(("_count".to_owned(), tally.count.to_string()));
    metric(&mut page, "histogram", "request_seconds", "from a request to its answer", &values);
    page
}

/// One metric; each value has the end of its name, labels included.
fn metric(page: &mut String, kind: &str, name: &str, help: &str, values: &[(String, String)]) {
    let _ = writeln!(page, "# HELP portico_webhook_{name} {help}\n# TYPE portico_webhook_{name} {kind}");
    for (end, value) in values {
        let _ = writeln!(page, "portico_webhook_{name}{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::Tallied;

    #[test]
    fn the_reference_of_the_webhooks_metrics_is_its_page() {
        let tallied = Tallied::default();
        tallied.request("injected", Duration::from_millis(2));
        tallied.closed("not_tls");
        tallied.config_map("made");
        tallied.refused("count");
        tallied.event("written");
        let report = Report { certificate_ends_s: Some(0), tally: tallied.tally(), ..Report::default() };
        let body = xtask::reference::metrics(&metrics(&report));
        let about = "What `portico-webhook` serves at `/metrics` (`--admin`). What to alert on: \
                     [operations](../operations.md#metrics).";
        expect_test::expect_file!["../../docs/reference/webhook-metrics.md"]
            .assert_eq(&xtask::reference::page("Metrics of the webhook", about, &body));
    }

    #[test]
    fn the_page_says_what_has_happened() {
        let tallied = Tallied::default();
        tallied.request("injected", Duration::from_millis(2));
        tallied.closed("not_tls");
        let tally = tallied.tally();
        let page = metrics(&Report { is_ready: true, services: 7, tally, ..Report::default() });
        for line in [
            "portico_webhook_ready 1",
            "portico_webhook_services 7",
            "portico_webhook_requests_total{outcome=\"injected\"} 1",
            "portico_webhook_closed_total{reason=\"not_tls\"} 1",
            "portico_webhook_request_seconds_bucket{le=\"0.001\"} 0",
            "portico_webhook_request_seconds_bucket{le=\"0.003\"} 1",
            "portico_webhook_request_seconds_bucket{le=\"+Inf\"} 1",
            "portico_webhook_request_seconds_count 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("certificate_ends"));
    }
}

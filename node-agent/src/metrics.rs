//! The report as Prometheus reads it: version 0.0.4 of the text format.
//!
//! Few metrics, each with a question that an operator asks. What must not go in here: how they are fetched.

use std::fmt::Write;

use agent_ipc::PORTALS_ALL;
use relay::{RefusalCounts, RelayReport, TrafficTotals};

use crate::report::{Histogram, MemoryReport, ProgrammedPortals, Report};

/// The metrics page.
pub(crate) fn metrics(report: &Report) -> String {
    let mut page = Page(String::new());
    let counts = &report.counts;
    let behind = report.attachments.iter().filter(|attachment| attachment.lag_ms > 0);
    let failing = report.attachments.iter().filter(|attachment| attachment.error.is_some());
    let lag_s =
        report.attachments.iter().map(|attachment| attachment.lag_ms).max().unwrap_or(0) as f64 / 1_000.0;
    page.gauge("synced", "1 where services and endpoints are known", f64::from(u8::from(report.synced)));
    let has_trouble = f64::from(u8::from(report.trouble.is_some()));
    page.gauge("source_trouble", "1 while the source of services cannot be read", has_trouble);
    page.gauge(
        "objects_refused",
        "objects that cannot be used: malformed, or over a limit",
        report.objects_refused as f64,
    );
    page.gauge("services", "services that are known", report.services as f64);
    page.gauge("attachments", "attachments that are kept right", report.attachments.len() as f64);
    page.gauge(
        "attachments_behind",
        "attachments that do not hold the last change yet",
        behind.count() as f64,
    );
    page.gauge("attachments_failing", "attachments whose last job failed", failing.count() as f64);
    page.gauge(
        "records_unwritten",
        "records of attachments that could not be written yet, and are tried again",
        report.records_unwritten as f64,
    );
    page.gauge("lag_seconds", "how long the slowest attachment has been behind", lag_s);
    services_in_tables(&mut page, report);
    page.counter("applied_total", "transactions that the kernel took", counts.applied);
    page.counter("apply_failed_total", "jobs in network namespaces that failed", counts.failed);
    page.counter("audited_total", "looks into network namespaces", counts.audited);
    page.counter("repaired_total", "network namespaces found damaged and programmed anew", counts.repaired);
    let in_backoff = report.attachments.iter().filter(|attachment| attachment.audit_backoff_ms > 0);
    page.gauge(
        "attachments_audit_backoff",
        "attachments that audits leave out for a while, since they were found damaged again and again",
        in_backoff.count() as f64,
    );
    let on_demand =
        report.attachments.iter().filter(|attachment| attachment.portals == ProgrammedPortals::OnDemand);
    page.gauge(
        "attachments_on_demand",
        "attachments that get the portals they use",
        on_demand.count() as f64,
    );
    page.counter(
        "portals_taken_in_total",
        "addresses whose portals were programmed on demand",
        counts.taken_in,
    );
    page.counter(
        "portals_let_go_total",
        "addresses whose portals went again, as nobody used them",
        counts.let_go,
    );
    page.counter("attached_total", "attachments since the start, adopted ones included", counts.attached);
    page.counter("detached_total", "attachments that ended", counts.detached);
    page.counter("source_troubles_total", "outages of the source of services", counts.troubles);
    page.gauge(
        "dial_from_node_ignored",
        "services whose annotation portico.dev/dial is ignored: --dial-from-node does not list their namespace",
        counts.dial_ignored as f64,
    );
    relayed(&mut page, &report.relay);
    page.histogram("apply_seconds", "from a change to the kernel's yes", &counts.apply_seconds);
    page.0
}

/// What services put into tables. Other views are named by pods, so they are counted and not named.
fn services_in_tables(page: &mut Page, report: &Report) {
    page.help("portals", "gauge", "portals of the view of all services");
    if let Some(all) = report.views.get(PORTALS_ALL) {
        let _ = writeln!(page.0, "portico_portals{{view=\"{PORTALS_ALL}\"}} {}", all.portals);
    }
    let others = report.views.keys().filter(|view| *view != PORTALS_ALL).count();
    page.gauge("views_selected", "views other than that of all services", others as f64);
    page.help("portals_refused", "gauge", "portals that services ask for in vain, by reason");
    for (reason, count) in &report.refused {
        let _ = writeln!(page.0, "portico_portals_refused{{reason=\"{reason}\"}} {count}");
    }
    let MemoryReport { limit, tables_max, tables } = report.memory;
    let bytes = |bytes: Option<u64>| bytes.map_or(f64::INFINITY, |bytes| bytes as f64);
    page.gauge("memory_limit_bytes", "the memory limit of the agent, kernel memory included", bytes(limit));
    page.gauge(
        "memory_tables_max_bytes",
        "how much of that the tables of all pods may take",
        bytes(tables_max),
    );
    page.gauge("memory_tables_bytes", "what the tables of all pods are modelled to take", tables as f64);
}

/// One sum for each question: what goes on in one pod is for `portico top`.
fn relayed(page: &mut Page, relay: &RelayReport) {
    let portals = || relay.namespaces.iter().flat_map(|place| &place.portals);
    let backends = portals().flat_map(|portal| &portal.backends);
    let ejected = backends.filter(|backend| backend.is_ejected).count();
    page.gauge(
        "relay_connections",
        "connections and flows that are relayed at the moment",
        relay.connections as f64,
    );
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
    page.counter(
        "relay_retries_total",
        "attempts to connect to a further backend after one had failed",
        retries,
    );
    page.counter("relay_failed_total", "connections that found no backend", failed);
    page.help(
        "relay_over_limit_total",
        "counter",
        "connections and flows refused because of a limit, by limit",
    );
    let RefusalCounts { node, pod, sockets } = relay.refused;
    for (limit, count) in [("node", node), ("pod", pod), ("sockets", sockets)] {
        let _ = writeln!(page.0, "portico_relay_over_limit_total{{limit=\"{limit}\"}} {count}");
    }
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

struct Page(String);

impl Page {
    fn help(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP portico_{name} {help}\n# TYPE portico_{name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.help(name, "gauge", help);
        let value = if value.is_infinite() { "+Inf".to_owned() } else { value.to_string() };
        let _ = writeln!(self.0, "portico_{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.help(name, "counter", help);
        let _ = writeln!(self.0, "portico_{name} {value}");
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.help(name, "histogram", help);
        for (index, bound) in Histogram::BOUNDS_S.iter().enumerate() {
            let count = histogram.buckets.get(index).copied().unwrap_or(0);
            let _ = writeln!(self.0, "portico_{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let Histogram { count, sum, .. } = histogram;
        let _ = writeln!(self.0, "portico_{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(self.0, "portico_{name}_sum {sum}\nportico_{name}_count {count}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::report::{Counts, ViewReport};

    fn report() -> Report {
        let mut counts = Counts { applied: 3, ..Counts::default() };
        counts.apply_seconds.observe(0.002);
        Report {
            version: String::new(),
            node: String::new(),
            synced: true,
            trouble: None,
            objects_refused: 0,
            services: 2,
            views: ["all", "default/a"]
                .map(|view| (view.to_owned(), ViewReport { revision: 1, portals: 4 }))
                .into(),
            refused: BTreeMap::from([("service-portals".to_owned(), 3)]),
            memory: MemoryReport { limit: None, tables_max: None, tables: 7 },
            attachments: Vec::new(),
            records_unwritten: 0,
            counts,
            relay: Default::default(),
            audit: Default::default(),
            counters: false,
            hits: None,
        }
    }

    #[test]
    fn the_reference_of_the_agents_metrics_is_its_page() {
        let body = xtask::reference::metrics(&metrics(&report()));
        let about = "What `portico agent` serves at `/metrics` (`--metrics`). An attachment is one interface of one \
                     pod; a view is a set of services that pods see. What to alert on: \
                     [operations](../operations.md#metrics).";
        expect_test::expect_file!["../../docs/reference/agent-metrics.md"]
            .assert_eq(&xtask::reference::page("Metrics of the agent", about, &body));
    }

    #[test]
    fn each_line_is_a_comment_or_a_sample_and_each_sample_has_its_type() {
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
            "portico_portals{view=\"all\"} 4",
            "portico_views_selected 1",
            "portico_portals_refused{reason=\"service-portals\"} 3",
            "portico_memory_limit_bytes +Inf",
            "portico_apply_seconds_bucket{le=\"0.001\"} 0",
            "portico_apply_seconds_bucket{le=\"0.005\"} 1",
            "portico_apply_seconds_count 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }
}

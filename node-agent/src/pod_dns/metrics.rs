//! The metrics of DNS in pods: sums over all pods, because a label per pod would be unbounded.

use std::time::Duration;

use daemon::MetricsPage;
use dns::{ClientCounters, ExchangeCounters};

use crate::report::{DnsStatus, DnsUnservedReason};

/// Adds the metrics of DNS in pods to the page.
pub(crate) fn add_dns_metrics(page: &mut MetricsPage, status: &DnsStatus) {
    pods(page, status);
    queries(page, &status.server.totals);
    let server = &status.server;
    let gauges = [
        ("dns_connections", "TCP connections of DNS clients", server.connections),
        ("dns_pending_queries", "DNS queries that wait for upstreams", server.pending),
        ("dns_upstream_exchanges", "DNS exchanges with upstreams in progress", server.exchanges),
        ("dns_cache_entries", "responses in the DNS cache", server.cache_entries),
        ("dns_cache_bytes", "memory of the responses in the DNS cache", server.cache_bytes),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, value as f64);
    }
    messages(page, &server.exchange_counters);
}

/// Pods by state.
fn pods(page: &mut MetricsPage, status: &DnsStatus) {
    let DnsStatus { server, unserved, failed } = status;
    let armed = server.pods.iter().filter(|pod| pod.armed).count();
    let with_error = server.pods.iter().filter(|pod| pod.error.is_some()).count();
    page.gauge("dns_pods_armed", "pods whose DNS queries reach the agent", armed as f64);
    page.gauge(
        "dns_pods_failing",
        "pods whose DNS queries the agent is to answer, and cannot because of an error",
        (with_error + failed.len()) as f64,
    );
    let count = |reason| unserved.iter().filter(|pod| pod.reason == reason).count() as u64;
    page.gauges(
        "dns_pods_unserved",
        "pods that are left to the cluster's DNS servers, by reason",
        "reason",
        DnsUnservedReason::ALL.map(|reason| (reason.name(), count(reason))),
    );
}

/// Queries of all pods, and what they cost upstream.
fn queries(page: &mut MetricsPage, totals: &ClientCounters) {
    let ClientCounters { noerror, nodata, nxdomain, servfail, refused, other, .. } = *totals;
    let outcomes = [
        ("noerror", noerror),
        ("nodata", nodata),
        ("nxdomain", nxdomain),
        ("servfail", servfail),
        ("refused", refused),
        ("other", other),
    ];
    page.counters("dns_queries_total", "DNS queries of pods, by outcome", "outcome", outcomes);
    let help = "DNS queries that the cache answered, including stale responses";
    page.counter("dns_cache_hits_total", help, totals.cache_hits);
    let help = "DNS queries answered with an expired response, because all upstreams failed";
    page.counter("dns_stale_total", help, totals.stale);
    let help = "DNS queries for which the walk of the search list was collapsed";
    page.counter("dns_search_collapsed_total", help, totals.collapsed);
    let help = "DNS queries that a limit turned into SERVFAIL";
    page.counter("dns_limited_total", help, totals.limited);
    page.counter("dns_upstream_lookups_total", "DNS lookups at upstreams", totals.upstream_lookups);
    let time = Duration::from_micros(totals.upstream_time_us);
    page.counter_seconds("dns_upstream_lookup_seconds_total", "time of DNS lookups at upstreams", time);
}

/// Messages that were exchanged with upstreams.
fn messages(page: &mut MetricsPage, counters: &ExchangeCounters) {
    let ExchangeCounters { sent, mismatched, malformed, late, hedged, timeouts, errors, tcp_retries } =
        *counters;
    page.counter("dns_upstream_queries_total", "DNS queries that were sent to upstreams", sent);
    page.counters(
        "dns_upstream_ignored_total",
        "messages of DNS upstreams that were ignored, by reason",
        "reason",
        [("mismatched", mismatched), ("malformed", malformed), ("late", late)],
    );
    page.counters(
        "dns_upstream_retries_total",
        "DNS queries to upstreams that were repeated or failed, by reason",
        "reason",
        [("slow", hedged), ("timeout", timeouts), ("error", errors), ("truncated", tcp_retries)],
    );
}

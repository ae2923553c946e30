//! `MetricsPage`: metrics in version 0.0.4 of the text format of Prometheus, and `Histogram`.

use std::fmt::{Display, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::process_metrics::ProcessMetrics;

/// The text of a page. Names are given without the prefix of the program.
#[derive(Debug)]
pub struct MetricsPage {
    prefix: &'static str,
    text: String,
}

impl MetricsPage {
    /// Returns a page with the version of the program and the metrics of its process.
    #[must_use]
    pub fn new(prefix: &'static str, version: &str) -> Self {
        let mut page = Self { prefix, text: String::new() };
        page.help("portico_build_info", "gauge", "1, with the version of the program");
        page.sample("portico_build_info", &label("version", version), 1);
        page.process(&ProcessMetrics::read());
        page
    }

    /// Returns the text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Appends a gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let name = self.name(name);
        self.gauge_of(&name, help, value);
    }

    /// Appends a counter.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        let name = self.name(name);
        self.help(&name, "counter", help);
        self.sample(&name, "", value);
    }

    /// Appends a counter of time, in seconds.
    pub fn counter_seconds(&mut self, name: &str, help: &str, time: Duration) {
        let name = self.name(name);
        self.help(&name, "counter", help);
        self.sample(&name, "", time.as_secs_f64());
    }

    /// Appends gauges that differ in a label, whose values are names of the program.
    pub fn gauges<L: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        self.labelled("gauge", name, help, label, values);
    }

    /// Appends counters that differ in a label, whose values are names of the program.
    pub fn counters<L: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        self.labelled("counter", name, help, label, values);
    }

    /// Appends a histogram with these upper bounds of its buckets.
    pub fn histogram(&mut self, name: &str, help: &str, bounds: &[f64], histogram: &Histogram) {
        let name = self.name(name);
        self.help(&name, "histogram", help);
        let Histogram { buckets, count, sum } = histogram;
        let bucket = format!("{name}_bucket");
        for (index, bound) in bounds.iter().enumerate() {
            self.sample(&bucket, &label("le", bound), buckets.get(index).copied().unwrap_or(0));
        }
        self.sample(&bucket, &label("le", "+Inf"), count);
        self.sample(&format!("{name}_sum"), "", sum);
        self.sample(&format!("{name}_count"), "", count);
    }

    /// Appends the standard metrics of a process. What could not be read is omitted.
    fn process(&mut self, process: &ProcessMetrics) {
        let ProcessMetrics { cpu_seconds, resident_bytes, start_time_s, open_fds, max_fds } = *process;
        if let Some(seconds) = cpu_seconds {
            let (name, help) = ("process_cpu_seconds_total", "CPU time of the process, in seconds");
            self.help(name, "counter", help);
            self.sample(name, "", seconds);
        }
        for (name, help, value) in [
            ("process_resident_memory_bytes", "resident memory of the process", resident_bytes),
            ("process_start_time_seconds", "start of the process, in seconds since 1970", start_time_s),
            ("process_open_fds", "open file descriptors of the process", open_fds),
            ("process_max_fds", "limit of open file descriptors of the process", max_fds),
        ] {
            if let Some(value) = value {
                self.gauge_of(name, help, value);
            }
        }
    }

    fn labelled<L: Display>(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        label_name: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        let name = self.name(name);
        self.help(&name, kind, help);
        for (value_of_label, value) in values {
            self.sample(&name, &label(label_name, value_of_label), value);
        }
    }

    fn name(&self, name: &str) -> String {
        [self.prefix, name].concat()
    }

    fn gauge_of(&mut self, name: &str, help: &str, value: f64) {
        self.help(name, "gauge", help);
        if value.is_infinite() {
            self.sample(name, "", "+Inf");
        } else {
            self.sample(name, "", value);
        }
    }

    fn help(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }
}

fn label(name: &str, value: impl Display) -> String {
    format!("{{{name}=\"{value}\"}}")
}

/// A cumulative histogram. Its owner passes the same upper bounds of the buckets to each function.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// For each bound, the number of observations up to it.
    pub buckets: Vec<u64>,
    /// The number of observations.
    pub count: u64,
    /// The sum of the observations.
    pub sum: f64,
}

impl Histogram {
    /// Adds an observation.
    pub fn observe(&mut self, bounds: &[f64], value: f64) {
        self.buckets.resize(bounds.len(), 0);
        for (bucket, bound) in self.buckets.iter_mut().zip(bounds) {
            *bucket += u64::from(value <= *bound);
        }
        self.count += 1;
        self.sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_follow_their_help_and_type() {
        let mut page = MetricsPage { prefix: "portico_", text: String::new() };
        page.gauge("limit_bytes", "a limit", f64::INFINITY);
        page.counters("refused_total", "refused objects, by reason", "reason", [("size", 2), ("count", 0)]);
        let bounds = [0.5, 1.0];
        let mut histogram = Histogram::default();
        histogram.observe(&bounds, 0.75);
        histogram.observe(&bounds, 2.0);
        page.histogram("seconds", "durations", &bounds, &histogram);
        let expected = "\
# HELP portico_limit_bytes a limit
# TYPE portico_limit_bytes gauge
portico_limit_bytes +Inf
# HELP portico_refused_total refused objects, by reason
# TYPE portico_refused_total counter
portico_refused_total{reason=\"size\"} 2
portico_refused_total{reason=\"count\"} 0
# HELP portico_seconds durations
# TYPE portico_seconds histogram
portico_seconds_bucket{le=\"0.5\"} 0
portico_seconds_bucket{le=\"1\"} 1
portico_seconds_bucket{le=\"+Inf\"} 2
portico_seconds_sum 2.75
portico_seconds_count 2
";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn page_begins_with_the_version_and_all_metrics_of_the_process() {
        let page = MetricsPage::new("portico_", "1.2.3").into_text();
        assert!(page.contains("\nportico_build_info{version=\"1.2.3\"} 1\n"), "{page}");
        for name in
            ["cpu_seconds_total", "resident_memory_bytes", "start_time_seconds", "open_fds", "max_fds"]
        {
            let sample = format!("process_{name} ");
            let value = page.lines().find_map(|line| line.strip_prefix(&sample)).expect(name);
            let value: f64 = value.parse().expect("a number");
            assert!(value > 0.0 || name == "cpu_seconds_total", "{name} {value}");
        }
    }
}

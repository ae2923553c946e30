//! Tests of reading manifests: text in, objects and messages out.
//!
//! Single functions are tested through manifests as well, so that the messages are tested with them.

mod addresses;
mod endpoints;
mod fuzz;
mod input;
mod names;
mod pods;
mod services;
mod sources;

use crate::{Objects, ReadOptions, Report, Severity, read_str};
use proxy_core::endpoint::EndpointSlice;
use proxy_core::service::{Service, ServiceKey};

/// Reads a text as the file `a.yaml`.
fn read_text(text: &str) -> (Objects, Report) {
    read_str("a.yaml", text, &ReadOptions::default())
}

/// Reads a text without errors and warnings.
fn read_valid(text: &str) -> Objects {
    let (objects, report) = read_text(text);
    assert_eq!(lines(&report), Vec::<String>::new(), "{text}");
    objects
}

/// Returns the messages as users see them, warnings with a prefix.
fn lines(report: &Report) -> Vec<String> {
    let problems = report.problems.iter();
    problems
        .map(|problem| match problem.severity {
            Severity::Error => problem.to_string(),
            Severity::Warning => format!("warning: {problem}"),
        })
        .collect()
}

/// Returns the messages for a text, without location and object.
fn messages(text: &str) -> Vec<String> {
    let (_, report) = read_text(text);
    report.problems.into_iter().map(|problem| problem.message).collect()
}

/// Returns a service `default/db` with these lines, indented by two, as its `spec`.
fn with_spec(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: db}}\nspec:\n{spec}\n")
}

/// Reads the service with these lines as its `spec`.
fn service_of(spec: &str) -> Service {
    let objects = read_valid(&with_spec(spec));
    objects.services[&key("db")].clone()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

/// Returns the endpoints of a slice as `port-name address:port`, with a suffix for those that are not ready.
fn backends(slice: &EndpointSlice) -> Vec<String> {
    let mut all = Vec::new();
    for endpoint in &slice.endpoints {
        for port in &slice.ports {
            let suffix = if endpoint.conditions.ready { "" } else { " not ready" };
            all.push(format!("{} {}:{}{suffix}", port.name, endpoint.address, port.port));
        }
    }
    all
}

/// Lines of a report are shorter, because quoted text is truncated.
const LINE_LEN_LIMIT: usize = 1000;

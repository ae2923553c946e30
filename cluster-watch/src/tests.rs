//! Tests of reading as a whole: text in, objects and messages out.
//!
//! What one function promises is tested through the text that a user would write, so that the messages are
//! tested with it.

mod addresses;
mod endpoints;
pub(crate) mod folder;
mod fuzz;
mod input;
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

/// Reads a text in which nothing is wrong.
fn clean(text: &str) -> Objects {
    let (objects, report) = read_text(text);
    assert_eq!(lines(&report), Vec::<String>::new(), "{text}");
    objects
}

/// The messages as a user sees them, a warning marked as one.
fn lines(report: &Report) -> Vec<String> {
    let problems = report.problems.iter();
    problems
        .map(|problem| match problem.severity {
            Severity::Error => problem.to_string(),
            Severity::Warning => format!("warning: {problem}"),
        })
        .collect()
}

/// The messages of a text, without place and object.
fn messages(text: &str) -> Vec<String> {
    let (_, report) = read_text(text);
    report.problems.into_iter().map(|problem| problem.message).collect()
}

/// A service `default/db` with these lines as its `spec`, each indented by two.
fn with_spec(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: db}}\nspec:\n{spec}\n")
}

/// The service that these lines make.
fn service_of(spec: &str) -> Service {
    let objects = clean(&with_spec(spec));
    objects.services[&key("db")].clone()
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

/// The endpoints of a slice as `address:port`, with a mark for those that are not ready.
fn backends(slice: &EndpointSlice) -> Vec<String> {
    let mut all = Vec::new();
    for endpoint in &slice.endpoints {
        for port in &slice.ports {
            let mark = if endpoint.conditions.ready { "" } else { " not ready" };
            all.push(format!("{} {}:{}{mark}", port.name, endpoint.address, port.port));
        }
    }
    all
}

/// No line of a report is longer: what it quotes is cut.
const ENDLESS_LINE_LEN: usize = 1000;

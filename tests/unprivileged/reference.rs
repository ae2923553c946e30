//! The reference pages that do not belong to one program: annotations, keys of the plugin, values of the chart.
//!
//! A test fails if a page differs from the code, and `cargo xtask goldens reference` updates it. The tests of each
//! program check its flags and metrics. The code describes each annotation and key.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use agent_ipc::{ConfigKey, DNS_CAPABILITY, PLUGIN_KEYS, PLUGIN_TYPE, POD_ANNOTATIONS};
use expect_test::expect_file;
use proxy_core::annotation::{ALL, Annotation, AppliesTo};
use xtask::reference::{code, page, table, values};

fn annotations(applies_to: AppliesTo) -> String {
    let annotations = ALL.iter().filter(|annotation| annotation.applies_to == applies_to);
    let rows: Vec<Vec<String>> = annotations
        .map(|Annotation { key, values, default, description, reader, .. }| match applies_to {
            AppliesTo::Written => vec![code(key), (*values).to_owned(), (*description).to_owned()],
            _ => [
                code(key),
                (*values).to_owned(),
                (*default).to_owned(),
                (*description).to_owned(),
                (*reader).to_owned(),
            ]
            .to_vec(),
        })
        .collect();
    match applies_to {
        AppliesTo::Written => table(&["annotation", "value", "description"], &rows),
        _ => table(&["annotation", "value", "default", "effect", "read by"], &rows),
    }
}

#[test]
fn annotations_page_equals_their_table() {
    let about = "Settings of Portico on services, pods and namespaces. An invalid value is ignored, unless stated otherwise. For \
                 a pod, `kubectl apply` prints a warning; for a service, `portico portals -f FILE` does, because the API \
                 server does not validate annotations.";
    let chapters = [
        (
            "On a service",
            AppliesTo::Service,
            "They apply immediately, also to running pods, except `portico.dev/export`, which applies to new pods.",
        ),
        ("On a pod, for its portals", AppliesTo::Pod, "It applies for the lifetime of the pod."),
        (
            "On a pod, or on its namespace",
            AppliesTo::PodOrNamespace,
            "The namespace has the defaults of its pods. All except `portico.dev/dns` are for the pod's variables, and are \
             read when the pod is created.",
        ),
        (
            "On a node",
            AppliesTo::Node,
            "They apply immediately. For their use, see [migrating](../migrating.md).",
        ),
        ("Written by Portico", AppliesTo::Written, "Do not edit these."),
    ];
    let chapter = |(title, applies_to, when): (&str, AppliesTo, &str)| {
        format!("## {title}\n\n{when}\n\n{}\n", annotations(applies_to))
    };
    let body: String = chapters.map(chapter).concat();
    expect_file!["../../docs/reference/annotations.md"].assert_eq(&page("Annotations", about, &body));
}

#[test]
fn plugin_page_equals_its_keys() {
    let about = format!(
        "Keys of the entry of type `{PLUGIN_TYPE}` in a CNI configuration, in addition to those of every plugin; see [its \
         position in the chain](../node.md#the-plugin-in-the-chain). The runtime passes the annotations of a pod by the \
         capability `{POD_ANNOTATIONS}`, and its DNS servers, search domains and options by the capability \
         `{DNS_CAPABILITY}`. The plugin has no flags; the CNI specification defines its input. `portico \
         install` writes the entry."
    );
    let row = |key: &ConfigKey| vec![code(key.name), code(key.default), key.description.to_owned()];
    let rows: Vec<Vec<String>> = PLUGIN_KEYS.iter().map(row).collect();
    expect_file!["../../docs/reference/portico-cni.md"].assert_eq(&page(
        PLUGIN_TYPE,
        &about,
        &table(&["key", "default", "description"], &rows),
    ));
}

#[test]
fn chart_page_equals_its_values() {
    let about = "Values of the Helm chart `deploy/helm/portico`. values.schema.json rejects all others. A row without a description \
                 belongs to the one above it.";
    let body = values(include_str!("../../deploy/helm/portico/values.yaml"));
    expect_file!["../../docs/reference/values.md"].assert_eq(&page("Values of the chart", about, &body));
}

/// Returns the flags in inline code, such as `--portals` of `--portals all|on-demand|auto`.
fn flags(page: &str) -> BTreeSet<&str> {
    let prose = page.split("```").step_by(2);
    let code = prose.flat_map(|text| text.split('`').skip(1).step_by(2));
    code.filter_map(|words| words.split([' ', '=']).next()).filter(|word| word.starts_with("--")).collect()
}

#[test]
fn flags_in_the_documentation_are_in_the_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the root");
    let read = |page: &str| fs::read_to_string(root.join(page)).expect(page);
    let known = ["docs/reference/portico.md", "docs/reference/portico-webhook.md"].map(read);
    let known: BTreeSet<&str> = known.iter().flat_map(|page| flags(page)).collect();
    let pages = [
        "README.md",
        "docs/operations.md",
        "docs/node.md",
        "docs/relay.md",
        "docs/variables.md",
        "docs/security.md",
    ];
    let pages = pages.map(|page| (page, read(page)));
    let used: Vec<_> =
        pages.iter().flat_map(|(page, text)| flags(text).into_iter().map(move |flag| (page, flag))).collect();
    assert!(used.len() > 20, "{used:?}");
    let unknown: Vec<_> = used.iter().filter(|(_, flag)| !known.contains(flag)).collect();
    assert!(unknown.is_empty(), "unknown flags: {unknown:?}");
}

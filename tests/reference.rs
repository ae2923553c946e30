//! The reference pages that belong to no one program: annotations, the plugin's keys, the chart's values.
//!
//! A page that differs from the code fails here, and `cargo xtask goldens reference` updates it. Flags and metrics are held by tests of
//! the programs that have them. What must not go in here: what an annotation or a key does; that is the code's to say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use attachment::{Key, OURS, PLUGIN_TYPE, POD_ANNOTATIONS};
use expect_test::expect_file;
use proxy_core::annotation::{ALL, Annotation, Place};
use xtask::reference::{code, page, table, values};

fn annotations(place: Place) -> String {
    let here = ALL.iter().filter(|annotation| annotation.place == place);
    let rows: Vec<Vec<String>> = here
        .map(|Annotation { key, values, default, what, reader, .. }| match place {
            Place::Written => vec![code(key), (*values).to_owned(), (*what).to_owned()],
            _ => [
                code(key),
                (*values).to_owned(),
                (*default).to_owned(),
                (*what).to_owned(),
                (*reader).to_owned(),
            ]
            .to_vec(),
        })
        .collect();
    match place {
        Place::Written => table(&["annotation", "value", "what it says"], &rows),
        _ => table(&["annotation", "value", "default", "what it does", "read by"], &rows),
    }
}

#[test]
fn the_reference_of_annotations_is_their_table() {
    let about = "What owners of services and pods say to Portico. A value that cannot be read is ignored, where not said \
                 otherwise. For a pod the answer to `kubectl apply` says so; for a service `portico portals -f FILE` does, \
                 as the API server checks no annotations.";
    let chapters = [
        (
            "On a service",
            Place::Service,
            "They hold at once, also for pods that run; `portico.dev/export` for pods that are created afterwards.",
        ),
        ("On a pod, for its portals", Place::Pod, "It holds from the start of the pod to its end."),
        (
            "On a pod, or on its namespace, for its variables",
            Place::PodOrNamespace,
            "They are read when the pod is created. What a pod does not say, its namespace says for it.",
        ),
        ("Written by Portico", Place::Written, "Leave these alone."),
    ];
    let chapter = |(title, place, when): (&str, Place, &str)| {
        format!("## {title}\n\n{when}\n\n{}\n", annotations(place))
    };
    let body: String = chapters.map(chapter).concat();
    expect_file!["../docs/reference/annotations.md"].assert_eq(&page("Annotations", about, &body));
}

#[test]
fn the_reference_of_the_plugin_is_its_keys() {
    let about = format!(
        "Keys of the entry of type `{PLUGIN_TYPE}` in a CNI configuration, besides those of every plugin; see [where it \
         stands](../node.md#the-plugin-in-the-chain). Its pod's annotations come by the capability `{POD_ANNOTATIONS}`. It takes no \
         flags: the CNI specification says what a runtime tells it. `portico install` writes the entry."
    );
    let row = |key: &Key| vec![code(key.name), code(key.default), key.what.to_owned()];
    let rows: Vec<Vec<String>> = OURS.iter().map(row).collect();
    expect_file!["../docs/reference/portico-cni.md"].assert_eq(&page(
        PLUGIN_TYPE,
        &about,
        &table(&["key", "default", "what it says"], &rows),
    ));
}

#[test]
fn the_reference_of_the_chart_is_its_values() {
    let about = "Values of the Helm chart `deploy/helm/portico`. A value that is not here is refused, by values.schema.json. A row \
                 without words belongs to the one above it.";
    let body = values(include_str!("../deploy/helm/portico/values.yaml"));
    expect_file!["../docs/reference/values.md"].assert_eq(&page("Values of the chart", about, &body));
}

/// What is told in code, as `--portals all|on-demand|auto`: its first word, where that is a flag.
fn flags(page: &str) -> BTreeSet<&str> {
    let prose = page.split("```").step_by(2);
    let told = prose.flat_map(|text| text.split('`').skip(1).step_by(2));
    told.filter_map(|words| words.split([' ', '=']).next()).filter(|word| word.starts_with("--")).collect()
}

#[test]
fn every_flag_that_the_documentation_tells_is_in_the_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root");
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
    let told = pages.map(|page| (page, read(page)));
    let told: Vec<_> =
        told.iter().flat_map(|(page, text)| flags(text).into_iter().map(move |flag| (page, flag))).collect();
    assert!(told.len() > 20, "{told:?}");
    let strange: Vec<_> = told.iter().filter(|(_, flag)| !known.contains(flag)).collect();
    assert!(strange.is_empty(), "no flags of ours: {strange:?}");
}

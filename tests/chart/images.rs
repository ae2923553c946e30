//! Consistency of the chart and the images: the programs in the chart are in their images, and run as the same user.

use std::collections::BTreeSet;

use serde_json::Value;

use test_support::helm::{objects, one, text};

/// A stage of the Dockerfile: the files at the root, the user and the entry point.
#[derive(Debug, PartialEq)]
struct Image {
    files: BTreeSet<String>,
    user: String,
    entry: String,
}

fn image(stage: &str) -> Image {
    let file = text("deploy/images/Dockerfile");
    let start = format!("FROM both AS {stage}\n");
    let of = file.split_once(&start).expect("the stage").1.split("\nFROM ").next().expect("its text");
    let arguments = |word: &str| of.lines().filter_map(|line| line.strip_prefix(word)).collect::<Vec<_>>();
    let at_the_root = arguments("COPY ").into_iter().filter_map(|line| line.strip_suffix(" /"));
    let files = at_the_root.flat_map(str::split_whitespace).filter_map(|path| path.rsplit('/').next());
    let one = |words: Vec<&str>| {
        words.first().expect("the instruction exists").trim_matches(['[', ']', '"']).to_owned()
    };
    Image {
        files: files.map(|name| format!("/{name}")).collect(),
        user: one(arguments("USER ")),
        entry: one(arguments("ENTRYPOINT ")),
    }
}

/// The pod and the containers of an object whose image has this name.
fn containers<'a>(objects: &'a [Value], kind: &str, name: &str) -> Vec<(&'a Value, &'a Value)> {
    let pod = &one(objects, kind, "")["spec"]["template"]["spec"];
    let lists = ["containers", "initContainers"].into_iter().filter_map(|list| pod[list].as_array());
    let of = lists.flatten().filter(|container| {
        container["image"].as_str().is_some_and(|image| image.contains(&format!("/{name}:")))
    });
    of.map(|container| (pod, container)).collect()
}

#[test]
fn programs_in_the_chart_are_in_their_images_and_run_as_the_same_user() {
    let (default, cleaning) = (objects(&[]), objects(&["agent.enabled=false", "cleanup.enabled=true"]));
    let mut started = BTreeSet::new();
    for (objects, kind, stage) in [
        (&default, "DaemonSet", "agent"),
        (&default, "Deployment", "webhook"),
        (&cleaning, "DaemonSet", "agent"),
    ] {
        let image = image(stage);
        assert!(image.files.contains(&image.entry), "{image:?}");
        let containers = containers(objects, kind, &format!("portico-{stage}"));
        assert!(!containers.is_empty(), "{kind}");
        for (pod, container) in containers {
            let context = |key: &str| [&container["securityContext"][key], &pod["securityContext"][key]];
            let id =
                |key: &str| context(key).into_iter().find(|id| !id.is_null()).expect("an id").to_string();
            assert_eq!(
                image.user,
                format!("{}:{}", id("runAsUser"), id("runAsGroup")),
                "{}",
                container["name"]
            );
            let command = container["command"][0].as_str().expect("a command");
            let args = container["args"].as_array().expect("arguments").iter();
            let plugin = args.filter_map(|arg| arg.as_str()?.strip_prefix("--plugin="));
            for file in plugin.chain([command]) {
                assert!(image.files.contains(file), "{file} is not in {image:?}");
                started.insert(file.to_owned());
            }
        }
    }
    assert_eq!(started, ["/portico", "/portico-cni", "/portico-webhook"].map(str::to_owned).into());
}

#[test]
fn images_are_built_from_the_released_programs() {
    for stage in ["agent", "webhook"] {
        for file in image(stage).files {
            let program = file.trim_start_matches('/');
            assert!(xtask::PROGRAMS.iter().any(|released| released.name == program), "{file}");
        }
    }
}

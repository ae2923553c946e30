//! The effect of annotations.

use super::*;

/// Returns the variables of a pod with these annotations, as NAME=value, and its warnings.
fn variables_and_warnings(annotations: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let pod = pod_with(annotations);
    let injection = inject_into([redis(), postgres(), svc("web").ip("10.0.0.3").tcp("http", 80)], &pod);
    let env =
        patched_pod(&pod, &injection)["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = env.iter().map(|entry| format!("{}={}", text(&entry["name"]), text(&entry["value"])));
    (lines.collect(), injection.warnings)
}

#[test]
fn list_selects_only_its_services_also_of_other_namespaces() {
    let (lines, warnings) =
        variables_and_warnings(&[("services", " redis, db=team-b/postgres"), ("forms", "host-port")]);
    let expected = [
        "REDIS_SERVICE_HOST=10.0.0.11",
        "REDIS_SERVICE_PORT=6379",
        "DB_SERVICE_HOST=10.0.0.12",
        "DB_SERVICE_PORT=5432",
    ];
    assert_eq!((lines, warnings), (expected.map(str::to_owned).to_vec(), vec![]));
    assert_eq!(variables_and_warnings(&[("services", "")]), (vec![], vec![]));
}

#[test]
fn service_of_another_namespace_must_be_offered() {
    let pod = pod_with(&[("services", "db=team-b/postgres")]);
    for (export, count) in [
        (Export::Nowhere, 0),
        (Export::To(vec!["other".into()]), 0),
        (Export::To(vec!["other".into(), "default".into()]), 7),
        (Export::Everywhere, 7),
    ] {
        let injection = inject_into([postgres().export(export.clone())], &pod);
        assert_eq!(env_names(&pod, &injection).len(), count, "{export:?}");
        assert_eq!(injection.warnings.len(), usize::from(count == 0), "{:?}", injection.warnings);
    }
}

#[test]
fn forms_and_prefix_determine_the_names() {
    let named = variables_and_warnings(&[("services", "web"), ("forms", "named"), ("prefix", "MY_")]).0;
    let expected = ["MY_WEB_SERVICE_HOST=10.0.0.3", "MY_WEB_SERVICE_PORT=80", "MY_WEB_SERVICE_PORT_HTTP=80"];
    assert_eq!(named, expected);
    assert_eq!(variables_and_warnings(&[("services", "web"), ("forms", "all")]).0.len(), 8);
}

#[test]
fn first_of_two_services_with_one_name_takes_precedence_with_a_warning() {
    let (lines, warnings) = variables_and_warnings(&[
        ("services", "db=team-b/postgres, db=redis, redis"),
        ("forms", "host-port"),
    ]);
    assert_eq!(lines[0], "DB_SERVICE_HOST=10.0.0.12");
    assert_eq!(lines.len(), 4);
    assert!(
        warnings[0]
            .contains("DB_SERVICE_HOST and 1 more of service team-b/postgres takes precedence over that of"),
        "{warnings:?}"
    );
}

#[test]
fn services_that_do_not_fit_are_omitted_and_named() {
    let (lines, warnings) = variables_and_warnings(&[("max-bytes", "100"), ("forms", "host-port")]);
    assert_eq!((lines.len(), warnings.len()), (4, 0));
    let (lines, warnings) = variables_and_warnings(&[("max-bytes", "60"), ("forms", "host-port")]);
    assert!(lines.iter().all(|line| line.starts_with("REDIS_")), "{lines:?}");
    assert!(warnings[0].contains("portico.dev/max-bytes 60: left out: web"), "{warnings:?}");
    let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    assert!(bytes <= 60, "{bytes}");
}

#[test]
fn annotations_of_the_pod_override_those_of_its_namespace() {
    let of_namespace = BTreeMap::from([("portico.dev/inject".to_owned(), "false".to_owned())]);
    let count = |pod: &Value| {
        let admission = Admission { namespace_annotations: &of_namespace, ..admission_of("default", pod) };
        inject(&snapshot_of([redis()]), &InjectOptions::default(), &admission).patch.len()
    };
    assert_eq!(count(&pod_with(&[])), 0);
    assert_eq!(count(&pod_with(&[("inject", "true")])), 3);
}

#[test]
fn missing_required_service_warns_waits_or_denies() {
    let pod = |on_missing| pod_with(&[("require", "redis, queue"), ("on-missing", on_missing)]);
    let warn = pod("warn");
    let warned = inject_into([redis()], &warn);
    assert!(warned.warnings[0].contains("service queue does not exist"), "{:?}", warned.warnings);
    // The variables, the links, two annotations and the label.
    assert_eq!(warned.patch.len(), 5);
    let deny = pod("deny");
    let denied = inject_into([redis()], &deny);
    assert!(denied.denied.unwrap().contains("portico.dev/require: service queue"));
    assert_eq!(denied.patch, []);
    let pod = pod("wait");
    let waits = inject_into([redis()], &pod);
    let [map] = &waits.config_maps[..] else { panic!("{waits:?}") };
    assert_eq!((waits.containers[0].via, map.waits_for.len(), map.variables), (InjectedVia::ConfigMap, 1, 0));
    let there = [redis(), svc("queue").ip("10.0.0.4").tcp("", 1)];
    let [now] = &created_config_maps(&snapshot_of(there), "default", &patched_pod(&pod, &waits))[..] else {
        panic!("one is enough")
    };
    assert_eq!((now.name.as_str(), now.waits_for.len(), now.data.len()), (map.name.as_str(), 0, 14));
}

#[test]
fn required_service_can_be_an_alias() {
    let annotations = [("services", "db=team-b/postgres"), ("require", "db"), ("on-missing", "deny")];
    let pod = pod_with(&annotations);
    assert_eq!(inject_into([postgres()], &pod).denied, None);
    assert!(inject_into([], &pod).denied.unwrap().contains("service postgres"));
}

#[test]
fn debugging_a_pod_is_never_denied() {
    let mut pod = pod_with(&[("require", "queue"), ("on-missing", "deny")]);
    let old = pod.clone();
    pod["spec"]["ephemeralContainers"] = json!([{ "name": "look" }]);
    let admission = Admission { old_pod: Some(&old), ..admission_of("default", &pod) };
    let injection = inject(&snapshot_of([redis()]), &InjectOptions::default(), &admission);
    assert_eq!((injection.denied, injection.warnings.len(), injection.patch.len()), (None, 1, 1));
}

#[test]
fn invalid_annotation_is_reported_and_ignored() {
    let bad = [
        ("inject", "maybe"),
        ("services", "redis, A B"),
        ("services", "redis, team-b/postgres"),
        ("services", "redis, 1x=redis"),
        ("services", "redis, a/b/c"),
        ("prefix", "1X"),
        ("prefix", ""),
        ("prefix", "a=b"),
        ("forms", "some"),
        ("require", "Redis"),
        ("on-missing", "panic"),
        ("max-bytes", "0"),
        ("max-bytes", "-1"),
        ("max-bytes", "+1"),
        ("max-bytes", "99999999999999999999Mi"),
        ("forms", "\u{1}\n"),
    ];
    for (name, text) in bad {
        let (lines, warnings) = variables_and_warnings(&[(name, text)]);
        assert!(lines.contains(&"REDIS_SERVICE_HOST=10.0.0.11".to_owned()), "{name}: {text}: {lines:?}");
        assert!(warnings[0].contains(&format!("portico.dev/{name}: ")), "{name}: {text}: {warnings:?}");
        assert!(!warnings[0].contains(char::is_control));
        let strict = pod_with(&[(name, text), ("on-missing", "deny")]);
        let strict = inject_into([redis()], &strict);
        let is_itself = name == "on-missing";
        assert_eq!(strict.denied.is_some(), !is_itself, "{name}: {text}");
    }
}

#[test]
fn many_warnings_stay_within_the_limits() {
    let list = (0..900).map(|number| format!("missing-{number}")).collect::<Vec<_>>().join(",");
    let warnings = variables_and_warnings(&[("services", &list), ("prefix", &"ä".repeat(999))]).1;
    assert!(warnings.iter().all(|warning| warning.chars().count() <= 256));
    assert!(warnings.iter().map(|warning| warning.chars().count()).sum::<usize>() <= 4_096);
    assert!(warnings.last().unwrap().ends_with("more warnings"));
}

//! The effect of a patch on a pod.

use super::*;
use crate::model::annotation::INJECTED;

#[test]
fn variables_precede_those_of_the_container_and_links_are_disabled() {
    let pod = pod(&[], json!([{ "name": "URL", "value": "redis://$(REDIS_SERVICE_HOST)" }]), Value::Null);
    let injection = inject_into([redis()], &pod);
    let patched = patched_pod(&pod, &injection);
    assert_eq!(env_names(&pod, &injection)[0], "REDIS_SERVICE_HOST");
    assert_eq!(env_names(&pod, &injection).last().unwrap(), "URL");
    assert_eq!(patched["spec"]["enableServiceLinks"], false);
    let said = &patched["metadata"]["annotations"][INJECTED.key];
    assert_eq!(said, "inline: 7 variables of redis");
    assert_eq!((injection.warnings.len(), injection.config_maps.len()), (0, 0));
}

#[test]
fn variable_of_the_container_is_kept_and_not_duplicated() {
    let pod = pod(&[], json!([{ "name": "REDIS_PORT", "value": "" }]), Value::Null);
    let injection = inject_into([redis()], &pod);
    assert_eq!(env_names(&pod, &injection).iter().filter(|name| *name == "REDIS_PORT").count(), 1);
    assert_eq!(injection.containers[0].already_defined, ["REDIS_PORT"]);
}

#[test]
fn name_used_before_its_definition_makes_inline_inexact() {
    let env = json!([{ "name": "REDIS_PORT", "value": "x-$(REDIS_PORT)" }]);
    let bare = pod(&[], env.clone(), Value::Null);
    let inline = inject_into([redis()], &bare);
    assert!(inline.warnings[0].contains("container app: ") && inline.warnings[0].contains("REDIS_PORT"));
    let controlled = with_controller(pod(&[], env, Value::Null));
    let map = inject_into([redis()], &controlled);
    assert_eq!((map.containers[0].via, map.warnings.len()), (InjectedVia::ConfigMap, 0));
}

#[test]
fn container_with_env_from_gets_a_config_map_if_the_pod_has_a_controller() {
    let sources = json!([{ "configMapRef": { "name": "own" } }]);
    let pod = with_controller(pod(&[], Value::Null, sources.clone()));
    let injection = inject_into([redis()], &pod);
    let patched = patched_pod(&pod, &injection);
    let [map] = &injection.config_maps[..] else { panic!("{injection:?}") };
    let expected = json!([{ "configMapRef": { "name": map.name } }, sources[0]]);
    assert_eq!(patched["spec"]["containers"][0]["envFrom"], expected);
    assert_eq!(injection.label, Some("configmap"));
    let [created] = &created_config_maps(&snapshot_of([redis()]), "default", &patched)[..] else {
        panic!("{patched}")
    };
    assert_eq!((created.data.len(), created.data["REDIS_SERVICE_HOST"].as_str()), (7, "10.0.0.11"));
    assert_eq!((map.name.as_str(), map.variables, map.waits_for.len()), (created.name.as_str(), 7, 0));
    assert!(is_ours(&map.name));
}

#[test]
fn bare_pod_with_env_from_is_inlined_with_a_warning() {
    let pod = pod(&[], Value::Null, json!([{ "secretRef": { "name": "own" } }]));
    let injection = inject_into([redis()], &pod);
    assert_eq!((injection.containers[0].via, env_names(&pod, &injection).len()), (InjectedVia::Inline, 7));
    assert!(injection.warnings[0].contains("container app: ") && injection.warnings[0].contains("envFrom"));
}

#[test]
fn config_map_depends_only_on_its_selection() {
    let pod = pod_with(&[("inject", "configmap"), ("forms", "named")]);
    let injection = inject_into([redis()], &pod);
    let [map] = &injection.config_maps[..] else { panic!("{injection:?}") };
    let patched = patched_pod(&pod, &injection);
    let config_maps_of =
        |services: &[Service]| created_config_maps(&snapshot_of(services.to_vec()), "default", &patched);
    assert_eq!(
        (config_maps_of(&[redis()])[0].name.as_str(), config_maps_of(&[redis()])[0].data.len()),
        (map.name.as_str(), 2)
    );
    let later = config_maps_of(&[redis(), svc("db").ip("10.0.0.2").tcp("", 1)]);
    assert_eq!((later[0].name.as_str(), later[0].data.len()), (map.name.as_str(), 4));
}

#[test]
fn more_than_a_mebibyte_is_split_into_several_config_maps() {
    let many = (0..3_000).map(|number| svc(&format!("service-{number}")).ip("10.0.0.1").tcp("http", 80));
    let pod = pod_with(&[]);
    let services = snapshot_of(many);
    let injection = inject(&services, &InjectOptions::default(), &admission_of("default", &pod));
    assert!(injection.config_maps.len() > 1, "inlined, the pod would be too large");
    let patched = patched_pod(&pod, &injection);
    let now = created_config_maps(&services, "default", &patched);
    assert_eq!(now.iter().map(|map| map.data.len()).sum::<usize>(), 8 * 3_000);
    for (map, referred) in now.iter().zip(&injection.config_maps) {
        assert!(map.content().bytes <= 1 << 20);
        assert_eq!((&map.name, map.data.len()), (&referred.name, referred.variables));
    }
    let sources = patched["spec"]["containers"][0]["envFrom"].as_array().unwrap();
    let (must, may) = sources.split_at(injection.config_maps.len());
    assert!(must.iter().all(|source| source["configMapRef"].get("optional").is_none()), "{must:?}");
    assert!(may.iter().all(|source| source["configMapRef"]["optional"] == true), "{may:?}");
    // Twice as many services are more ConfigMaps, and the pod refers to each of those.
    let twice = (0..6_000).map(|number| svc(&format!("service-{number}")).ip("10.0.0.1").tcp("http", 80));
    let later = config_maps(&snapshot_of(twice), "default", &now[0].name, &now[0].selection);
    assert!(later.len() > must.len() && later.len() <= sources.len());
    for (map, source) in later.iter().zip(sources) {
        assert_eq!(source["configMapRef"]["name"], map.name);
    }
    assert!(
        injection.warnings.iter().any(|warning| warning.contains("max-bytes")),
        "{:?}",
        injection.warnings
    );
}

#[test]
fn waiting_pod_waits_for_every_part() {
    let many = (0..3_000).map(|number| svc(&format!("service-{number}")).ip("10.0.0.1").tcp("http", 80));
    let pod = pod_with(&[("require", "queue"), ("on-missing", "wait")]);
    let injection = inject_into(many, &pod);
    assert!(injection.config_maps.len() > 1);
    assert!(injection.config_maps.iter().all(|map| map.variables == 0 && map.waits_for.len() == 1));
    let sources = &patched_pod(&pod, &injection)["spec"]["containers"][0]["envFrom"];
    for (map, source) in injection.config_maps.iter().zip(sources.as_array().unwrap()) {
        assert_eq!(*source, json!({ "configMapRef": { "name": map.name } }));
    }
}

#[test]
fn only_new_ephemeral_containers_are_changed() {
    let mut pod = pod_with(&[("injected", "inline: 7 variables of redis")]);
    pod["spec"]["enableServiceLinks"] = false.into();
    pod["spec"]["ephemeralContainers"] = json!([{ "name": "old" }]);
    let old = pod.clone();
    pod["spec"]["ephemeralContainers"] = json!([{ "name": "old" }, { "name": "new" }]);
    let admission = Admission { old_pod: Some(&old), ..admission_of("default", &pod) };
    let injection = inject(&snapshot_of([redis()]), &InjectOptions::default(), &admission);
    let paths: Vec<&str> = injection.patch.iter().map(|op| op.path.as_str()).collect();
    assert_eq!(paths, ["/spec/ephemeralContainers/1/env"]);
}

/// Adds an ephemeral container to the pod. Returns the patched pod, the paths of the patch and the number of warnings.
fn add_ephemeral_container(
    pod: &Value,
    env_from: Value,
    services: impl IntoIterator<Item = Service>,
) -> (Value, Vec<String>, usize) {
    let mut changed = pod.clone();
    changed["spec"]["ephemeralContainers"] = json!([{ "name": "debug", "envFrom": env_from }]);
    let admission = Admission { old_pod: Some(pod), ..admission_of("default", &changed) };
    let injection = inject(&snapshot_of(services), &InjectOptions::default(), &admission);
    let paths = injection.patch.iter().map(|op| op.path.clone()).collect();
    (patched_pod(&changed, &injection), paths, injection.warnings.len())
}

#[test]
fn ephemeral_container_has_the_recorded_selection_of_its_pod() {
    let pod = pod_with(&[("inject", "configmap"), ("forms", "host-port")]);
    let mut pod = patched_pod(&pod, &inject_into([redis()], &pod));
    // The annotation now requests another selection, which has no ConfigMap.
    pod["metadata"]["annotations"]["portico.dev/forms"] = "all".into();
    let (patched, paths, _) = add_ephemeral_container(&pod, Value::Null, [redis()]);
    let first = |list: &str| patched["spec"][list][0]["envFrom"][0]["configMapRef"]["name"].clone();
    assert_eq!(first("ephemeralContainers"), first("containers"));
    assert!(paths.iter().all(|path| path.starts_with("/spec/ephemeralContainers/")), "{paths:?}");
}

#[test]
fn ephemeral_container_refers_only_to_recorded_config_maps() {
    let sources = json!([{ "secretRef": { "name": "own" } }]);
    for annotations in [&[("inject", "configmap")][..], &[("selection", "{}"), ("inject", "configmap")]] {
        let pod = with_controller(pod_with(annotations));
        let (patched, _, warnings) = add_ephemeral_container(&pod, sources.clone(), [redis()]);
        let container = &patched["spec"]["ephemeralContainers"][0];
        let has_own = is_ours(container["envFrom"][0]["configMapRef"]["name"].as_str().unwrap_or_default());
        // `{}` is a selection: all services, as the kubelet gives them.
        assert_eq!(has_own, annotations.len() == 2, "{container}");
        assert_eq!(container["env"].as_array().map_or(0, Vec::len), if has_own { 0 } else { 7 });
        assert_eq!(warnings, usize::from(!has_own), "{container}");
    }
    // A pod that waits is looked into at once.
    let waits = pod_with(&[("require", "queue"), ("on-missing", "wait")]);
    let waits = patched_pod(&waits, &self::inject_into([redis()], &waits));
    let (patched, ..) = add_ephemeral_container(&waits, Value::Null, [redis()]);
    assert_eq!(patched["spec"]["ephemeralContainers"][0]["env"].as_array().map(Vec::len), Some(7));
}

#[test]
fn pod_metadata_records_selection_and_warnings() {
    let mut pod = with_controller(pod_with(&[("inject", "configmap"), ("prefix", "1X")]));
    pod["metadata"]["labels"] = json!({ "app": "web" });
    let injection = inject_into([redis()], &pod);
    let patched = patched_pod(&pod, &injection);
    let metadata = &patched["metadata"];
    assert_eq!(metadata["labels"], json!({ "app": "web", "portico.dev/variables": "configmap" }));
    let said = metadata["annotations"]["portico.dev/warnings"].as_str().unwrap();
    assert!(said.starts_with("portico.dev/prefix: \"1X\" is not"), "{said}");
    assert_eq!(created_config_maps(&snapshot_of([redis()]), "default", &patched)[0].data.len(), 7);
    assert_eq!(self::inject_into([redis()], &patched).patch, []);
}

#[test]
fn warnings_are_recorded_without_an_injection_and_are_limited() {
    let list = (0..900).map(|number| format!("missing-{number}")).collect::<Vec<_>>().join(",");
    let mut pod = pod_with(&[("require", &list)]);
    pod["spec"]["enableServiceLinks"] = false.into();
    let left = inject_into([redis()], &pod);
    let patched = patched_pod(&pod, &left);
    assert_eq!((left.skipped.is_some(), left.label), (true, Some("warnings")));
    assert_eq!(patched["metadata"]["labels"]["portico.dev/variables"], "warnings");
    let said = patched["metadata"]["annotations"]["portico.dev/warnings"].as_str().unwrap();
    assert!((1_000..=WARNINGS_BYTES_MAX).contains(&said.len()), "{} bytes", said.len());
    assert_eq!(patched["spec"], pod["spec"]);
    assert_eq!(inject_into([redis()], &patched).patch, []);
}

#[test]
fn selection_too_long_for_an_annotation_is_inlined() {
    let name = |number: usize| format!("{number:04}-{}", "x".repeat(58));
    let list = (0..900).map(name).collect::<Vec<_>>().join(",");
    let long = pod_with(&[
        ("inject", "configmap"),
        ("services", &list),
        ("require", "queue"),
        ("on-missing", "wait"),
    ]);
    let mut full = pod_with(&[("inject", "configmap")]);
    full["metadata"]["annotations"]["a/b"] = "x".repeat(250 << 10).into();
    for (pod, waits) in [(long, true), (full, false)] {
        let injection = inject_into([redis()], &pod);
        let patched = patched_pod(&pod, &injection);
        assert_eq!((injection.label == Some("configmap"), injection.config_maps.len()), (false, 0));
        assert_eq!(injection.warnings.iter().any(|warning| warning.contains("do not wait")), waits);
        let annotations = patched["metadata"]["annotations"].as_object().unwrap();
        let bytes: usize =
            annotations.iter().map(|(key, text)| key.len() + text.as_str().unwrap().len()).sum();
        assert!(bytes <= 256 << 10, "{bytes}");
        assert_eq!(self::inject_into([redis()], &patched).patch, []);
    }
}

#[test]
fn handwritten_record_is_rejected_unless_it_is_a_selection() {
    let read = |annotations: &[(&str, &str)]| {
        let annotation =
            |key: &str| annotations.iter().find(|(name, _)| key.ends_with(name)).map(|(_, text)| *text);
        Record::read(Some("configmap"), annotation)
    };
    let service = |name: &str| {
        format!("{{\"services\":[{{\"service\":{{\"namespace\":\"a\",\"name\":\"{name}\"}}}}]}}")
    };
    assert!(read(&[("/selection", &service("b"))]).unwrap().is_some());
    assert_eq!(read(&[]), Err(RecordError::Missing));
    let long = format!("{{\"prefix\":\"{}\"}}", "X".repeat(SELECTION_BYTES_MAX));
    let many =
        vec![service("b").trim_start_matches("{\"services\":[").trim_end_matches("]}").to_owned(); 1_001]
            .join(",");
    let many = format!("{{\"services\":[{many}]}}");
    for text in ["", "x", "[]", &service("B"), &service("../x"), "{\"prefix\":\"a b\"}", &long, &many] {
        assert_eq!(read(&[("/selection", text)]), Err(RecordError::Selection), "{text}");
    }
    for parts in ["0", "-1", "17", "1000000", "x", ""] {
        assert_eq!(read(&[("/selection", "{}"), ("/parts", parts)]), Err(RecordError::Parts), "{parts}");
    }
    assert_eq!(Record::read(Some("warnings"), |_| Some("x")), Ok(None));
}

#[test]
fn variables_beyond_the_limit_are_not_rendered() {
    // One service of a thousand ports under 600 names would be three million variables.
    let ports = (1..=1_000).fold(svc("wide").ip("10.0.0.1"), |service, port| service.tcp("", port));
    let list = (0..600).map(|number| format!("a{number}=wide")).collect::<Vec<_>>().join(",");
    let pod = pod_with(&[("services", &list), ("inject", "configmap")]);
    let injection = inject_into([ports], &pod);
    let count: usize = injection.config_maps.iter().map(|map| map.variables).sum();
    assert!((50_000..200_000).contains(&count), "{count}");
    assert!(
        injection.warnings.iter().any(|warning| warning.contains("left out")),
        "{:?}",
        injection.warnings
    );
    assert!(injection.config_maps.len() <= PARTS_MAX, "{}", injection.config_maps.len());
}

#[test]
fn sidecar_added_later_gets_its_variables_and_nothing_else_changes() {
    let pod = pod_with(&[]);
    let mut patched = patched_pod(&pod, &inject_into([redis()], &pod));
    patched["spec"]["initContainers"] = json!([{ "name": "sidecar", "restartPolicy": "Always" }]);
    let again = inject_into([redis()], &patched);
    let paths: Vec<&str> = again.patch.iter().map(|op| op.path.as_str()).collect();
    assert_eq!(paths, ["/spec/initContainers/0/env"]);
    assert_eq!(inject_into([redis()], &patched_pod(&patched, &again)).patch, []);
}

#[test]
fn pod_without_links_is_skipped_unless_it_names_services() {
    let mut pod = pod_with(&[]);
    pod["spec"]["enableServiceLinks"] = false.into();
    let left = inject_into([redis()], &pod);
    assert_eq!((left.patch.len(), left.skipped.is_some()), (0, true));
    pod["metadata"]["annotations"] = json!({ "portico.dev/services": "redis" });
    assert_eq!(env_names(&pod, &inject_into([redis()], &pod)).len(), 7);
}

#[test]
fn namespace_with_its_own_kubernetes_service_keeps_links() {
    let api = || svc("kubernetes").ip("10.96.0.1").tcp("https", 443);
    let own = || svc("kubernetes").namespace("team").ip("10.0.0.9").tcp("", 6443);
    let other = || svc("db").namespace("team").ip("10.0.0.2").tcp("", 80);
    let pod = pod_with(&[]);
    let inject_team = |services: Vec<Service>| {
        inject(&snapshot_of(services), &InjectOptions::default(), &admission_of("team", &pod))
    };
    let links =
        |injection: &Injection| patched_pod(&pod, injection)["spec"].get("enableServiceLinks").is_none();
    assert!(links(&inject_team(vec![api(), own(), other()])));
    assert!(!links(&inject_team(vec![api(), other()])));
    let mut headless = own();
    headless.cluster_ip_text = None;
    assert!(!links(&inject_team(vec![api(), headless, other()])));
    let with_own = inject_team(vec![api(), own(), other()]);
    assert!(
        env_names(&pod, &with_own).iter().all(|name| name.starts_with("DB_")),
        "the kubelet gives the rest"
    );
}

#[test]
fn variables_of_the_api_server_are_never_hidden() {
    let api = svc("kubernetes").ip("10.96.0.1").tcp("https", 443);
    let pod = pod_with(&[("services", "kubernetes=redis")]);
    let injection = inject_into([api, redis()], &pod);
    assert!(!env_names(&pod, &injection).iter().any(|name| name == "KUBERNETES_SERVICE_HOST"));
    assert!(injection.warnings[0].contains("KUBERNETES_SERVICE_HOST"), "{:?}", injection.warnings);
}

#[test]
fn stale_reference_of_a_copied_pod_is_replaced() {
    let stale =
        json!([{ "configMapRef": { "name": "portico-env-0" } }, { "configMapRef": { "name": "own" } }]);
    let pod = pod(&[], Value::Null, stale);
    let injection = inject_into([redis()], &pod);
    let sources = &patched_pod(&pod, &injection)["spec"]["containers"][0]["envFrom"];
    assert_eq!(sources[0]["configMapRef"]["name"], injection.config_maps[0].name);
    assert_eq!((sources.as_array().unwrap().len(), &sources[1]["configMapRef"]["name"]), (2, &json!("own")));
}

#[test]
fn mirror_pod_is_skipped() {
    let mut pod = pod_with(&[]);
    pod["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    let injection = inject_into([redis()], &pod);
    assert_eq!((injection.patch.len(), injection.warnings.len(), injection.skipped.is_some()), (0, 0, true));
}

#[test]
fn pod_without_metadata_gets_metadata() {
    let pod = json!({ "spec": { "containers": [{ "name": "app" }] } });
    let patched = patched_pod(&pod, &inject_into([redis()], &pod));
    assert!(patched["metadata"]["annotations"][INJECTED.key].is_string());
}

#[test]
fn malformed_pod_gets_no_patch_and_a_warning_with_the_path() {
    let container = |container: Value| json!({ "spec": { "containers": [container] } });
    let broken = [
        (json!([]), "not an object"),
        (json!({}), "no spec"),
        (json!({ "spec": 5 }), "spec is not an object"),
        (json!({ "spec": {}, "metadata": [] }), "metadata is not an object"),
        (json!({ "spec": {}, "metadata": { "annotations": 1 } }), "annotations is not an object"),
        (json!({ "spec": { "containers": {} } }), "containers is not a list"),
        (json!({ "spec": { "enableServiceLinks": "no" } }), "enableServiceLinks"),
        (container(json!(7)), "containers[0]"),
        (container(json!({ "env": {} })), "containers[0]: env"),
        (container(json!({ "env": [{ "value": "x" }] })), "containers[0]: env"),
        (container(json!({ "env": [{ "name": "x", "value": 5 }] })), "containers[0]: env"),
        (container(json!({ "envFrom": ["x"] })), "containers[0]: envFrom"),
    ];
    for (pod, what) in broken {
        let injection = inject_into([redis()], &pod);
        assert_eq!(injection.patch, [], "{pod}");
        assert!(injection.warnings[0].contains(what), "{pod}: {:?}", injection.warnings);
    }
    let many_containers =
        json!({ "spec": { "containers": vec![json!({ "name": "c" }); CONTAINERS_MAX + 1] } });
    let injection = inject_into([redis()], &many_containers);
    assert_eq!((injection.patch.len(), injection.warnings.len()), (0, 1));
}

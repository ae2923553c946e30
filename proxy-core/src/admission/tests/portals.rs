//! The portals of a pod: the default of its namespace, and pods that are off.

use super::*;
use crate::model::annotation::PORTALS;

const OFF: &[(&str, &str)] = &[("portals", "off")];

/// Admits a pod of namespace `default`, which has these annotations.
fn admitted<'a>(of_namespace: &[(&str, &str)], pod: &'a Value) -> Injection<'a> {
    update(of_namespace, pod, None)
}

fn update<'a>(of_namespace: &[(&str, &str)], pod: &'a Value, old_pod: Option<&'a Value>) -> Injection<'a> {
    let annotations =
        of_namespace.iter().map(|(name, text)| (format!("portico.dev/{name}"), (*text).to_owned()));
    // An injection borrows from all of its inputs.
    let namespace_annotations = Box::leak(Box::new(annotations.collect::<BTreeMap<_, _>>()));
    let admission = Admission { namespace_annotations, old_pod, ..admission_of("default", pod) };
    inject(&snapshot_of([redis()]), &InjectOptions::default(), &admission)
}

fn portals(pod: &Value) -> Option<&str> {
    pod["metadata"]["annotations"][PORTALS.key].as_str()
}

fn on_host_network(mut pod: Value) -> Value {
    pod["spec"]["hostNetwork"] = true.into();
    pod
}

#[test]
fn pod_gets_each_value_of_its_namespace_unless_it_has_its_own() {
    for value in ["off", "none", "all", "redis, kube-system/kube-dns"] {
        for pod in [pod_with(&[]), json!({"spec": {"containers": [{"name": "app"}]}})] {
            let done = admitted(&[("portals", &format!(" {value} "))], &pod);
            let patched = patched_pod(&pod, &done);
            assert_eq!((portals(&patched), done.portals.as_deref()), (Some(value), Some(value)), "{done:?}");
        }
        let own = pod_with(&[("portals", "all")]);
        let done = admitted(&[("portals", value)], &own);
        assert_eq!((portals(&patched_pod(&own, &done)), done.portals), (Some("all"), None));
    }
    let pod = pod_with(&[]);
    assert_eq!(portals(&patched_pod(&pod, &admitted(&[], &pod))), None);
}

#[test]
fn pod_that_is_off_gets_no_variables() {
    for (of_namespace, pod) in [
        (OFF, pod_with(&[])),
        (&[], pod_with(OFF)),
        (&[("portals", "all")], pod_with(&[("portals", " off")])),
    ] {
        let done = admitted(of_namespace, &pod);
        let patched = patched_pod(&pod, &done);
        assert_eq!(patched["spec"], pod["spec"], "links included: {done:?}");
        assert_eq!((done.containers.len(), done.label, done.warnings.len()), (0, None, 0), "{done:?}");
        assert!(done.skipped.is_some_and(|reason| reason.contains("portico.dev/portals is off")));
        assert!(portals(&patched).is_some_and(|value| value.trim() == "off"));
        let again = admitted(of_namespace, &patched);
        assert_eq!(again.patch, [], "a pod that is admitted again is not changed again");
    }
}

#[test]
fn pod_that_is_off_gets_the_variables_that_it_requests_itself() {
    for own in [
        ("inject", "true"),
        ("inject", "configmap"),
        ("services", "redis"),
        ("prefix", "MY_"),
        ("forms", "host-port"),
        ("require", "redis"),
    ] {
        let pod = pod_with(&[own]);
        let done = admitted(OFF, &pod);
        assert_eq!((done.containers.len(), &done.skipped), (1, &None), "{own:?}: {done:?}");
        let patched = patched_pod(&pod, &done);
        assert_eq!(portals(&patched), Some("off"), "{own:?}");
        assert_eq!(admitted(OFF, &patched).patch, [], "{own:?}");
    }
    for own in [("max-bytes", "64Ki"), ("on-missing", "deny"), ("inject", "false")] {
        let pod = pod_with(&[own]);
        let done = admitted(OFF, &pod);
        assert_eq!((done.containers.len(), done.patch.len()), (0, 1), "{own:?}: {done:?}");
        assert_eq!(portals(&patched_pod(&pod, &done)), Some("off"), "{own:?}");
    }
}

#[test]
fn requests_of_the_namespace_do_not_apply_to_a_pod_that_is_off() {
    let of_namespace = [
        ("portals", "off"),
        ("inject", "configmap"),
        ("services", "redis"),
        ("require", "missing"),
        ("on-missing", "deny"),
    ];
    let pod = pod_with(&[]);
    let done = admitted(&of_namespace, &pod);
    assert_eq!((done.denied.as_deref(), done.config_maps.len(), done.patch.len()), (None, 0, 1), "{done:?}");
    let asks = pod_with(&[("inject", "true")]);
    assert!(admitted(&of_namespace, &asks).denied.is_some(), "the defaults of a pod that requests variables");
}

#[test]
fn pod_without_injection_gets_the_value_of_its_namespace() {
    let refused = pod_with(&[("inject", "false")]);
    let mut without_links = pod_with(&[]);
    without_links["spec"]["enableServiceLinks"] = false.into();
    for pod in [refused, without_links] {
        let done = admitted(&[("portals", "redis")], &pod);
        assert!(done.skipped.is_some(), "{done:?}");
        let mut expected = pod.clone();
        expected["metadata"]["annotations"][PORTALS.key] = "redis".into();
        assert_eq!(patched_pod(&pod, &done), expected);
    }
    let denied = pod_with(&[("require", "missing"), ("on-missing", "deny")]);
    let done = admitted(&[("portals", "redis")], &denied);
    assert_eq!((done.patch.len(), done.portals), (0, None));
}

#[test]
fn pod_on_the_host_network_has_no_portals() {
    let pod = on_host_network(pod_with(&[]));
    let done = admitted(OFF, &pod);
    assert_eq!(done.patch, [], "{done:?}");
    let done = admitted(&[("portals", "redis")], &pod);
    assert_eq!((portals(&patched_pod(&pod, &done)), done.containers.len()), (None, 1), "variables as before");
    let invalid = json!({"spec": {"hostNetwork": "yes", "containers": []}});
    assert!(admitted(OFF, &invalid).skipped.is_some_and(|reason| reason.contains("hostNetwork")));
}

#[test]
fn mirror_pod_is_not_changed() {
    let mut pod = pod_with(&[]);
    pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "x".into();
    assert_eq!(admitted(OFF, &pod).patch, []);
}

#[test]
fn ephemeral_containers_follow_the_annotation_of_the_pod_and_not_of_its_namespace() {
    let debugged = |pod: &Value| {
        let mut debugged = pod.clone();
        debugged["spec"]["ephemeralContainers"] = json!([{ "name": "debug" }]);
        debugged
    };
    let running = pod_with(&[]);
    let now = debugged(&running);
    let done = update(OFF, &now, Some(&running));
    let patched = patched_pod(&now, &done);
    assert_eq!((done.containers.len(), portals(&patched)), (1, None), "it started with portals: {done:?}");
    let is_off = pod_with(OFF);
    let now = debugged(&is_off);
    assert_eq!(update(&[], &now, Some(&is_off)).patch, []);
    let on_host = on_host_network(pod_with(&[]));
    let now = debugged(&on_host);
    assert_eq!(update(OFF, &now, Some(&on_host)).patch, [], "it never has the annotation");
}

#[test]
fn invalid_value_of_a_namespace_is_ignored_with_a_warning() {
    let long = (0..999).map(|number| format!("team-with-a-long-name/service-{number}")).collect::<Vec<_>>();
    for value in ["", "Off", "A B", "redis,,", &long.join(", ")] {
        let pod = pod_with(&[]);
        let done = admitted(&[("portals", value)], &pod);
        let patched = patched_pod(&pod, &done);
        assert!(portals(&patched).is_none() && done.portals.is_none(), "{value:.40}");
        assert_eq!(done.warnings.len(), 1, "{:?}", done.warnings);
        let words = ["namespace default is ignored", "portico.dev/portals"];
        assert!(words.iter().all(|word| done.warnings[0].contains(word)), "{:?}", done.warnings);
        assert_eq!(done.containers.len(), 1, "the pod gets variables");
        assert!(patched["metadata"]["annotations"]["portico.dev/warnings"].is_string(), "for its owner");
    }
}

#[test]
fn value_of_a_namespace_leaves_room_for_the_annotations_of_the_pod() {
    let value = (0..300).map(|number| format!("service-{number}")).collect::<Vec<_>>().join(",");
    let pod = |bytes: usize| {
        let mut pod = pod_with(&[]);
        pod["metadata"]["annotations"]["own"] = "x".repeat(bytes).into();
        pod
    };
    let full = pod(238 << 10);
    let done = admitted(&[("portals", &value)], &full);
    assert_eq!(done.portals, None);
    assert!(done.warnings[0].contains("has no room"), "{:?}", done.warnings);
    let fits = pod(200 << 10);
    assert_eq!(admitted(&[("portals", &value)], &fits).portals.as_deref(), Some(value.as_str()));
}

//! `portico explain --pod`: the portals of one pod, by its annotation and that of its namespace.

use test_support::command::{CommandOutput, portico};
use test_support::temp_dir::TempDir;

const SERVICE: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "legacy", "annotations": {"portico.dev/portals": "off"}}},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "default"},
   "spec": {"clusterIP": "10.0.0.7", "ports": [{"port": 5432}]}}]}"#;

/// Explains a connection to the service `db` of a pod with this spec and this annotation.
fn explained(namespace: &str, portals: Option<&str>, spec: &str) -> CommandOutput {
    let dir = TempDir::new("explain-pod");
    let annotations = portals.map_or(String::new(), |value| format!(r#""portico.dev/portals": "{value}""#));
    let pod = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod",
          "metadata": {{"name": "p", "namespace": "{namespace}", "annotations": {{{annotations}}}}}, "spec": {spec}}}"#
    );
    let (pod, service) = (dir.write("pod.json", &pod), dir.write("service.json", SERVICE));
    let [pod, service] = [&pod, &service].map(|path| path.to_str().expect("a path"));
    portico(&["explain", "-f", service, "--pod", pod, "tcp://10.0.0.7:5432"])
}

const SPEC: &str = r#"{"containers": []}"#;

#[test]
fn pod_that_is_off_is_not_served() {
    for (namespace, portals) in [("default", Some("off")), ("legacy", None)] {
        let text = explained(namespace, portals, SPEC).expect_success();
        let expected = "tcp://10.0.0.7:5432: pass\n  \
             another service proxy on its path can translate it, such as kube-proxy or the portals of the node\n  \
             not translated: Portico does not serve the pod, because portico.dev/portals is off\n";
        assert_eq!(text, expected, "{namespace}");
    }
}

#[test]
fn pod_has_the_portals_that_it_selects() {
    for portals in ["none", "other"] {
        let text = explained("default", Some(portals), SPEC).expect_success();
        assert!(text.contains("service default/db, which is not visible to the pod"), "{portals}: {text}");
    }
    for (namespace, portals) in [("default", None), ("legacy", Some("all")), ("team", Some("default/db"))] {
        let text = explained(namespace, portals, SPEC).expect_success();
        assert!(text.starts_with("tcp://10.0.0.7:5432: reject\n"), "{namespace} {portals:?}: {text}");
    }
}

#[test]
fn pod_on_the_host_network_has_the_portals_of_the_node() {
    let text = explained("legacy", None, r#"{"hostNetwork": true, "containers": []}"#).expect_success();
    assert!(text.starts_with("tcp://10.0.0.7:5432: reject\n"), "{text}");
}

#[test]
fn invalid_annotation_of_a_pod_is_an_error() {
    let output = explained("default", Some("A B"), SPEC);
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains("the pod does not start: annotation portico.dev/portals"),
        "{}",
        output.stderr
    );
}

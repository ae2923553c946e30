//! `portico dns -f`: the explanation of answers from manifests, without an agent.

use expect_test::expect;
use serde_json::{Value, json};
use test_support::command::portico;
use test_support::temp_dir::TempDir;

const WEB: &str = "redis-master.default.svc.cluster.local";

/// The explanation from an example.
fn explained(example: &str, args: &[&str]) -> String {
    portico(&[&["dns", "-f", &format!("examples/{example}")], args].concat()).expect_success()
}

#[test]
fn answer_is_explained_with_its_object_rule_and_records() {
    expect![[r#"
        redis-master.default.svc.cluster.local. A: NOERROR
          object: service default/redis-master
          rule: specification 2.3.1: the cluster addresses of a service
          redis-master.default.svc.cluster.local. 5 IN A 10.0.0.11
    "#]]
    .assert_eq(&explained("redis-master.yaml", &[WEB]));
    expect![[r#"
        11.0.0.10.in-addr.arpa. PTR: NOERROR
          object: service default/redis-master
          rule: specification 2.3.3: the cluster address of a service
          11.0.0.10.in-addr.arpa. 5 IN PTR redis-master.default.svc.cluster.local.
    "#]]
    .assert_eq(&explained("redis-master.yaml", &["10.0.0.11"]));
}

#[test]
fn denial_alias_and_other_name_are_explained() {
    let missing = explained("redis-master.yaml", &["nothing.default.svc.cluster.local", "AAAA"]);
    assert!(missing.starts_with("nothing.default.svc.cluster.local. AAAA: NXDOMAIN"), "{missing}");
    assert!(missing.contains("rule: the service does not exist\n"), "{missing}");
    let alias = explained("external-name.yaml", &["my-service.prod.svc.cluster.local"]);
    assert!(
        alias.contains("A: alias of my.database.example.com.\n  object: service prod/my-service"),
        "{alias}"
    );
    let other = explained("redis-master.yaml", &["example.com", "MX"]);
    assert_eq!(other, "example.com. MX: forwarded to an upstream\n  rule: the name is not in the zone\n");
}

#[test]
fn explanation_as_json_has_the_documented_fields() {
    let text = explained("redis-master.yaml", &["-o", "json", WEB]);
    let expected = json!({
        "name": format!("{WEB}."), "type": "A", "outcome": "noerror",
        "object": "service default/redis-master",
        "rule": "specification 2.3.1: the cluster addresses of a service",
        "records": [format!("{WEB}. 5 IN A 10.0.0.11")],
    });
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected);
}

#[test]
fn domain_of_the_cluster_can_differ() {
    let args = ["--cluster-domain", "corp.example", "redis-master.default.svc.corp.example"];
    assert!(explained("redis-master.yaml", &args).contains("IN A 10.0.0.11\n"));
}

#[test]
fn pod_sees_only_the_names_of_its_portals() {
    let dir = TempDir::new("dns-pod");
    let outcome = |portals: &str, spec: &str| {
        let pod = format!(
            r#"{{"apiVersion": "v1", "kind": "Pod",
              "metadata": {{"name": "p", "annotations": {{"portico.dev/portals": "{portals}"}}}}, "spec": {spec}}}"#
        );
        let file = dir.write("pod.json", &pod);
        portico(&["dns", "-f", "examples/redis-master.yaml", "--pod", file.to_str().expect("a path"), WEB])
    };
    let spec = r#"{"containers": []}"#;
    assert!(outcome("default/redis-master", spec).expect_success().contains("A: NOERROR"));
    let hidden = outcome("team/db", spec).expect_success();
    assert!(
        hidden.contains("NXDOMAIN") && hidden.contains("portico.dev/portals of the pod hides"),
        "{hidden}"
    );
    let off = outcome("off", spec);
    assert!(off.code == 1 && off.stderr.contains("portico.dev/portals is off"), "{}", off.stderr);
    let host = outcome("all", r#"{"hostNetwork": true, "containers": []}"#);
    assert!(host.code == 1 && host.stderr.contains("it is on the host network"), "{}", host.stderr);
}

#[test]
fn invalid_questions_and_missing_agents_are_errors() {
    let example = ["dns", "-f", "examples/redis-master.yaml"];
    for (args, code, message) in [
        (&[WEB, "BOGUS"][..], 1, "\"BOGUS\" is not a type of record"),
        (&["a..b"][..], 1, "\"a..b\" is not a domain name"),
        (&["a/b", WEB, "A"][..], 2, "the pod is in the file of --pod"),
    ] {
        let output = portico(&[&example[..], args].concat());
        assert!(output.code == code && output.stderr.contains(message), "{args:?}: {}", output.stderr);
    }
    let offline = portico(&["dns", "--socket", "/nonexistent/agent.sock", WEB]);
    assert!(offline.code == 1 && offline.stderr.contains("no agent is listening"), "{}", offline.stderr);
    for args in [&["dns"][..], &["dns", "--node", "a", WEB], &["dns", "--follow", "a/b", WEB]] {
        assert_eq!(portico(args).code, 2, "{args:?}");
    }
}

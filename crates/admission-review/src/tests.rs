//! Reviews as API servers send them, and invalid ones.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use proxy_core::admission::{InjectOptions, Injection, inject};
use proxy_core::sample::{snapshot, svc};

fn request(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": "default",
            "operation": "CREATE",
            "userInfo": { "username": "alice", "groups": ["a"] },
            "object": {
                "metadata": { "name": "p", "labels": { "a": "b" }, "managedFields": [{ "f:a": {} }] },
                "spec": { "volumes": [{}], "containers": [{ "name": "app", "image": "i", "env": [] }] },
            },
            "oldObject": null,
            "dryRun": false,
        },
    });
    change(&mut review);
    serde_json::to_vec(&review).unwrap()
}

fn bad(body: &[u8]) -> BadReview {
    let bad = parse_review(body).expect_err("it is bad");
    let answer: Value = serde_json::from_slice(&bad.response()).unwrap();
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!(bad.uid), &json!(false)));
    assert_eq!(
        (&response["status"]["message"], &response["status"]["code"]),
        (&json!(bad.reason), &json!(400))
    );
    assert_eq!(response.get("patch"), None);
    bad
}

fn pod_of(body: &[u8]) -> PodReview {
    match parse_review(body) {
        Ok(Review::Pod(pod)) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_relevant_parts_of_a_pod_are_kept() {
    let pod = pod_of(&request(|review| {
        review["request"]["object"]["spec"]["hostNetwork"] = true.into();
    }));
    assert_eq!((pod.uid.as_str(), pod.namespace.as_str(), pod.dry_run), ("u-1", "default", false));
    let expected = json!({
        // The patch adds a label to those that there are.
        "metadata": { "name": "p", "labels": { "a": "b" } },
        "spec": { "hostNetwork": true, "containers": [{ "name": "app", "env": [] }] },
    });
    assert_eq!((pod.pod, pod.old_pod), (expected, None));
}

#[test]
fn review_of_ephemeral_containers_has_the_previous_pod() {
    let pod = pod_of(&request(|review| {
        let request = &mut review["request"];
        request["operation"] = "UPDATE".into();
        request["subResource"] = "ephemeralcontainers".into();
        request["oldObject"] = json!({ "spec": { "ephemeralContainers": [{ "name": "x" }] } });
        request["dryRun"] = true.into();
    }));
    assert!(pod.dry_run && pod.admission(&BTreeMap::new()).old_pod.is_some());
}

#[test]
fn other_operations_are_allowed() {
    for (operation, sub_resource) in
        [("UPDATE", ""), ("DELETE", ""), ("CREATE", "binding"), ("UPDATE", "status")]
    {
        let body = request(|review| {
            review["request"]["operation"] = operation.into();
            review["request"]["subResource"] = sub_resource.into();
        });
        assert_eq!(
            parse_review(&body),
            Ok(Review::Other { uid: "u-1".to_owned() }),
            "{operation} {sub_resource}"
        );
    }
    let answer: Value = serde_json::from_slice(&allow("u-1")).unwrap();
    assert_eq!(answer["response"], json!({ "uid": "u-1", "allowed": true }));
}

#[test]
fn response_carries_the_patch_as_base64() {
    let pod = pod_of(&request(|_| ()));
    let services = snapshot([svc("db").ip("10.0.0.1").tcp("", 80).into()]);
    let none = BTreeMap::new();
    let done = inject(&services, &InjectOptions::default(), &pod.admission(&none));
    let answer: Value = serde_json::from_slice(&response(&pod.uid, &done)).unwrap();
    assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!(API_VERSION), &json!(KIND)));
    let response = &answer["response"];
    assert_eq!(
        (&response["uid"], &response["allowed"], &response["patchType"]),
        (&json!("u-1"), &json!(true), &json!("JSONPatch"))
    );
    let sent = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), json!(done.patch));
    assert_eq!(done.patch.len(), 3);
}

#[test]
fn response_is_the_decision_and_has_the_announced_length() {
    let names: Vec<String> = (0..20).map(|number| format!("service-{number:02}")).collect();
    let services = snapshot(names.iter().map(|name| svc(name).ip("10.0.0.1").tcp("http", 80).into()));
    let own = |name: &str| json!([{ "name": name, "value": "$(A)" }, { "name": "B", "value": "\u{e4}\"" }]);
    // A name in the middle, the first one, the last one, and none of the services' names.
    let containers = ["SERVICE_07_PORT", "SERVICE_00_SERVICE_HOST", "SERVICE_19_PORT_80_TCP_ADDR", "A"];
    let containers: Vec<Value> =
        containers.iter().map(|name| json!({ "name": "c", "env": own(name) })).collect();
    let pod =
        pod_of(&request(|review| review["request"]["object"]["spec"]["containers"] = containers.into()));
    let none = BTreeMap::new();
    let done = inject(&services, &InjectOptions::default(), &pod.admission(&none));
    for uid in ["u", "\u{e4}\""] {
        let body = response(uid, &done);
        assert_eq!(response_len(uid, &done), body.len());
        let text: Value = serde_json::from_slice(&body).unwrap();
        let sent = STANDARD.decode(text["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), json!(done.patch));
    }
    let denied = Injection { denied: Some("no".to_owned()), patch: done.patch, ..Injection::default() };
    assert_eq!(response_len("u", &denied), response("u", &denied).len());
}

#[test]
fn denied_pod_has_a_reason_and_no_patch() {
    let injection =
        Injection { denied: Some("no".to_owned()), warnings: vec!["w".to_owned()], ..Injection::default() };
    let answer: Value = serde_json::from_slice(&response("u-1", &injection)).unwrap();
    let status = json!({ "code": 403, "reason": "Forbidden", "message": "no" });
    let expected = json!({ "uid": "u-1", "allowed": false, "status": status, "warnings": ["w"] });
    assert_eq!(answer["response"], expected);
}

#[test]
fn error_in_a_request_is_reported_with_its_uid() {
    let cases: [(&str, Value, &str); 12] = [
        ("kind", json!({ "group": "apps", "version": "v1", "kind": "Deployment" }), "not a Pod"),
        ("kind", json!(null), "not a Pod"),
        ("kind", json!("Pod"), "kind: "),
        ("operation", json!("PATCH"), "unknown one"),
        ("operation", json!(null), "no operation"),
        ("operation", json!([]), "operation: "),
        ("namespace", json!(""), "no namespace"),
        ("object", json!(null), "no object"),
        ("dryRun", json!("yes"), "dryRun: "),
        ("subResource", json!(5), "subResource: "),
        ("uid", json!(""), "no uid"),
        ("uid", json!(7), "no uid"),
    ];
    for (field, value, why) in cases {
        let bad = bad(&request(|review| review["request"][field] = value));
        assert_eq!(bad.uid, if field == "uid" { "" } else { "u-1" });
        assert!(bad.reason.contains(why), "{field}: {bad:?}");
    }
    let old = bad(&request(|review| {
        review["request"]["operation"] = "UPDATE".into();
        review["request"]["subResource"] = "ephemeralcontainers".into();
    }));
    assert!(old.reason.contains("oldObject"), "{old:?}");
    for (field, value) in [("apiVersion", "admission.k8s.io/v1beta1"), ("kind", "Review")] {
        let bad = bad(&request(|review| review[field] = value.into()));
        assert!(bad.uid == "u-1" && bad.reason.contains(value), "{bad:?}");
    }
}

#[test]
fn body_that_is_not_a_review_gets_a_response() {
    let cases: [&[u8]; 9] =
        [b"", b"{}", b"null", b"[]", b"5", b"{\"request\":null}", b"{\"request\":[]}", b"\xff\xfe", b"{} {}"];
    for body in cases {
        assert_eq!(bad(body).uid, "", "{body:?}");
    }
}

#[test]
fn truncated_review_still_echoes_the_uid() {
    let body = request(|_| ());
    let uid_end = String::from_utf8(body.clone()).unwrap().find("\"u-1\"").unwrap() + 5;
    for end in 0..body.len() {
        assert_eq!(bad(&body[..end]).uid, if end >= uid_end { "u-1" } else { "" }, "{end}");
    }
}

#[test]
fn invalid_object_does_not_hide_the_uid() {
    // Objects stand before the uid here, as a map of sorted keys has them.
    let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
    let body = |object: &str| {
        let rest =
            String::from_utf8(request(|review| review["request"]["object"] = "OBJECT".into())).unwrap();
        rest.replace("\"OBJECT\"", object).into_bytes()
    };
    let ignored = pod_of(&body(&format!("{{\"spec\":{{\"volumes\":{deep}}}}}")));
    assert_eq!(ignored.pod, json!({ "spec": {} }));
    let env = bad(&body(&format!("{{\"spec\":{{\"containers\":[{{\"env\":{deep}}}]}}}}")));
    assert!(env.uid == "u-1" && env.reason.starts_with("object: "), "{env:?}");
    let nothing = pod_of(&body("[[1,2.5,-3,true,null,\"x\"]]"));
    assert_eq!(nothing.pod, json!([]));
    let mut no_text = body("{\"metadata\":{\"name\":\"?\"}}");
    let at = no_text.iter().position(|byte| *byte == b'?').unwrap();
    no_text[at] = 0xff;
    assert!(!bad(&no_text).reason.is_empty());
}

/// A review whose pod has these many variables in one container.
fn with_variables(count: usize) -> Vec<u8> {
    let env = vec![json!({ "name": "a" }); count];
    request(|review| review["request"]["object"]["spec"]["containers"][0]["env"] = env.into())
}

#[test]
fn pod_beyond_the_memory_budget_is_allowed_with_a_warning() {
    assert_eq!(pod_of(&with_variables(9_000)).pod["spec"]["containers"][0]["env"][8_999]["name"], "a");
    let Ok(Review::TooLarge { uid, reason }) = parse_review(&with_variables(200_000)) else {
        panic!("it is taken")
    };
    assert!(uid == "u-1" && reason.contains("more entries than fit into 8388608 bytes"), "{reason}");
    let answer: Value = serde_json::from_slice(&allow_too_large(&uid, &reason)).unwrap();
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-1"), &json!(true)));
    assert!(response["patch"].is_null() && response["warnings"][0].as_str().unwrap().contains(&reason));
}

#[test]
fn references_in_values_are_charged_to_the_budget() {
    let value: String = (0..150_000).map(|number| format!("$({number:05x})")).collect();
    let env = json!([{ "name": "a", "value": value }]);
    let body = request(|review| review["request"]["object"]["spec"]["containers"][0]["env"] = env);
    assert!(matches!(parse_review(&body), Ok(Review::TooLarge { .. })));
}

#[test]
fn metadata_beyond_the_limits_of_the_api_server_is_too_large() {
    for (field, value) in [
        ("name", json!("n".repeat(254))),
        ("generateName", json!("n".repeat(254))),
        ("annotations", json!({ "portico.dev/services": "=,".repeat(140_000) })),
    ] {
        let body = request(|review| review["request"]["object"]["metadata"][field] = value);
        let Ok(Review::TooLarge { uid, reason }) = parse_review(&body) else { panic!("{field} is taken") };
        assert!(uid == "u-1" && reason.contains(field), "{reason}");
    }
}

#[test]
fn overlong_request_field_is_rejected_without_being_quoted() {
    for field in ["namespace", "operation", "subResource", "kind", "uid"] {
        let why = bad(&request(|review| review["request"][field] = "\u{1}".repeat(100_000).into())).reason;
        assert!(why.len() < 100, "{field}: {why}");
    }
    for body in ["\"x\"", "{\"request\":\"x\"}"] {
        let why = bad(body.replace('x', &"x".repeat(100_000)).as_bytes()).reason;
        assert!(why.starts_with("not an AdmissionReview: expected an object, got a string"), "{why}");
    }
}

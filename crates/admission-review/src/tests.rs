//! Reviews as API servers send them, and as nobody should.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use proxy_core::admission::{InjectOptions, Injection, injection};
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
            "userInfo": { "username": "somebody", "groups": ["a"] },
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
    let bad = review(body).expect_err("it is bad");
    let answer: Value = serde_json::from_slice(&bad.answer().to_vec()).unwrap();
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!(bad.uid), &json!(false)));
    assert_eq!((&response["status"]["message"], &response["status"]["code"]), (&json!(bad.why), &json!(400)));
    assert_eq!(response.get("patch"), None);
    bad
}

fn pod_of(body: &[u8]) -> PodReview {
    match review(body) {
        Ok(Review::Pod(pod)) => pod,
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_a_pod_what_matters_is_kept() {
    let pod = pod_of(&request(|_| ()));
    assert_eq!((pod.uid.as_str(), pod.namespace.as_str(), pod.dry_run), ("u-1", "default", false));
    let expected = json!({
        // The patch adds a label to those that there are.
        "metadata": { "name": "p", "labels": { "a": "b" } },
        "spec": { "containers": [{ "name": "app", "env": [] }] },
    });
    assert_eq!((pod.pod, pod.old_pod), (expected, None));
}

#[test]
fn ephemeral_containers_come_with_the_pod_as_it_was() {
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
fn other_operations_pass() {
    for (operation, sub_resource) in
        [("UPDATE", ""), ("DELETE", ""), ("CREATE", "binding"), ("UPDATE", "status")]
    {
        let body = request(|review| {
            review["request"]["operation"] = operation.into();
            review["request"]["subResource"] = sub_resource.into();
        });
        assert_eq!(review(&body), Ok(Review::Other { uid: "u-1".to_owned() }), "{operation} {sub_resource}");
    }
    let answer: Value = serde_json::from_slice(&pass("u-1").to_vec()).unwrap();
    assert_eq!(answer["response"], json!({ "uid": "u-1", "allowed": true }));
}

#[test]
fn an_answer_carries_the_patch_as_base64() {
    let pod = pod_of(&request(|_| ()));
    let services = snapshot([svc("db").ip("10.0.0.1").tcp("", 80).into()]);
    let none = BTreeMap::new();
    let done = injection(&services, &InjectOptions::default(), &pod.admission(&none));
    let answer: Value = serde_json::from_slice(&answer(&pod.uid, &done).to_vec()).unwrap();
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
fn what_containers_have_in_common_is_shared_and_what_is_sent_is_what_was_decided() {
    let names: Vec<String> = (0..20).map(|number| format!("service-{number:02}")).collect();
    let services = snapshot(names.iter().map(|name| svc(name).ip("10.0.0.1").tcp("http", 80).into()));
    let own = |name: &str| json!([{ "name": name, "value": "$(A)" }, { "name": "B", "value": "\u{e4}\"" }]);
    // In the middle, first, last, and nothing of ours.
    let containers = ["SERVICE_07_PORT", "SERVICE_00_SERVICE_HOST", "SERVICE_19_PORT_80_TCP_ADDR", "A"];
    let containers: Vec<Value> =
        containers.iter().map(|name| json!({ "name": "c", "env": own(name) })).collect();
    let pod =
        pod_of(&request(|review| review["request"]["object"]["spec"]["containers"] = containers.into()));
    let done = injection(&services, &InjectOptions::default(), &pod.admission(&BTreeMap::new()));
    let answer = answer("u", &done);
    let text: Value = serde_json::from_slice(&answer.to_vec()).unwrap();
    assert_eq!(answer.size(), answer.to_vec().len());
    let sent = STANDARD.decode(text["response"]["patch"].as_str().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), json!(done.patch));
    let pieces = answer.into_pieces();
    let shared: usize = pieces.iter().filter(|piece| matches!(piece, Piece::Shared(_))).count();
    assert_eq!(shared, 5, "two before and after what is in the middle");
}

#[test]
fn a_denied_pod_has_a_reason_and_no_patch() {
    let injection =
        Injection { denied: Some("no".to_owned()), warnings: vec!["w".to_owned()], ..Injection::default() };
    let answer: Value = serde_json::from_slice(&answer("u-1", &injection).to_vec()).unwrap();
    let status = json!({ "code": 403, "reason": "Forbidden", "message": "no" });
    let expected = json!({ "uid": "u-1", "allowed": false, "status": status, "warnings": ["w"] });
    assert_eq!(answer["response"], expected);
}

#[test]
fn what_is_wrong_with_a_request_is_said_with_its_uid() {
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
        assert!(bad.why.contains(why), "{field}: {bad:?}");
    }
    let old = bad(&request(|review| {
        review["request"]["operation"] = "UPDATE".into();
        review["request"]["subResource"] = "ephemeralcontainers".into();
    }));
    assert!(old.why.contains("oldObject"), "{old:?}");
    for (field, value) in [("apiVersion", "admission.k8s.io/v1beta1"), ("kind", "Review")] {
        let bad = bad(&request(|review| review[field] = value.into()));
        assert!(bad.uid == "u-1" && bad.why.contains(value), "{bad:?}");
    }
}

#[test]
fn what_is_no_review_is_answered() {
    let cases: [&[u8]; 9] =
        [b"", b"{}", b"null", b"[]", b"5", b"{\"request\":null}", b"{\"request\":[]}", b"\xff\xfe", b"{} {}"];
    for body in cases {
        assert_eq!(bad(body).uid, "", "{body:?}");
    }
}

#[test]
fn a_body_that_breaks_off_anywhere_is_answered_with_the_uid_once_it_was_read() {
    let body = request(|_| ());
    let uid_end = String::from_utf8(body.clone()).unwrap().find("\"u-1\"").unwrap() + 5;
    for end in 0..body.len() {
        assert_eq!(bad(&body[..end]).uid, if end >= uid_end { "u-1" } else { "" }, "{end}");
    }
}

#[test]
fn an_object_that_cannot_be_read_does_not_hide_the_uid() {
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
    assert!(env.uid == "u-1" && env.why.starts_with("object: "), "{env:?}");
    let nothing = pod_of(&body("[[1,2.5,-3,true,null,\"x\"]]"));
    assert_eq!(nothing.pod, json!([]));
    let mut no_text = body("{\"metadata\":{\"name\":\"?\"}}");
    let at = no_text.iter().position(|byte| *byte == b'?').unwrap();
    no_text[at] = 0xff;
    assert!(!bad(&no_text).why.is_empty());
}

/// A review whose pod has these many variables in one container.
fn with_variables(count: usize) -> Vec<u8> {
    let env = vec![json!({ "name": "a" }); count];
    request(|review| review["request"]["object"]["spec"]["containers"][0]["env"] = env.into())
}

#[test]
fn a_pod_whose_entries_would_take_too_much_memory_is_left_alone_and_its_owner_is_told() {
    assert_eq!(pod_of(&with_variables(9_000)).pod["spec"]["containers"][0]["env"][8_999]["name"], "a");
    let Ok(Review::TooLarge { uid, why }) = review(&with_variables(200_000)) else { panic!("it is taken") };
    assert!(uid == "u-1" && why.contains("more entries than fit into 8388608 bytes"), "{why}");
    let answer: Value = serde_json::from_slice(&pass_too_large(&uid, &why).to_vec()).unwrap();
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-1"), &json!(true)));
    assert!(response["patch"].is_null() && response["warnings"][0].as_str().unwrap().contains(&why));
}

#[test]
fn variables_that_texts_refer_to_count_as_entries() {
    let value: String = (0..150_000).map(|number| format!("$({number:05x})")).collect();
    let env = json!([{ "name": "a", "value": value }]);
    let body = request(|review| review["request"]["object"]["spec"]["containers"][0]["env"] = env);
    assert!(matches!(review(&body), Ok(Review::TooLarge { .. })));
}

#[test]
fn metadata_that_no_api_server_stores_is_left_alone() {
    for (field, value) in [
        ("name", json!("n".repeat(254))),
        ("generateName", json!("n".repeat(254))),
        ("annotations", json!({ "portico.dev/services": "=,".repeat(140_000) })),
    ] {
        let body = request(|review| review["request"]["object"]["metadata"][field] = value);
        let Ok(Review::TooLarge { uid, why }) = review(&body) else { panic!("{field} is taken") };
        assert!(uid == "u-1" && why.contains(field), "{why}");
    }
}

#[test]
fn a_field_of_the_request_that_is_too_long_is_refused_without_being_quoted() {
    for field in ["namespace", "operation", "subResource", "kind", "uid"] {
        let why = bad(&request(|review| review["request"][field] = "\u{1}".repeat(100_000).into())).why;
        assert!(why.len() < 100, "{field}: {why}");
    }
    for body in ["\"x\"", "{\"request\":\"x\"}"] {
        let why = bad(body.replace('x', &"x".repeat(100_000)).as_bytes()).why;
        assert!(why.starts_with("this is no review: a text stands where an object should"), "{why}");
    }
}

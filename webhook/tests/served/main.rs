//! The program without an API server: its responses to valid and invalid requests.

mod certificates;
mod memory;
mod pressure;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use test_support::caller::Caller;
use test_support::eventually::eventually;
use test_support::review::{REDIS, apply_patch, names, pod, review, with_annotations};
use test_support::temp_dir::TempDir;
use test_support::webhook::Webhook;

/// A namespace whose pods get their variables by ConfigMap.
const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: {portico.dev/inject: \
    configmap}}\n---\n";

fn start_webhook() -> (TempDir, Webhook) {
    let dir = TempDir::new("webhook");
    let webhook = Webhook::on_manifests(&dir, REDIS, &["--drain", "1"]);
    (dir, webhook)
}

#[test]
fn pod_gets_the_variables_of_the_services_of_its_namespace() {
    let (dir, webhook) = start_webhook();
    let mut caller = Caller::local(webhook.address).expect("connect");
    let answer = caller.review(&review("u-1", &pod("a"))).expect("a response");
    assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&"u-1".into(), &true.into()));
    let changed = apply_patch(&pod("a"), &answer);
    assert_eq!(names(&changed, 0).len(), 7);
    assert_eq!(changed["spec"]["enableServiceLinks"], false);
    // A pod that has the variables is not changed again.
    let again = caller.review(&review("u-2", &changed)).expect("a response");
    assert_eq!(apply_patch(&changed, &again), changed);
    dir.write("manifests/services.yaml", REDIS.replace("redis", "mysql"));
    eventually("the changed service is used", || {
        let answer = caller.review(&review("u-3", &pod("a"))).expect("a response");
        names(&apply_patch(&pod("a"), &answer), 0).contains(&"MYSQL_PORT".to_owned()).then_some(())
    });
    dir.write("manifests/services.yaml", [NAMESPACE, REDIS].concat());
    eventually("the annotation of the namespace is used", || {
        let answer = caller.review(&review("u-4", &pod("a"))).expect("a response");
        apply_patch(&pod("a"), &answer)["spec"]["containers"][0]["envFrom"].is_array().then_some(())
    });
}

#[test]
fn every_malformed_review_is_denied_with_a_reason_and_its_uid() {
    let (_folder, webhook) = start_webhook();
    let mut caller = Caller::local(webhook.address).expect("connect");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let good = String::from_utf8(review("u-7", &pod("a"))).expect("text");
    let mut not_text = review("u-7", &pod("a"));
    let at = not_text.windows(4).position(|bytes| bytes == b"main").expect("the container");
    not_text[at] = 0xff;
    // The uid of the response, whether the request is allowed, and a part of the reason if it is not.
    let cases: [(&str, Option<&str>, Vec<u8>); 9] = [
        ("", Some("EOF"), b"".to_vec()),
        ("", Some("EOF"), b"{".to_vec()),
        ("", Some("expected value"), b"\xff\xfe".to_vec()),
        ("u-7", Some("unicode"), not_text),
        ("u-7", Some("Node"), good.replace("\"Pod\"", "\"Node\"").into_bytes()),
        (
            "u-7",
            Some("v1beta1"),
            good.replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1").into_bytes(),
        ),
        ("u-7", Some("object"), good.replace("\"object\"", "\"objekt\"").into_bytes()),
        // Unknown fields are skipped, however deep they are.
        ("u-7", None, good.replace("\"object\":{", &format!("\"object\":{{\"x\":{deep},")).into_bytes()),
        ("", Some("sequence"), deep.into_bytes()),
    ];
    for (uid, denied, body) in cases {
        let answer = caller.review(&body).expect("a response");
        let what = String::from_utf8_lossy(&body[..body.len().min(300)]);
        let response = &answer["response"];
        assert_eq!(response["uid"], uid, "{what}");
        assert_eq!(response["allowed"], denied.is_none(), "{what}: {response}");
        match denied {
            Some(reason) => {
                let message = response["status"]["message"].as_str().unwrap_or_default();
                assert!(message.contains(reason), "{reason}: {message}");
                assert!(response["patch"].is_null(), "{what}");
            }
            None => assert_eq!(names(&apply_patch(&pod("a"), &answer), 0).len(), 7, "{what}"),
        }
    }
    assert_eq!(webhook.metric("requests_total{outcome=\"bad_review\"}"), 8.0);
    let mut many = pod("many");
    many["spec"]["containers"] =
        (0..5_000).map(|number| serde_json::json!({"name": format!("c{number}")})).collect();
    let answer = caller.review(&review("u-8", &many)).expect("a response");
    assert_eq!((&answer["response"]["allowed"], &answer["response"]["patch"]), (&true.into(), &Value::Null));
    assert!(answer["response"]["warnings"][0].as_str().is_some_and(|text| text.contains("containers")));
    let invalid = with_annotations(pod("a"), &[("portico.dev/max-bytes", "lots")]);
    let answer = caller.review(&review("u-9", &invalid)).expect("a response");
    assert_eq!(names(&apply_patch(&invalid, &answer), 0).len(), 7);
    assert!(answer["response"]["warnings"][0].as_str().is_some_and(|text| text.contains("max-bytes")));
}

#[test]
fn wrong_path_method_and_length_are_client_errors() {
    let (_folder, webhook) = start_webhook();
    let mut caller = Caller::local(webhook.address).expect("connect");
    assert_eq!(caller.request("POST", "/other", b"{}").expect("a response").0, 404);
    let mut caller = Caller::local(webhook.address).expect("connect");
    assert_eq!(caller.request("GET", "/mutate", b"").expect("a response").0, 405);
    let mut caller = Caller::local(webhook.address).expect("connect");
    caller.send(Caller::head("POST", "/mutate", 100 << 20).as_bytes()).expect("send");
    assert_eq!(caller.read_response().expect("a response").0, 413);
    let mut caller = Caller::local(webhook.address).expect("connect");
    // In chunks, without a length: the last byte exceeds the limit, so that nothing is left to send.
    caller.send(b"POST /mutate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").expect("send");
    let piece = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    (0..7).for_each(|_| caller.send(&piece).expect("send"));
    caller.send(b"1\r\n \r\n").expect("send");
    assert_eq!(caller.read_response().expect("a response").0, 413);
    assert_eq!(webhook.metric("requests_total{outcome=\"bad_request\"}"), 4.0);
    let mut caller = Caller::local(webhook.address).expect("connect");
    caller.review(&review("u", &pod("a"))).expect("the next request succeeds");
}

#[test]
fn plain_http_and_a_wrong_server_name_are_closed_and_counted() {
    let (_folder, webhook) = start_webhook();
    let mut plain = TcpStream::connect(webhook.address).expect("connect");
    plain.write_all(b"POST /mutate HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    let _ = plain.read_to_end(&mut Vec::new());
    webhook.wait_until("plain HTTP is counted", |webhook| {
        webhook.metric("connections_closed_total{reason=\"not_tls\"}") == 1.0
    });
    assert!(Caller::new(webhook.address, "another.service.svc").is_err());
    webhook.wait_until("the name is counted", |webhook| {
        webhook.metric("connections_closed_total{reason=\"no_such_name\"}") == 1.0
    });
    Caller::new(webhook.address, "portico-webhook.portico-system.svc").expect("its own name");
}

#[test]
fn slow_client_is_closed_before_an_idle_one() {
    let (_folder, webhook) = start_webhook();
    let start = Instant::now();
    let mut idle = Caller::local(webhook.address).expect("connect");
    idle.review(&review("u-1", &pod("a"))).expect("a response");
    let mut slow_head = Caller::local(webhook.address).expect("connect");
    slow_head.review(&review("u-1", &pod("a"))).expect("a response");
    slow_head.send(b"POST /mutate HTTP/1.1\r\n").expect("send");
    let mut slow_body = Caller::local(webhook.address).expect("connect");
    slow_body.send(Caller::head("POST", "/mutate?timeout=30s", 100).as_bytes()).expect("send");
    let silent = TcpStream::connect(webhook.address).expect("connect");
    assert_eq!(slow_body.read_response().expect("a response").0, 408);
    slow_head.wait_until_closed();
    let mut rest = Vec::new();
    let _ = (&silent).read_to_end(&mut rest);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    webhook.wait_until("both are counted", |webhook| {
        webhook.metric("connections_closed_total{reason=\"idle_or_slow\"}") >= 1.0
            && webhook.metric("connections_closed_total{reason=\"slow_handshake\"}") >= 1.0
    });
    // This connection is idle for longer than the timeout of the others.
    idle.review(&review("u-2", &pod("a"))).expect("a response");
}

#[test]
fn timeout_of_the_api_server_is_not_exceeded() {
    let (_folder, webhook) = start_webhook();
    let mut caller = Caller::local(webhook.address).expect("connect");
    let start = Instant::now();
    caller.send(Caller::head("POST", "/mutate?timeout=1s", 100).as_bytes()).expect("send");
    assert_eq!(caller.read_response().expect("a response").0, 504);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn graceful_shutdown_fails_no_request() {
    let (_folder, webhook) = start_webhook();
    let address = webhook.address;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut requests = 0;
                // Until it accepts no more connections, as after its endpoint is removed.
                while let Ok(mut caller) = Caller::local(address) {
                    loop {
                        let body = review("u", &pod("a"));
                        let (status, head, _) = caller
                            .request("POST", "/mutate", &body)
                            .expect("no request on a connection fails");
                        assert_eq!(status, 200);
                        requests += 1;
                        if head.to_ascii_lowercase().contains("connection: close") {
                            break;
                        }
                    }
                }
                requests
            })
        })
        .collect();
    eventually("it is under load", || {
        (webhook.metric("request_duration_seconds_count") > 50.0).then_some(())
    });
    webhook.terminate();
    eventually("it is not ready", || (webhook.readyz().0 == 503).then_some(()));
    assert!(webhook.wait().success());
    let requests: Vec<u32> = callers.into_iter().map(|caller| caller.join().expect("no failure")).collect();
    assert!(requests.iter().all(|requests| *requests > 10), "{requests:?}");
}

#[test]
fn review_command_explains_the_result_offline() {
    let dir = TempDir::new("webhook");
    let manifests = dir.write("services.yaml", REDIS);
    let run = |args: &[&str], body: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portico-webhook"));
        command.arg("review").arg("-f").arg(&manifests).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
        child.stdin.take().expect("a pipe").write_all(body).expect("send the review");
        let output = child.wait_with_output().expect("a response");
        (output.status.success(), String::from_utf8(output.stdout).expect("text"))
    };
    let (succeeds, text) = run(&[], &review("u", &pod("a")));
    assert!(succeeds && text.contains("containers main: inline: inline is exact here"), "{text}");
    assert!(text.contains("\n  REDIS_PORT=tcp://10.0.0.11:6379\n"), "{text}");
    let (succeeds, text) = run(&["--mode", "configmap", "-o", "json"], &review("u", &pod("a")));
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let changed = apply_patch(&pod("a"), &answer);
    assert!(
        succeeds && changed["spec"]["containers"][0]["envFrom"][0]["configMapRef"].is_object(),
        "{changed}"
    );
    dir.write("services.yaml", [NAMESPACE, REDIS].concat());
    let (succeeds, text) = run(&[], &review("u", &pod("a")));
    assert!(succeeds && text.contains("containers main: ConfigMap portico-env-"), "{text}");
    let (succeeds, text) = run(&[], b"{}");
    assert!(!succeeds && text.starts_with("rejected: "), "{text}");
}

#[test]
fn manual_pages_and_completions_contain_every_flag() {
    let dir = TempDir::new("webhook");
    let output = |args: &[&str]| {
        let result = Command::new(env!("CARGO_BIN_EXE_portico-webhook")).args(args).output().expect("start");
        assert!(result.status.success(), "{args:?}: {}", String::from_utf8_lossy(&result.stderr));
        String::from_utf8(result.stdout).expect("text")
    };
    let at = dir.write("of-the-man-pages", "").parent().expect("a directory").to_owned();
    output(&["man", at.to_str().expect("text")]);
    let page = |name: &str| std::fs::read_to_string(at.join(name)).expect(name).replace("\\-", "-");
    let script = output(&["completions", "bash"]);
    for (help, page) in [
        (&["--help"][..], page("portico-webhook.1")),
        (&["review", "--help"], page("portico-webhook-review.1")),
    ] {
        let help = output(help);
        let flags = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2);
        let flags: Vec<&str> =
            flags.map(|flag| flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())).collect();
        assert!(flags.len() > 4, "{flags:?}");
        for flag in flags {
            assert!(page.contains(flag) && script.contains(flag), "{flag}");
        }
    }
}

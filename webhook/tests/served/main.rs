//! The program without an API server: what it answers, and what a client can do wrong.

mod certificates;
mod memory;
mod pressure;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use test_support::caller::Caller;
use test_support::review::{REDIS, annotated, names, patched, pod, review};
use test_support::temp_dir::TempDir;
use test_support::webhook::{Webhook, until};

/// What the pods of this namespace want.
const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: {portico.dev/inject: \
    configmap}}\n---\n";

fn webhook() -> (TempDir, Webhook) {
    let folder = TempDir::new("webhook");
    let webhook = Webhook::on_manifests(&folder, REDIS, &["--drain", "1"]);
    (folder, webhook)
}

#[test]
fn a_pod_gets_the_variables_of_the_services_of_its_namespace() {
    let (folder, webhook) = webhook();
    let mut caller = Caller::local(webhook.address).expect("connect");
    let answer = caller.review(&review("u-1", &pod("a"))).expect("an answer");
    assert_eq!((&answer["response"]["uid"], &answer["response"]["allowed"]), (&"u-1".into(), &true.into()));
    let changed = patched(&pod("a"), &answer);
    assert_eq!(names(&changed, 0).len(), 7);
    assert_eq!(changed["spec"]["enableServiceLinks"], false);
    // What is there is not put there twice.
    let again = caller.review(&review("u-2", &changed)).expect("an answer");
    assert_eq!(patched(&changed, &again), changed);
    folder.write("manifests/services.yaml", &REDIS.replace("redis", "mysql"));
    until("the change is known", || {
        let answer = caller.review(&review("u-3", &pod("a"))).expect("an answer");
        names(&patched(&pod("a"), &answer), 0).contains(&"MYSQL_PORT".to_owned()).then_some(())
    });
    folder.write("manifests/services.yaml", &[NAMESPACE, REDIS].concat());
    until("what the namespace wants is known", || {
        let answer = caller.review(&review("u-4", &pod("a"))).expect("an answer");
        patched(&pod("a"), &answer)["spec"]["containers"][0]["envFrom"].is_array().then_some(())
    });
}

#[test]
fn whatever_comes_has_an_answer_with_a_reason_and_the_uid_where_there_is_one() {
    let (_folder, webhook) = webhook();
    let mut caller = Caller::local(webhook.address).expect("connect");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let good = String::from_utf8(review("u-7", &pod("a"))).expect("text");
    let mut not_text = review("u-7", &pod("a"));
    let at = not_text.windows(4).position(|bytes| bytes == b"main").expect("the container");
    not_text[at] = 0xff;
    let cases: [(&str, Vec<u8>); 9] = [
        ("", b"".to_vec()),
        ("", b"{".to_vec()),
        ("", b"\xff\xfe".to_vec()),
        ("u-7", not_text),
        ("u-7", good.replace("\"Pod\"", "\"Node\"").into_bytes()),
        ("u-7", good.replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1").into_bytes()),
        ("u-7", good.replace("\"object\"", "\"objekt\"").into_bytes()),
        ("u-7", good.replace("\"object\":{", &format!("\"object\":{{\"x\":{deep},")).into_bytes()),
        ("", deep.into_bytes()),
    ];
    for (uid, body) in cases {
        let answer = caller.review(&body).expect("an answer");
        let what = String::from_utf8_lossy(&body[..body.len().min(300)]);
        let response = &answer["response"];
        assert_eq!(response["uid"], uid, "{what}");
        if response["allowed"] == false {
            assert!(response["status"]["message"].as_str().is_some_and(|why| !why.is_empty()), "{answer}");
        }
        assert!(response["patch"].is_null() || response["patchType"] == "JSONPatch", "{what}");
    }
    let mut many = pod("many");
    many["spec"]["containers"] =
        (0..5_000).map(|number| serde_json::json!({"name": format!("c{number}")})).collect();
    let answer = caller.review(&review("u-8", &many)).expect("an answer");
    assert_eq!((&answer["response"]["allowed"], &answer["response"]["patch"]), (&true.into(), &Value::Null));
    assert!(answer["response"]["warnings"][0].as_str().is_some_and(|text| text.contains("containers")));
    let odd = annotated(pod("a"), &[("portico.dev/max-bytes", "lots")]);
    let answer = caller.review(&review("u-9", &odd)).expect("an answer");
    assert_eq!(names(&patched(&odd, &answer), 0).len(), 7);
    assert!(answer["response"]["warnings"][0].as_str().is_some_and(|text| text.contains("max-bytes")));
    assert!(webhook.metric("requests_total{outcome=\"bad_review\"}") >= 6.0);
}

#[test]
fn other_paths_methods_and_bodies_that_are_too_long_are_the_clients_mistake() {
    let (_folder, webhook) = webhook();
    let mut caller = Caller::local(webhook.address).expect("connect");
    assert_eq!(caller.ask("POST", "/other", b"{}").expect("an answer").0, 404);
    let mut caller = Caller::local(webhook.address).expect("connect");
    assert_eq!(caller.ask("GET", "/mutate", b"").expect("an answer").0, 405);
    let mut caller = Caller::local(webhook.address).expect("connect");
    caller.send(Caller::head("POST", "/mutate", 100 << 20).as_bytes()).expect("send");
    assert_eq!(caller.answer().expect("an answer").0, 413);
    let mut caller = Caller::local(webhook.address).expect("connect");
    // More than it says: in pieces without a length.
    caller.send(b"POST /mutate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").expect("send");
    let piece = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    // It may be closed before all of it is sent.
    let sent = (0..8).try_for_each(|_| caller.send(&piece));
    if sent.is_ok() {
        assert_eq!(caller.answer().expect("an answer").0, 413);
    }
    assert!(webhook.metric("requests_total{outcome=\"bad_request\"}") >= 4.0);
    let mut caller = Caller::local(webhook.address).expect("connect");
    caller.review(&review("u", &pod("a"))).expect("it goes on");
}

#[test]
fn what_is_no_tls_and_what_is_meant_for_somebody_else_is_closed_and_counted() {
    let (_folder, webhook) = webhook();
    let mut plain = TcpStream::connect(webhook.address).expect("connect");
    plain.write_all(b"POST /mutate HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    let _ = plain.read_to_end(&mut Vec::new());
    webhook
        .until("plain HTTP is counted", |webhook| webhook.metric("closed_total{reason=\"not_tls\"}") == 1.0);
    assert!(Caller::new(webhook.address, "somebody.else.svc").is_err());
    webhook.until("the name is counted", |webhook| {
        webhook.metric("closed_total{reason=\"no_such_name\"}") == 1.0
    });
    Caller::new(webhook.address, "portico-webhook.portico-system.svc").expect("its own name");
}

#[test]
fn a_slow_client_is_cut_off_and_an_idle_one_is_not_at_once() {
    let (_folder, webhook) = webhook();
    let began = Instant::now();
    let mut idle = Caller::local(webhook.address).expect("connect");
    idle.review(&review("u-1", &pod("a"))).expect("an answer");
    let mut slow_head = Caller::local(webhook.address).expect("connect");
    slow_head.review(&review("u-1", &pod("a"))).expect("an answer");
    slow_head.send(b"POST /mutate HTTP/1.1\r\n").expect("send");
    let mut slow_body = Caller::local(webhook.address).expect("connect");
    slow_body.send(Caller::head("POST", "/mutate?timeout=30s", 100).as_bytes()).expect("send");
    let silent = TcpStream::connect(webhook.address).expect("connect");
    assert_eq!(slow_body.answer().expect("an answer").0, 408);
    slow_head.closed();
    let mut nothing = Vec::new();
    let _ = (&silent).read_to_end(&mut nothing);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    webhook.until("both are counted", |webhook| {
        webhook.metric("closed_total{reason=\"idle_or_slow\"}") >= 1.0
            && webhook.metric("closed_total{reason=\"slow_handshake\"}") >= 1.0
    });
    // Longer than the others had.
    idle.review(&review("u-2", &pod("a"))).expect("an answer");
}

#[test]
fn the_time_that_the_api_server_gives_is_not_exceeded() {
    let (_folder, webhook) = webhook();
    let mut caller = Caller::local(webhook.address).expect("connect");
    let began = Instant::now();
    caller.send(Caller::head("POST", "/mutate?timeout=1s", 100).as_bytes()).expect("send");
    assert_eq!(caller.answer().expect("an answer").0, 504);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn at_the_end_no_call_fails() {
    let (_folder, webhook) = webhook();
    let address = webhook.address;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut calls = 0;
                // Until it takes no more connections, as when its endpoint is gone.
                while let Ok(mut caller) = Caller::local(address) {
                    loop {
                        let body = review("u", &pod("a"));
                        let (status, head, _) =
                            caller.ask("POST", "/mutate", &body).expect("no call on a connection fails");
                        assert_eq!(status, 200);
                        calls += 1;
                        if head.to_ascii_lowercase().contains("connection: close") {
                            break;
                        }
                    }
                }
                calls
            })
        })
        .collect();
    until("it is under load", || (webhook.metric("request_seconds_count") > 50.0).then_some(()));
    webhook.terminate();
    until("it says that it is ending", || (webhook.readyz().0 == 503).then_some(()));
    assert!(webhook.ended().success());
    let calls: Vec<u32> = callers.into_iter().map(|caller| caller.join().expect("no failure")).collect();
    assert!(calls.iter().all(|calls| *calls > 10), "{calls:?}");
}

#[test]
fn a_review_is_answered_offline_with_the_reasons() {
    let folder = TempDir::new("webhook");
    let manifests = folder.write("services.yaml", REDIS);
    let run = |args: &[&str], body: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portico-webhook"));
        command.arg("review").arg("-f").arg(&manifests).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start");
        child.stdin.take().expect("a pipe").write_all(body).expect("send the review");
        let output = child.wait_with_output().expect("an answer");
        (output.status.success(), String::from_utf8(output.stdout).expect("text"))
    };
    let (is_good, text) = run(&[], &review("u", &pod("a")));
    assert!(is_good && text.contains("containers main: inline, since inline is exact here"), "{text}");
    assert!(text.contains("\n  REDIS_PORT=tcp://10.0.0.11:6379\n"), "{text}");
    let (is_good, text) = run(&["--mode", "configmap", "-o", "json"], &review("u", &pod("a")));
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let changed = patched(&pod("a"), &answer);
    assert!(
        is_good && changed["spec"]["containers"][0]["envFrom"][0]["configMapRef"].is_object(),
        "{changed}"
    );
    folder.write("services.yaml", &[NAMESPACE, REDIS].concat());
    let (is_good, text) = run(&[], &review("u", &pod("a")));
    assert!(is_good && text.contains("containers main: by ConfigMap portico-env-"), "{text}");
    let (is_good, text) = run(&[], b"{}");
    assert!(!is_good && text.starts_with("refused: "), "{text}");
}

#[test]
fn its_manual_pages_and_completions_know_every_flag() {
    let folder = TempDir::new("webhook");
    let said = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_portico-webhook")).args(args).output().expect("start");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let at = folder.write("of-the-man-pages", "").parent().expect("a folder").to_owned();
    said(&["man", at.to_str().expect("text")]);
    let page = |name: &str| std::fs::read_to_string(at.join(name)).expect(name).replace("\\-", "-");
    let script = said(&["completions", "bash"]);
    for (help, page) in [
        (&["--help"][..], page("portico-webhook.1")),
        (&["review", "--help"], page("portico-webhook-review.1")),
    ] {
        let help = said(help);
        let flags = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2);
        let flags: Vec<&str> =
            flags.map(|flag| flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())).collect();
        assert!(flags.len() > 4, "{flags:?}");
        for flag in flags {
            assert!(page.contains(flag) && script.contains(flag), "{flag}");
        }
    }
}

//! Attacks with the token of a compromised webhook, and attacks of other users on managed ConfigMaps, on a real API
//! server with the manifests of the chart.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use test_support::apiserver::ApiServer;
use test_support::apiserver::request::Sender;
use test_support::eventually::eventually;
use test_support::program::repository;
use test_support::webhook_cluster::WEBHOOK_CONFIGURATION;

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const REGISTRATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const NAME: &str = "portico-webhook";

/// An API server with the manifests, as an operator applies them, and the webhook's own registration on it.
fn api_with_manifests() -> ApiServer {
    let api = ApiServer::real();
    let manifests = repository().join("deploy/manifests/portico.yaml");
    let apply = ["apply", "--server-side", "-f", manifests.to_str().expect("a path")];
    api.kubectl(&apply).unwrap_or_else(|why| panic!("{why}"));
    api
}

/// An attack: its effect, and the change of the registration.
type Attack = (&'static str, Box<dyn Fn(&mut Value)>);

fn attack(what: &'static str, change: impl Fn(&mut Value) + 'static) -> Attack {
    (what, Box::new(change))
}

fn attack_with_value(what: &'static str, pointer: &'static str, value: Value) -> Attack {
    attack(what, move |object| {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        object.pointer_mut(parent).expect(parent)[field] = value.clone();
    })
}

fn attacks() -> Vec<Attack> {
    let everything = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"],
        "scope": "*"}]);
    vec![
        attack_with_value("every resource", "/webhooks/0/rules", everything),
        attack_with_value("Secrets", "/webhooks/0/rules/0/resources", json!(["pods", "secrets"])),
        attack_with_value(
            "updates and deletions",
            "/webhooks/0/rules/0/operations",
            json!(["CREATE", "UPDATE", "DELETE"]),
        ),
        attack_with_value(
            "another group",
            "/webhooks/0/rules/0/apiGroups",
            json!(["", "rbac.authorization.k8s.io"]),
        ),
        attack_with_value("objects without a namespace", "/webhooks/0/rules/0/scope", json!("*")),
        attack_with_value("all namespaces", "/webhooks/0/namespaceSelector", json!({})),
        attack_with_value("pods of Portico", "/webhooks/0/objectSelector", json!({})),
        attack_with_value("fail closed", "/webhooks/0/failurePolicy", json!("Fail")),
        attack_with_value("match exactly", "/webhooks/0/matchPolicy", json!("Exact")),
        attack_with_value("never again", "/webhooks/0/reinvocationPolicy", json!("Never")),
        attack("other side effects", |object| {
            let is_none = object["webhooks"][1]["sideEffects"] == "None";
            object["webhooks"][1]["sideEffects"] = if is_none { "NoneOnDryRun" } else { "None" }.into();
        }),
        attack_with_value("hold requests up", "/webhooks/1/timeoutSeconds", json!(30)),
        attack("mirror pods", |object| {
            object["webhooks"][0].as_object_mut().expect("fields").remove("matchConditions");
        }),
        attack_with_value("any pod", "/webhooks/0/matchConditions/0/expression", json!("true")),
        attack_with_value(
            "another version of reviews",
            "/webhooks/0/admissionReviewVersions",
            json!(["v1", "v1beta1"]),
        ),
        attack("a server elsewhere", |object| {
            object["webhooks"][0]["clientConfig"] = json!({"url": "https://192.0.2.7/mutate"});
        }),
        attack_with_value("another service", "/webhooks/0/clientConfig/service/name", json!("other")),
        attack_with_value(
            "a service elsewhere",
            "/webhooks/0/clientConfig/service/namespace",
            json!("default"),
        ),
        attack_with_value("another path", "/webhooks/0/clientConfig/service/path", json!("/other")),
        attack_with_value("another port", "/webhooks/0/clientConfig/service/port", json!(444)),
        attack("a further webhook", |object| {
            let mut further = object["webhooks"][0].clone();
            further["name"] = "all.portico.dev".into();
            object["webhooks"].as_array_mut().expect("a list").push(further);
        }),
        attack("one webhook less", |object| {
            object["webhooks"].as_array_mut().expect("a list").pop();
        }),
        attack("no webhook", |object| object["webhooks"] = json!([])),
        attack_with_value("another name", "/webhooks/0/name", json!("other.portico.dev")),
        attack("another order", |object| object["webhooks"].as_array_mut().expect("a list").reverse()),
        attack_with_value("a label", "/metadata/labels/mine", json!("yes")),
        attack("no labels", |object| {
            object["metadata"].as_object_mut().expect("fields").remove("labels");
        }),
        attack_with_value("an annotation", "/metadata/annotations", json!({"mine": "yes"})),
        attack_with_value("a finalizer", "/metadata/finalizers", json!(["example.com/mine"])),
        attack_with_value(
            "an owner",
            "/metadata/ownerReferences",
            json!([{"apiVersion": "v1", "kind": "Namespace",
            "name": "default", "uid": "5a0c9c3e-0000-4000-8000-000000000001"}]),
        ),
    ]
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn compromised_webhook_can_change_only_the_ca_bundle_of_its_registration() {
    let api = api_with_manifests();
    let sender = Sender::new(&api.kubeconfig_of_account(NAME));
    let path = format!("{REGISTRATIONS}/{NAME}");
    let registered = || api.get(WEBHOOK_CONFIGURATION, "", NAME).expect("the chart's");
    let put = |query: &str, change: &dyn Fn(&mut Value)| {
        let mut object = registered();
        change(&mut object);
        sender.send("PUT", &format!("{path}{query}"), JSON, &object)
    };
    // A policy takes effect some time after its creation.
    eventually("the policy is in force", || {
        let attempt = put("?dryRun=All", &|object| object["metadata"]["labels"]["probe"] = "x".into());
        (attempt.status != 200).then_some(())
    });
    let before = registered();
    for (attack, change) in attacks() {
        let response = put("", &*change);
        assert_eq!(response.status, 403, "{attack}: {}", response.object);
        let why = response.object["message"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains("the webhook of Portico"), "{attack}: {why}");
    }
    let mut another = before.clone();
    another["metadata"] = json!({"name": "another"});
    for (attack, method, path, content, object) in [
        ("create another", "POST", REGISTRATIONS.to_owned(), JSON, &another),
        ("delete it", "DELETE", path.clone(), JSON, &json!({})),
        ("delete all", "DELETE", REGISTRATIONS.to_owned(), JSON, &json!({})),
        ("patch it", "PATCH", path.clone(), MERGE, &json!({"webhooks": []})),
        ("validate", "POST", REGISTRATIONS.replace("mutating", "validating"), JSON, &another),
    ] {
        let response = sender.send(method, &path, content, object);
        assert_eq!(response.status, 403, "{attack}: {}", response.object);
    }
    let after = registered();
    assert_eq!((&before["webhooks"], &before["metadata"]), (&after["webhooks"], &after["metadata"]));
    // The change that it needs is permitted.
    let key = KeyPair::generate().expect("a key");
    let ca = CertificateParams::new([]).and_then(|params| params.self_signed(&key));
    let bundle = STANDARD.encode(ca.expect("a CA").pem());
    let response = put("", &|object| {
        for index in 0..2 {
            object["webhooks"][index]["clientConfig"]["caBundle"] = bundle.clone().into();
        }
    });
    assert_eq!(response.status, 200, "{}", response.object);
    assert_eq!(registered()["webhooks"][1]["clientConfig"]["caBundle"], *bundle);
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn only_the_webhook_can_write_managed_config_maps() {
    let api = api_with_manifests();
    let kubectl = |args: &[&str]| api.kubectl(args);
    let run = |args: &[&str]| kubectl(args).unwrap_or_else(|why| panic!("{args:?}: {why}"));
    run(&["create", "namespace", "team"]);
    // A controller, which a bare server lacks, aggregates the built-in role admin.
    run(&["create", "role", "all", "--verb=*", "--resource=configmaps", "-n", "team"]);
    run(&["create", "rolebinding", "alice", "--role=all", "--user=alice", "-n", "team"]);
    let webhook = format!("system:serviceaccount:portico-system:{NAME}");
    let as_user = |user: &str, args: &[&str]| kubectl(&[args, &["-n", "team", "--as", user]].concat());
    let create = ["create", "configmap", "portico-env-0123456789abcdef", "--from-literal=A=b"];
    eventually("the policy is in force", || {
        as_user("alice", &[&create[..], &["--dry-run=server"]].concat()).err()
    });
    // The webhook creates one, with its label.
    let path = "/api/v1/namespaces/team/configmaps";
    let labels = json!({"app.kubernetes.io/managed-by": "portico-webhook"});
    let managed = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "portico-env-0123456789abcdef", "labels": labels}, "data": {"A": "b"}});
    let sender = Sender::new(&api.kubeconfig_of_account(NAME));
    let made = sender.send("POST", path, JSON, &managed);
    assert_eq!(made.status, 201, "{}", made.object);
    let name = "portico-env-0123456789abcdef";
    let label = "--labels=app.kubernetes.io/managed-by=portico-webhook";
    for attack in [
        &["create", "configmap", "portico-env-mine"][..],
        &["patch", "configmap", name, "--type=merge", "-p", "{\"data\":{\"A\":\"evil\"}}"],
        &["label", "configmap", name, "app.kubernetes.io/managed-by-"],
        &["annotate", "configmap", name, "portico.dev/used=99999999999"],
    ] {
        let why = as_user("alice", attack).expect_err(&attack.join(" "));
        assert!(why.contains("only the webhook of Portico writes"), "{attack:?}: {why}");
    }
    run(&["create", "configmap", "own", "-n", "team", "--from-literal=A=b"]);
    let why =
        as_user("alice", &["label", "configmap", "own", "app.kubernetes.io/managed-by=portico-webhook"]);
    assert!(why.expect_err("the label").contains("only the webhook of Portico writes"), "{label}");
    // She can write her own ConfigMaps, and delete the webhook's, as deleting the namespace does.
    as_user("alice", &["annotate", "configmap", "own", "a=b"]).unwrap_or_else(|why| panic!("{why}"));
    as_user("alice", &["delete", "configmap", name]).unwrap_or_else(|why| panic!("{why}"));
    // An administrator and controllers of Kubernetes can write any.
    assert_eq!(sender.send("POST", path, JSON, &managed).status, 201);
    run(&["annotate", "configmap", name, "-n", "team", "restored=yes"]);
    for controller in ["generic-garbage-collector", "storage-version-migrator-controller"] {
        let user = format!("system:serviceaccount:kube-system:{controller}");
        let can_update = ["auth", "can-i", "update", "configmaps", "--as", &user, "-n", "team"];
        if kubectl(&can_update).is_ok() {
            as_user(&user, &["annotate", "configmap", name, "--overwrite", "touched=yes"])
                .unwrap_or_else(|why| panic!("{controller}: {why}"));
        }
    }
    let namespace_controller = "system:serviceaccount:kube-system:namespace-controller";
    as_user(namespace_controller, &["delete", "configmap", "--all"]).unwrap_or_else(|why| panic!("{why}"));
    // The other policy restricts the webhook to managed ones.
    let why = as_user(&webhook, &["create", "configmap", "theirs"]).expect_err("not managed");
    assert!(why.contains("can only write its own ConfigMaps"), "{why}");
}

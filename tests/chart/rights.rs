//! Compares the grants of the agent's role with the agent's calls. The webhook's tests do the same for the webhook.

use std::path::Path;

use agent_ipc::{Reply, Request};
use serde_json::{Value, json};

use crate::rendering::variants;
use crate::upgrade;
use test_support::agent::{Agent, AgentDir};
use test_support::apiserver::rights::{Grant, not_called, not_granted};
use test_support::apiserver::{ApiServer, Fault, InitialEvents};
use test_support::helm::{documents, objects, run_helm, text};

/// API groups of operators, which a bare server lacks.
const OPERATOR_GROUPS: [&str; 2] = ["cert-manager.io/v1", "monitoring.coreos.com/v1"];

fn put_objects(api: &ApiServer) {
    api.put(json!({"kind": "Namespace", "metadata": {"name": "portico-system"}}));
    api.put(json!({"kind": "Node", "metadata": {"name": "n1"}, "status": {}}));
    api.put(json!({"kind": "Service", "metadata": {"name": "redis", "namespace": "default"}, "spec": {
        "clusterIP": "10.0.0.11", "ports": [{"port": 6379, "protocol": "TCP"}]}}));
}

/// Starts an agent with this server, and waits until it is synced.
fn start_agent(dir: &AgentDir, kubeconfig: &Path) -> Agent {
    let kubeconfig = kubeconfig.to_str().expect("a path");
    let args = ["--kubeconfig", kubeconfig, "--node", "n1", "--take-over", "--log-level", "debug"];
    let agent = Agent::start_with(dir, &args);
    agent.wait_until("the agent is synced", |agent| agent.request(&Request::Ready, None) == Reply::Done);
    agent
}

#[test]
fn role_of_the_agent_grants_exactly_what_it_calls() {
    let api = ApiServer::double();
    // Lists are only called if the server sends no initial events.
    api.fault(Fault::NoInitialEvents(InitialEvents::Status(422)));
    put_objects(&api);
    api.put(json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.0.0.0/16"]}}));
    let grants = Grant::all(&objects(&[]), "portico-agent");
    assert!(!grants.is_empty());
    let dir = AgentDir::new();
    let agent = start_agent(&dir, &api.kubeconfig_of_account("portico-agent"));
    agent.wait_until("the agent uses all grants", |_| {
        not_called(&api.calls("portico-agent"), &grants).is_empty()
    });
    let calls = api.calls("portico-agent");
    assert!(not_granted(&calls, &grants).is_empty(), "not granted: {:#?}", not_granted(&calls, &grants));
}

#[test]
fn role_of_the_agent_grants_namespaces_only_with_dns() {
    let grants = |values: &[&str]| Grant::all(&objects(values), "portico-agent");
    let (without, with) = (grants(&[]), grants(&["agent.dns.enabled=true"]));
    assert!(without.is_subset(&with) && without.iter().all(|grant| grant.resource != "namespaces"));
    let added: Vec<_> =
        with.difference(&without).map(|grant| (grant.verb.as_str(), grant.resource.as_str())).collect();
    assert_eq!(added, [("list", "namespaces"), ("watch", "namespaces")]);
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn real_api_server_accepts_the_manifests_and_the_agent_needs_only_its_role() {
    let api = ApiServer::real();
    let manifests = test_support::program::repository().join("deploy/manifests/portico.yaml");
    let manifests = manifests.to_str().expect("a path");
    let apply = ["apply", "--server-side", "--validate=strict", "-f", manifests];
    let applied = api.kubectl(&apply).unwrap_or_else(|why| panic!("{why}"));
    let made: Vec<Value> = documents(&text("deploy/manifests/portico.yaml"));
    assert_eq!(applied.lines().count(), made.len(), "{applied}");
    // Applying the manifests again succeeds.
    api.kubectl(&apply).unwrap_or_else(|why| panic!("{why}"));
    put_objects(&api);
    let dir = AgentDir::new();
    let agent = start_agent(&dir, &api.kubeconfig_of_account("portico-agent"));
    let log = agent.log();
    assert!(!log.contains("forbidden") && !log.contains("WARN") && !log.contains("ERROR"), "{log}");
    // The account has no other rights than those of its role.
    let can = |verb: &str, resource: &str| {
        let account = "system:serviceaccount:portico-system:portico-agent";
        api.kubectl(&["auth", "can-i", verb, resource, "--as", account, "-A"]).is_ok()
    };
    assert!(can("watch", "services") && can("list", "endpointslices.discovery.k8s.io"));
    for (verb, resource) in
        [("get", "secrets"), ("list", "pods"), ("update", "nodes"), ("get", "services"), ("create", "events")]
    {
        assert!(!can(verb, resource), "{verb} {resource}");
    }
    api.kubectl(&["delete", "-f", manifests, "--wait=false"]).unwrap_or_else(|why| panic!("{why}"));
    every_variant_is_accepted(&api);
    helm_installs_upgrades_and_leaves_nothing(&api);
    upgrade::registration_of_0_1_0_becomes_that_of_the_chart_and_keeps_the_ca_bundle(&api);
}

/// The life of a release, on a server without controllers.
fn helm_installs_upgrades_and_leaves_nothing(api: &ApiServer) {
    let kubeconfig = api.kubeconfig().to_str().expect("a path").to_owned();
    let release = |verb: &str, args: &[&str]| {
        let on = ["--namespace", "by-helm", "--kubeconfig", &kubeconfig];
        run_helm(&[&[verb, "portico"][..], args, &on].concat()).unwrap_or_else(|why| panic!("{verb}: {why}"))
    };
    let chart = "deploy/helm/portico";
    let notes = release("install", &[chart, "--create-namespace"]);
    assert!(notes.contains("rollout status daemonset/portico-agent"), "{notes}");
    // An upgrade keeps the data that the webhook wrote.
    let secret = "/api/v1/namespaces/by-helm/secrets/portico-webhook-tls";
    let filled = json!({"data": {"tls.crt": "AAAA"}});
    assert_eq!(api.send("PATCH", secret, "application/merge-patch+json", &filled).status, 200);
    release("upgrade", &[chart, "--set", "agent.install.enabled=false,cleanup.enabled=true"]);
    let kept = api.send("GET", secret, "application/json", &Value::Null).object;
    assert_eq!(kept["data"]["tls.crt"], "AAAA");
    release("uninstall", &[]);
    let every = "all,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,clusterroles,\
        clusterrolebindings,mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let every = every.replace(' ', "");
    let left = ["get", &every, "-n", "by-helm", "-l", "app.kubernetes.io/part-of=portico", "-o", "name"];
    assert_eq!(api.kubectl(&left).unwrap_or_else(|why| panic!("{why}")), "");
}

/// Applies the objects of every variant, except for kinds that a bare server lacks.
fn every_variant_is_accepted(api: &ApiServer) {
    api.kubectl(&["create", "namespace", "elsewhere"]).unwrap_or_else(|why| panic!("{why}"));
    let file = std::env::temp_dir().join(format!("portico-chart-{}.json", std::process::id()));
    for (variant, values) in variants() {
        let mut objects = objects(&values);
        objects.retain(|object| {
            object["apiVersion"].as_str().is_some_and(|version| !OPERATOR_GROUPS.contains(&version))
        });
        for object in &mut objects {
            if object["metadata"]["namespace"].is_string() {
                object["metadata"]["namespace"] = "elsewhere".into();
            }
        }
        if objects.is_empty() {
            continue;
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        std::fs::write(&file, list.to_string()).expect("write the objects");
        let file = file.to_str().expect("a path");
        let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", file];
        api.kubectl(&apply).unwrap_or_else(|why| panic!("{variant}: {why}"));
    }
    std::fs::remove_file(&file).expect("remove the file");
}

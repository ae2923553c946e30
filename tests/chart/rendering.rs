//! The objects that the chart renders for each variant, and the values that it rejects.

use serde_json::{Value, json};

use crate::schema::schema_errors;
use test_support::helm::{NAMESPACE, documents, objects, one, rendered, run_helm, text};

const ALL_ON: [&str; 21] = [
    "agent.install.capabilities={DAC_OVERRIDE}",
    "serviceMonitor.enabled=true",
    "serviceMonitor.labels.release=prometheus",
    "agent.metrics.host=0.0.0.0",
    "agent.hostPID=true",
    "agent.counters=true",
    "agent.dns.enabled=true",
    "agent.nodePortals.enabled=true",
    "agent.nodePortals.conntrack.enabled=true",
    "agent.serviceCidrs={10.96.0.0/12,fd00::/112}",
    "agent.seLinuxOptions.type=spc_t",
    "agent.appArmorProfile.type=Unconfined",
    "agent.extraArgs={--apply-interval=20}",
    "agent.extraEnv[0].name=HTTPS_PROXY,agent.extraEnv[0].value=http://proxy:3128",
    "apiServer.host=192.0.2.1",
    "imagePullSecrets[0].name=registry",
    "commonLabels.team=network,commonAnnotations.note=x",
    "webhook.image.digest=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "webhook.networkPolicy.from[0].ipBlock.cidr=192.0.2.0/24",
    "webhook.podAnnotations.a=b,webhook.podLabels.c=d,agent.podAnnotations.a=b,agent.podLabels.c=d",
    "webhook.serviceAccount.annotations.e=f,agent.serviceAccount.name=nodes",
];

const CERT_MANAGER: [&str; 1] = ["webhook.tls.mode=cert-manager"];
const BY_ISSUER: [&str; 4] = [
    "webhook.tls.mode=cert-manager",
    "webhook.tls.certManager.issuerRef.name=ours,webhook.tls.certManager.issuerRef.kind=ClusterIssuer",
    "webhook.registration.failurePolicy=Fail",
    "webhook.registration.exceptNamespaces={storage}",
];
const BY_SECRET: [&str; 3] = [
    "webhook.tls.mode=secret",
    "webhook.tls.secretName=mine",
    "webhook.tls.caBundle=-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
];

/// Every variant of the installation in the documentation.
pub(crate) fn variants() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        ("defaults", vec![]),
        ("everything on", ALL_ON.to_vec()),
        ("only the agent", vec!["webhook.enabled=false"]),
        ("only the webhook", vec!["agent.enabled=false"]),
        ("nothing", vec!["agent.enabled=false", "webhook.enabled=false"]),
        ("no installer", vec!["agent.install.enabled=false"]),
        ("before an uninstall", vec!["agent.install.enabled=false", "cleanup.enabled=true"]),
        ("no rights", vec!["rbac.create=false"]),
        ("cert-manager", CERT_MANAGER.to_vec()),
        ("cert-manager with an issuer", BY_ISSUER.to_vec()),
        ("an existing Secret", BY_SECRET.to_vec()),
        ("an existing Secret with its CA", vec!["webhook.tls.mode=secret", "webhook.tls.secretName=mine"]),
        ("another name", vec!["fullnameOverride=portals", "webhook.networkPolicy.enabled=false"]),
        (
            "minimal",
            vec![
                "webhook.replicas=1",
                "webhook.podDisruptionBudget.enabled=false",
                "webhook.configMapGuard.enabled=false",
                "webhook.registrationGuard.enabled=false",
            ],
        ),
    ]
}

fn kinds(objects: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds
}

#[test]
fn chart_passes_lint() {
    let found = run_helm(&["lint", "--strict", "deploy/helm/portico"]).unwrap_or_else(|why| panic!("{why}"));
    assert!(!found.contains("[WARNING]") && !found.contains("[ERROR]"), "{found}");
}

#[test]
fn objects_of_every_variant_match_the_schemas_of_kubernetes() {
    for (variant, values) in variants() {
        let errors: Vec<String> = objects(&values).iter().flat_map(schema_errors).collect();
        assert!(errors.is_empty(), "{variant}:\n{}", errors.join("\n"));
    }
}

#[test]
fn objects_have_unique_names_in_the_namespace_of_the_release() {
    for (variant, values) in variants() {
        let objects = objects(&values);
        let mut names: Vec<String> = objects
            .iter()
            .map(|object| format!("{} {}", object["kind"], object["metadata"]["name"]))
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{variant}");
        for object in &objects {
            let namespace = &object["metadata"]["namespace"];
            assert!(namespace.is_null() || *namespace == NAMESPACE, "{variant}: {object}");
            assert_eq!(
                object["metadata"]["labels"]["app.kubernetes.io/part-of"], "portico",
                "{variant}: {object}"
            );
        }
    }
}

#[test]
fn disabled_component_has_no_objects() {
    let of = |values: &[&str], component: &str| {
        let objects = objects(values);
        objects
            .iter()
            .filter(|object| object["metadata"]["labels"]["app.kubernetes.io/component"] == component)
            .count()
    };
    assert_eq!(of(&["agent.enabled=false"], "agent"), 0);
    assert_eq!(of(&["webhook.enabled=false"], "webhook"), 0);
    assert!(objects(&["agent.enabled=false", "webhook.enabled=false"]).is_empty());
    let without = objects(&["rbac.create=false"]);
    assert!(kinds(&without).iter().all(|kind| !kind.contains("Role")), "{:?}", kinds(&without));
}

#[test]
fn images_are_pinned_by_digest_if_one_is_set() {
    let image = |values: &[&str]| {
        one(&objects(values), "Deployment", "")["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(image(&[]), format!("ghcr.io/portico-proxy/portico-webhook:{version}"));
    let digest = format!("sha256:{}", "a".repeat(64));
    assert_eq!(image(&ALL_ON), format!("ghcr.io/portico-proxy/portico-webhook:{version}@{digest}"));
}

#[test]
fn invalid_values_are_rejected_by_the_schema() {
    for wrong in [
        "agnet.enabled=true",
        "agent.enabled=yes",
        "agent.mode=iptables",
        "agent.portals=some",
        "agent.metrics.port=70000",
        "agent.metrics.host=node-1",
        "agent.serviceCidrs={10.96.0.0}",
        "agent.install.onAgentDown=wait",
        "agent.install.mode=first",
        "agent.install.capabilities={SYS_ADMIN}",
        "agent.install.cniBinDir=opt/cni/bin",
        "agent.image.digest=sha256:abc",
        "agent.drainSeconds=0",
        "agent.dns.enabled=yes",
        "agent.dns.port=53",
        "agent.nodePortals.enabled=yes",
        "agent.nodePortals.mode=node",
        "agent.nodePortals.nodeportAddresses={}",
        "agent.nodePortals.nodeportAddresses={eth0}",
        "agent.nodePortals.detectLocalMode=cluster",
        "agent.nodePortals.detectLocalMode=bridge-interface",
        "agent.nodePortals.detectLocalMode=interface-name-prefix",
        "agent.nodePortals.clusterCidr={10.244.0.0}",
        "agent.nodePortals.podBridgeInterface=a-name-of-16-byt",
        "agent.nodePortals.natPriority=first",
        "agent.nodePortals.externalPolicyGraceSeconds=-1",
        "agent.nodePortals.conntrack.min=-1",
        "agent.tokenExpirationSeconds=60",
        "agent.updateStrategy.type=Recreate",
        "webhook.registration.by=webhook",
        "webhook.replicas=0",
        "webhook.mode=env",
        "webhook.port=443",
        "webhook.tls.mode=mine",
        "webhook.tls.caBundle=hello",
        "webhook.registration.failurePolicy=Maybe",
        "webhook.registration.timeoutSeconds=31",
        "webhook.podDisruptionBudget.maxUnavailable=some",
        "webhook.networkPolicy.apiServerPorts={https}",
        "serviceMonitor.interval=often",
        "imagePullSecrets={registry}",
    ] {
        let Err(why) = rendered(&[wrong]) else { panic!("{wrong} is accepted") };
        assert!(why.contains("values don't meet the specifications of the schema"), "{wrong}: {why}");
    }
}

#[test]
fn inconsistent_values_are_rejected_with_a_reason() {
    for (values, reason) in [
        (
            &["webhook.tls.mode=secret", "webhook.tls.secretName=x", "webhook.tls.caInSecret=false"][..],
            "or webhook.tls.caBundle",
        ),
        (&["webhook.tls.mode=secret"], "webhook.tls.secretName is required"),
        (&["serviceMonitor.enabled=true"], "requires an agent.metrics.host"),
        (&["agent.serviceAccount.create=false"], "serviceAccount.name is required"),
        (&["cleanup.enabled=true"], "requires agent.install.enabled=false"),
    ] {
        let Err(why) = rendered(values) else { panic!("{values:?} are accepted") };
        assert!(why.contains(reason), "{values:?}: {why}");
    }
}

#[test]
fn plain_manifests_equal_the_rendered_chart() {
    let plain = documents(&text("deploy/manifests/portico.yaml"));
    let (namespaces, mut plain): (Vec<Value>, Vec<Value>) =
        plain.into_iter().partition(|object| object["kind"] == "Namespace");
    assert_eq!(namespaces.len(), 1);
    assert_eq!(schema_errors(&namespaces[0]), [""; 0]);
    let mut rendered = objects(&[]);
    for object in plain.iter_mut().chain(&mut rendered) {
        let labels = object["metadata"]["labels"].as_object_mut().expect("every object has labels");
        labels.remove("helm.sh/chart");
        labels.remove("app.kubernetes.io/managed-by");
    }
    let key = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    plain.sort_by_key(key);
    rendered.sort_by_key(key);
    for (plain, rendered) in plain.iter().zip(&rendered) {
        assert_eq!(plain, rendered, "run scripts/manifests");
    }
    assert_eq!(plain.len(), rendered.len(), "run scripts/manifests");
}

#[test]
fn chart_has_the_version_of_the_programs() {
    let chart = documents(&text("deploy/helm/portico/Chart.yaml")).remove(0);
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn cert_manager_certificate_has_the_name_of_the_webhook_service() {
    let objects = objects(&BY_ISSUER);
    let (certificate, registered) =
        (one(&objects, "Certificate", ""), one(&objects, "MutatingWebhookConfiguration", ""));
    let service = &registered["webhooks"][0]["clientConfig"]["service"];
    let name = format!("{}.{}.svc", service["name"].as_str().expect("a name"), NAMESPACE);
    assert_eq!(certificate["spec"]["dnsNames"], json!([name]));
    let source = &registered["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    assert_eq!(*source, format!("{NAMESPACE}/{}", certificate["metadata"]["name"].as_str().expect("a name")));
    let deployment = &one(&objects, "Deployment", "")["spec"]["template"]["spec"];
    let volumes = deployment["volumes"].as_array().expect("volumes");
    let tls = volumes.iter().find(|volume| volume["name"] == "tls").expect("the certificate");
    assert_eq!(tls["secret"]["secretName"], certificate["spec"]["secretName"]);
    assert_eq!(registered["webhooks"][0]["failurePolicy"], "Fail");
    let excluded = &registered["webhooks"][1]["namespaceSelector"]["matchExpressions"][0]["values"];
    assert_eq!(*excluded, json!(["kube-system", NAMESPACE, "storage"]));
}

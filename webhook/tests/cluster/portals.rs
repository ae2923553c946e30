//! The annotation `portico.dev/portals` of a namespace reaches its pods.

use serde_json::{Value, json};
use test_support::apiserver::ApiServer;
use test_support::caller::Caller;
use test_support::eventually::eventually;
use test_support::review::{apply_patch, names, pod, review, with_annotations};
use test_support::webhook_cluster::WebhookCluster;

use crate::real::with_webhook;

const PORTALS: &str = "portico.dev/portals";

fn portals(pod: &Value) -> Option<&str> {
    pod["metadata"]["annotations"][PORTALS].as_str()
}

/// A namespace whose pods have these portals.
fn namespace(name: &str, portals: &str) -> Value {
    json!({"kind": "Namespace", "metadata": {"name": name, "annotations": {PORTALS: portals}}})
}

#[test]
fn value_of_a_namespace_is_written_on_its_new_pods_and_follows_changes() {
    let cluster = WebhookCluster::new(ApiServer::double());
    cluster.api.put(namespace("default", "off"));
    let webhook = cluster.replica(&[]);
    let mut caller = Caller::local(webhook.address).expect("connect");
    let mut admitted = |pod: &Value| apply_patch(pod, &caller.review(&review("u", pod)).expect("a response"));
    let bare = pod("a");
    let made = admitted(&bare);
    assert_eq!((portals(&made), &made["spec"]), (Some("off"), &bare["spec"]), "no variables");
    let own = with_annotations(pod("a"), &[(PORTALS, "all")]);
    let made = admitted(&own);
    assert_eq!((portals(&made), names(&made, 0).len()), (Some("all"), 7));
    let asks = with_annotations(pod("a"), &[("portico.dev/services", "redis")]);
    let made = admitted(&asks);
    assert_eq!((portals(&made), names(&made, 0).len()), (Some("off"), 7));
    let mut on_host = pod("a");
    on_host["spec"]["hostNetwork"] = true.into();
    assert_eq!(admitted(&on_host), on_host);
    cluster.api.put(namespace("default", "redis"));
    let made = eventually("the change of the namespace is known", || {
        let made = admitted(&bare);
        (portals(&made) != Some("off")).then_some(made)
    });
    assert_eq!((portals(&made), names(&made, 0).len()), (Some("redis"), 7));
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn pods_of_a_namespace_that_is_off_are_created_with_the_annotation() {
    with_webhook(|cluster, webhook| {
        cluster.api.put(namespace("unserved", "off"));
        let in_namespace = |mut pod: Value| {
            pod["metadata"]["namespace"] = "unserved".into();
            pod
        };
        let created = |query: &str, pod: Value| {
            let answer = cluster.api.create(query, &in_namespace(pod));
            assert_eq!(answer.status, 201, "{}", answer.object);
            answer.object
        };
        let made = created("", pod("bare"));
        assert_eq!((portals(&made), names(&made, 0).len()), (Some("off"), 0), "{made}");
        assert_eq!(made["spec"]["enableServiceLinks"], true, "the kubelet provides the variables");
        let refused = with_annotations(pod("refused"), &[("portico.dev/inject", "false")]);
        assert_eq!(portals(&created("", refused)), Some("off"), "the API server calls the webhook for it");
        assert_eq!(portals(&created("?dryRun=All", pod("dry"))), Some("off"));
        assert_eq!(cluster.api.get("Pod", "unserved", "dry"), None);

        let reviews = || webhook.metric("request_duration_seconds_count");
        let before = reviews();
        let refused = [("portico.dev/inject", "false"), (PORTALS, "all")];
        assert_eq!(portals(&created("", with_annotations(pod("own"), &refused))), Some("all"));
        let mut on_host = with_annotations(pod("on-host"), &refused[..1]);
        on_host["spec"]["hostNetwork"] = true.into();
        assert_eq!(portals(&created("", on_host)), None);
        assert_eq!(reviews(), before, "these pods need no change");
    });
}

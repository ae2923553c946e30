//! Each file in examples/ demonstrates a property of services; each test checks it with the command that a reader of
//! the file would run.

use expect_test::expect;
use test_support::command::{explain, portals_table, portico};

#[test]
fn redis_master_has_the_seven_variables_of_the_first_design() {
    expect![[r#"
        REDIS_MASTER_SERVICE_HOST=10.0.0.11
        REDIS_MASTER_SERVICE_PORT=6379
        REDIS_MASTER_PORT=tcp://10.0.0.11:6379
        REDIS_MASTER_PORT_6379_TCP=tcp://10.0.0.11:6379
        REDIS_MASTER_PORT_6379_TCP_PROTO=tcp
        REDIS_MASTER_PORT_6379_TCP_PORT=6379
        REDIS_MASTER_PORT_6379_TCP_ADDR=10.0.0.11
    "#]]
    .assert_eq(&portico(&["env", "-f", "examples/redis-master.yaml"]).expect_success());
}

#[test]
fn kubernetes_service_has_a_variable_for_its_named_port_in_every_namespace() {
    let args = ["env", "-n", "anywhere", "--no-links", "-f", "examples/kubernetes.yaml"];
    expect![[r#"
        KUBERNETES_SERVICE_HOST=10.96.0.1
        KUBERNETES_SERVICE_PORT=443
        KUBERNETES_SERVICE_PORT_HTTPS=443
        KUBERNETES_PORT=tcp://10.96.0.1:443
        KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443
        KUBERNETES_PORT_443_TCP_PROTO=tcp
        KUBERNETES_PORT_443_TCP_PORT=443
        KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1
    "#]]
    .assert_eq(&portico(&args).expect_success());
}

#[test]
fn selector_selects_ready_pods() {
    expect![[r#"
        NAMESPACE  SERVICE  PORT  KIND       PORTAL                VERDICT  BACKENDS
        default    my-app   -     clusterIP  tcp://10.0.0.20:8765  forward  10.244.1.20:9376 10.244.2.20:9376
    "#]]
    .assert_eq(&portals_table("my-app-selector.yaml", &[]));
}

#[test]
fn relayed_service_is_explained_with_its_scheduler_and_dial_mode() {
    expect![[r#"
        tcp://10.0.0.40:5432: forward
          10.0.0.40 is the cluster address of service default/pooled, and TCP 5432 is its port
          its internal traffic policy is Cluster
          selected: all ready endpoints
            10.244.1.140:5432: selected
            10.244.2.140:5432: selected
          the relay in the pod's network namespace accepts the connection and tries the backends
          its scheduler in the relay is lc
          backends that the pod cannot reach are reached from the node, with its address, if the agent's --dial-from-node lists namespace default
          relayed to one of 2 backends
    "#]]
    .assert_eq(&explain("relayed.yaml", &["tcp://10.0.0.40:5432"]));
}

#[test]
fn manual_endpoints_can_be_outside_of_the_cluster() {
    expect![[r#"
        NAMESPACE  SERVICE     PORT  KIND       PORTAL              VERDICT  BACKENDS
        default    my-service  -     clusterIP  tcp://10.0.0.21:80  forward  1.2.3.4:9376
    "#]]
    .assert_eq(&portals_table("external-endpoints.yaml", &[]));
}

#[test]
fn old_api_version_gets_its_address_from_the_portal_net() {
    let both = ["-f", "examples/old-form-apache-endpoints.json"];
    expect![[r#"
        NAMESPACE  SERVICE         PORT  KIND       PORTAL                 VERDICT  BACKENDS
        default    apache-service  -     clusterIP  tcp://10.11.0.1:12345  forward  10.244.1.30:80 10.244.2.30:80
    "#]].assert_eq(&portals_table("old-form-apache-service.json", &both));
    let both = ["-f", "examples/old-form-myapp-endpoints.json", "--portal-net", "10.12.0.0/16"];
    expect![[r#"
        NAMESPACE  SERVICE  PORT  KIND       PORTAL              VERDICT  BACKENDS
        default    myapp    -     clusterIP  tcp://10.12.0.1:80  forward  173.194.112.206:80
    "#]]
    .assert_eq(&portals_table("old-form-myapp-service.json", &both));
}

#[test]
fn old_api_version_is_relayed_by_one_redirect_with_its_name_as_comment() {
    let args = [
        ["rules", "-o", "iptables"],
        ["--mode", "relay", "-f"],
        ["examples/old-form-apache-service.json", "-f", "examples/old-form-apache-endpoints.json"],
    ]
    .concat();
    expect![[r#"
        *nat
        :PORTICO-PORTALS - [0:0]
        -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-PORTALS
        -A PORTICO-PORTALS -d 10.11.0.1/32 -p tcp -m comment --comment "apache-service" -m tcp --dport 12345 -j REDIRECT --to-ports 32768
        COMMIT
        *filter
        :PORTICO-REFUSE - [0:0]
        -A OUTPUT -m addrtype ! --dst-type LOCAL -m comment --comment "portico portals" -j PORTICO-REFUSE
        -A PORTICO-REFUSE -d 10.11.0.1/32 -p tcp -m comment --comment "default/apache-service: no such port" -j REJECT --reject-with tcp-reset
        -A PORTICO-REFUSE -d 10.11.0.1/32 -m comment --comment "default/apache-service: no such port" -j REJECT --reject-with icmp-port-unreachable
        COMMIT
    "#]].assert_eq(&portico(&args).expect_success());
}

#[test]
fn each_port_is_a_portal() {
    expect![[r#"
        NAMESPACE  SERVICE      PORT          KIND       PORTAL                VERDICT  BACKENDS
        core       chatbot-svc  slack-auth    clusterIP  tcp://10.0.0.22:4000  forward  10.244.1.22:4000 10.244.2.22:4000
        core       chatbot-svc  msteams-auth  clusterIP  tcp://10.0.0.22:8080  forward  10.244.1.22:3978 10.244.2.22:3978
    "#]].assert_eq(&portals_table("several-ports.yaml", &[]));
}

#[test]
fn two_services_can_have_the_same_port() {
    expect![[r#"
        NAMESPACE  SERVICE      PORT  KIND       PORTAL               VERDICT  BACKENDS
        default    backend-one  -     clusterIP  tcp://10.0.0.1:1234  forward  10.244.1.40:1234
        default    backend-two  -     clusterIP  tcp://10.0.0.2:1234  forward  10.244.1.41:1234
    "#]]
    .assert_eq(&portals_table("same-port.yaml", &[]));
}

#[test]
fn one_port_number_of_three_protocols_is_three_portals() {
    expect![[r#"
        NAMESPACE    SERVICE   PORT      KIND       PORTAL                VERDICT  BACKENDS
        kube-system  kube-dns  dns-tcp   clusterIP  tcp://10.96.0.10:53   forward  10.244.1.53:53 10.244.2.53:53
        kube-system  kube-dns  dns       clusterIP  udp://10.96.0.10:53   forward  10.244.1.53:53 10.244.2.53:53
        kube-system  kube-dns  dns-sctp  clusterIP  sctp://10.96.0.10:53  forward  10.244.1.53:5353 10.244.2.53:5353
    "#]].assert_eq(&portals_table("protocols.yaml", &[]));
}

#[test]
fn headless_and_external_name_services_have_no_portals_and_no_variables() {
    for file in ["examples/headless.yaml", "examples/external-name.yaml"] {
        assert_eq!(portico(&["portals", "-o", "json", "-f", file]).stdout, "[]\n");
        assert_eq!(portico(&["env", "-f", file]).stdout, "");
    }
}

#[test]
fn node_port_is_a_portal_on_the_address_of_the_node() {
    expect![[r#"
        NAMESPACE  SERVICE     PORT  KIND       PORTAL                 VERDICT  BACKENDS
        default    mattermost  -     clusterIP  tcp://10.0.0.23:8065   forward  10.244.1.65:8065
        default    mattermost  -     nodePort   tcp://10.240.0.5:8065  forward  10.244.1.65:8065
    "#]]
    .assert_eq(&portals_table("node-port.yaml", &["--node", "node-a"]));
}

#[test]
fn external_ip_has_the_same_backends_as_the_cluster_ip() {
    expect![[r#"
        NAMESPACE  SERVICE     PORT  KIND        PORTAL                VERDICT  BACKENDS
        default    public-web  http  clusterIP   tcp://10.0.0.24:80    forward  10.244.1.70:9376
        default    public-web  http  externalIP  tcp://80.11.12.10:80  forward  10.244.1.70:9376
    "#]]
    .assert_eq(&portals_table("external-ips.yaml", &["--external-addresses", "all"]));
}

#[test]
fn load_balancer_ip_leads_directly_to_the_pods() {
    expect![[r#"
        NAMESPACE  SERVICE    PORT  KIND          PORTAL                     VERDICT  BACKENDS
        default    web-front  -     clusterIP     tcp://10.0.0.25:3000       forward  10.244.1.75:8443 10.244.2.75:8443
        default    web-front  -     loadBalancer  tcp://146.148.47.155:3000  forward  10.244.1.75:8443 10.244.2.75:8443
    "#]].assert_eq(&portals_table("load-balancer.yaml", &[]));
}

#[test]
fn source_ranges_exclude_other_clients() {
    let file = "load-balancer-source-ranges.yaml";
    let to = "tcp://146.148.47.156:443";
    expect![[r#"
        tcp://146.148.47.156:443: drop
          146.148.47.156 is a load-balancer address of service default/guarded-web, and TCP 443 is its port named https
          access is limited to 10.244.1.0/24, 130.211.204.0/24 and this connection is from 203.0.113.7
          dropped: 203.0.113.7 is not in the source ranges of default/guarded-web
    "#]].assert_eq(&explain(file, &["--source", "203.0.113.7", to]));
    expect![[r#"
        tcp://146.148.47.156:443: forward
          146.148.47.156 is a load-balancer address of service default/guarded-web, and TCP 443 is its port named https
          access is limited to 10.244.1.0/24, 130.211.204.0/24 and this connection is from 10.244.1.9
          selected: all ready endpoints
            10.244.1.80:8443 on node node-a: selected
          forwarded to the only backend
    "#]].assert_eq(&explain(file, &["--source", "10.244.1.9", to]));
    expect![[r#"
        tcp://146.148.47.156:443: drop
          146.148.47.156 is a load-balancer address of service default/guarded-web, and TCP 443 is its port named https
          access is limited to 10.244.1.0/24, 130.211.204.0/24 and this connection is from an unknown source
          dropped unless the source is in the source ranges of default/guarded-web; set --source
    "#]].assert_eq(&explain(file, &[to]));
}

#[test]
fn dual_stack_service_has_one_portal_per_family() {
    expect![[r#"
        NAMESPACE  SERVICE  PORT  KIND       PORTAL                  VERDICT  BACKENDS
        default    dual     http  clusterIP  tcp://10.0.0.30:80      forward  10.244.1.90:8080
        default    dual     http  clusterIP  tcp://[fd00:10::30]:80  forward  [fd00:244:1::90]:8080
    "#]]
    .assert_eq(&portals_table("dual-stack.yaml", &[]));
}

#[test]
fn session_affinity_is_explained_with_its_timeout() {
    expect![[r#"
        tcp://10.0.0.33:80: forward
          10.0.0.33 is the cluster address of service default/shop, and TCP 80 is its port named http
          its internal traffic policy is Cluster
          selected: all ready endpoints
            10.244.1.100:8080 on node node-a: selected
            10.244.2.100:8080 on node node-b: selected
          session affinity: a client keeps its backend until it is idle for 600 s
          forwarded to one of 2 backends
    "#]]
    .assert_eq(&explain("session-affinity.yaml", &["tcp://10.0.0.33:80"]));
}

#[test]
fn internal_traffic_policy_local_uses_only_endpoints_on_the_same_node() {
    let file = "internal-traffic-policy-local.yaml";
    expect![[r#"
        tcp://10.0.0.31:9100: forward
          10.0.0.31 is the cluster address of service default/node-metrics, and TCP 9100 is its port named metrics
          its internal traffic policy is Local
          selected: ready endpoints on this node
            10.244.1.110:9100 on node node-a: not selected: not on this node
            10.244.2.110:9100 on node node-b: selected
          forwarded to the only backend
    "#]].assert_eq(&explain(file, &["--node", "node-b", "tcp://10.0.0.31:9100"]));
    expect![[r#"
        tcp://10.0.0.31:9100: drop
          10.0.0.31 is the cluster address of service default/node-metrics, and TCP 9100 is its port named metrics
          its internal traffic policy is Local
          selected: none, because no usable endpoint is on this node
            10.244.1.110:9100 on node node-a: not selected: not on this node
            10.244.2.110:9100 on node node-b: not selected: not on this node
          dropped: the service has endpoints, but none on this node, and its internal traffic policy is Local
    "#]].assert_eq(&explain(file, &["--node", "node-z", "tcp://10.0.0.31:9100"]));
}

#[test]
fn zone_hints_keep_traffic_in_the_zone() {
    let to = "tcp://10.0.0.32:80";
    expect![[r#"
        tcp://10.0.0.32:80: forward
          10.0.0.32 is the cluster address of service default/catalog, and TCP 80 is its port named http
          its internal traffic policy is Cluster
          selected: ready endpoints with a hint for this zone
            10.244.1.120:8080 on node node-a: not selected: its hints are for other zones
            10.244.2.120:8080 on node node-b: selected
          forwarded to the only backend
    "#]]
    .assert_eq(&explain("zone-hints.yaml", &["--node", "node-b", to]));
    expect![[r#"
        tcp://10.0.0.32:80: forward
          10.0.0.32 is the cluster address of service default/catalog, and TCP 80 is its port named http
          its internal traffic policy is Cluster
          selected: all ready endpoints
            10.244.1.120:8080 on node node-a: selected
            10.244.2.120:8080 on node node-b: selected
          forwarded to one of 2 backends
    "#]]
    .assert_eq(&explain("zone-hints.yaml", &["--zone", "zone-q", to]));
}

#[test]
fn terminating_endpoints_serve_if_no_other_endpoint_does() {
    expect![[r#"
        tcp://10.0.0.35:80: forward
          10.0.0.35 is the cluster address of service default/draining, and TCP 80 is its port named http
          its internal traffic policy is Cluster
          selected: serving, terminating endpoints, because none is ready
            10.244.1.130:8080 on node node-a: selected
            10.244.2.130:8080 on node node-b: selected
            10.244.2.131:8080 on node node-b: not selected: terminating, and no longer serving
          forwarded to one of 2 backends
    "#]]
    .assert_eq(&explain("terminating-endpoints.yaml", &["tcp://10.0.0.35:80"]));
}

#[test]
fn portal_without_backends_rejects() {
    expect![[r#"
        tcp://10.0.0.34:80: reject
          10.0.0.34 is the cluster address of service default/no-backends, and TCP 80 is its port named http
          its internal traffic policy is Cluster
          selected: none, because no endpoint is ready or serving
          rejected: no endpoint is ready or serving
    "#]]
    .assert_eq(&explain("no-backends.yaml", &["tcp://10.0.0.34:80"]));
}

#[test]
fn other_kinds_are_ignored_and_counted() {
    let output = portico(&["portals", "-v", "-f", "examples/ingress-ignored.yaml"]);
    assert_eq!(output.code, 0);
    expect![[r#"
        portico: note: ignored networking.k8s.io/v1 Ingress: 1
    "#]]
    .assert_eq(&output.stderr);
    expect![[r#"
        NAMESPACE  SERVICE  PORT  KIND       PORTAL              VERDICT  BACKENDS
        default    nginx    -     clusterIP  tcp://10.0.0.36:80  forward  10.244.1.140:80
    "#]]
    .assert_eq(&output.stdout);
}

#[test]
fn whole_directory_can_be_read_at_once() {
    let output = portico(&["portals", "--external-addresses", "all", "-o", "json", "-f", "examples"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.stdout.matches("\"verdict\"").count(), 31);
}

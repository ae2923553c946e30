//! The command as its users meet it: exit codes, streams, complaints, colour, JSON.

mod command;

use std::process::{Command, Stdio};

use command::{portico, portico_with};
use expect_test::expect;
use serde_json::{Value, json};

const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db, namespace: team}
spec: {clusterIP: 10.0.0.7, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: team, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 15432}]
endpoints: [{addresses: [10.1.0.9]}, {addresses: [10.1.0.8]}]
"#;

fn json(args: &[&str], input: &str) -> Value {
    let answer = portico_with(args, input);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    serde_json::from_str(&answer.stdout).expect("the answer is JSON")
}

#[test]
fn portals_as_json_have_the_documented_fields() {
    let expected = json!([{
        "namespace": "team", "service": "db", "port_name": "sql", "protocol": "TCP",
        "address": "10.0.0.7", "port": 5432, "kind": "clusterIP", "verdict": "forward",
        "backends": ["10.1.0.8:15432", "10.1.0.9:15432"],
    }]);
    assert_eq!(json(&["portals", "-o", "json", "-f", "-"], SERVICE), expected);
}

#[test]
fn an_explanation_as_json_has_the_documented_fields() {
    let expected = json!({
        "verdict": "forward", "portal": "team/db:5432",
        "backends": ["10.1.0.8:15432", "10.1.0.9:15432"], "reason": "sent to one of 2 backends",
    });
    assert_eq!(json(&["explain", "-o", "json", "-f", "-", "tcp://10.0.0.7:5432"], SERVICE), expected);
    let elsewhere = json(&["explain", "-o", "json", "-f", "-", "udp://192.0.2.1:53"], SERVICE);
    assert_eq!((&elsewhere["verdict"], &elsewhere["portal"]), (&json!("pass"), &Value::Null));
    let wrong_port = json(&["explain", "-o", "json", "-f", "-", "tcp://10.0.0.7:1"], SERVICE);
    assert_eq!((&wrong_port["verdict"], &wrong_port["portal"]), (&json!("reject"), &Value::Null));
}

#[test]
fn variables_as_json_are_one_object() {
    let variables = json(&["env", "-n", "team", "-o", "json", "-f", "-"], SERVICE);
    assert_eq!(variables["DB_SERVICE_PORT_SQL"], json!("5432"));
    assert_eq!(variables.as_object().map(serde_json::Map::len), Some(8));
}

/// What would be put into the pod of this manifest.
fn injected(name: &str, manifest: &str, args: &[&str]) -> command::Answer {
    let file = format!("{}/{name}.yaml", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&file, manifest).expect("write the pod");
    portico_with(&[&["env", "-f", "-", "--pod", &file], args].concat(), SERVICE)
}

#[test]
fn what_would_be_put_into_a_pod_is_told_container_by_container_with_the_reason() {
    let pod = "
kind: Pod
metadata: {name: web, namespace: team, annotations: {portico.dev/forms: host-port, portico.dev/prefix: '1'}}
spec: {containers: [{name: app, env: [{name: DB_SERVICE_PORT, value: '1'}]}]}
";
    let answer = injected("pod", pod, &[]);
    assert_eq!((answer.code, answer.stderr.contains("portico.dev/prefix")), (0, true), "{}", answer.stderr);
    expect![[r"
        containers app: inline: inline is exact here
          DB_SERVICE_HOST=10.0.0.7
          its own: DB_SERVICE_PORT
    "]]
    .assert_eq(&answer.stdout);
}

#[test]
fn what_the_namespace_of_a_pod_wants_is_heard_where_the_pod_says_nothing() {
    let namespace = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{portico.dev/forms: host-port, \
             portico.dev/inject: configmap}}}}\n"
        )
    };
    let ways = |in_file: &str, annotations: &str| {
        let pod = format!(
            "kind: Pod\nmetadata: {{name: web, namespace: team, annotations: {annotations}}}\nspec: {{containers: \
             [{{name: app}}]}}\n"
        );
        let file = format!("{}/namespaced.yaml", env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(&file, pod).expect("write the pod");
        let services = [SERVICE, in_file].concat();
        let answer = portico_with(&["env", "-f", "-", "--pod", &file, "-o", "json"], &services);
        let injection: Value = serde_json::from_str(&answer.stdout).expect("the answer is JSON");
        let account = &injection["accounts"][0];
        (account["way"].as_str().map(str::to_owned), account["added"].as_array().map(Vec::len))
    };
    assert_eq!(ways("", "{}"), (Some("inline".to_owned()), Some(8)));
    assert_eq!(ways(&namespace("other"), "{}"), (Some("inline".to_owned()), Some(8)));
    assert_eq!(ways(&namespace("team"), "{}"), (Some("configmap".to_owned()), Some(2)));
    let inline = "{portico.dev/inject: inline}";
    assert_eq!(ways(&namespace("team"), inline), (Some("inline".to_owned()), Some(2)));
}

#[test]
fn a_template_stands_for_its_pods_and_a_denied_pod_is_exit_code_1() {
    let of = |annotation: &str| {
        format!(
            "kind: Deployment\nmetadata: {{name: web, namespace: team}}\nspec: {{template: {{metadata: {{annotations: \
             {{{annotation}}}}}, spec: {{containers: [{{name: app, envFrom: [{{secretRef: {{name: s}}}}]}}]}}}}}}"
        )
    };
    let answer = injected("deployment", &of("portico.dev/services: db"), &["-o", "json"]);
    let injection: Value = serde_json::from_str(&answer.stdout).expect("the answer is JSON");
    assert_eq!((&injection["accounts"][0]["way"], answer.code), (&json!("configmap"), 0));
    let wish = "portico.dev/require: queue, portico.dev/on-missing: deny";
    let denied = injected("denied", &of(wish), &[]);
    assert_eq!((denied.code, denied.stderr.contains("service queue is not there")), (1, true));
    let nothing = injected("nothing", "kind: ConfigMap\n", &[]);
    assert_eq!((nothing.code, nothing.stderr.contains("no template")), (1, true), "{}", nothing.stderr);
}

#[test]
fn rules_as_json_are_the_ruleset() {
    let rules = json(&["rules", "-o", "json", "-f", "-"], SERVICE);
    assert_eq!(rules["settings"]["nat_priority"], json!(-99));
    assert_eq!(rules["portals"][0]["backends"], json!(["10.1.0.8:15432", "10.1.0.9:15432"]));
    assert_eq!(rules["addresses"], json!(["10.0.0.7"]));
}

#[test]
fn wrong_usage_ends_with_2_and_says_how() {
    for args in [
        &["portals"][..],
        &["explain", "-f", "x"],
        &["explain", "-f", "x", "10.0.0.1:80"],
        &["explain", "-f", "x", "icmp://10.0.0.1:80"],
        &["explain", "-f", "x", "--source", "fd00::1", "tcp://10.0.0.1:80"],
        &["rules", "-o", "yaml", "-f", "x"],
        &["env", "-f", "x", "--portal-net", "10.0.0.0"],
        &["wish"],
    ] {
        let answer = portico(args);
        assert_eq!(answer.code, 2, "{args:?}: {}", answer.stderr);
        assert!(answer.stdout.is_empty() && answer.stderr.contains("--help"), "{args:?}: {}", answer.stderr);
    }
}

#[test]
fn help_says_what_it_is_for_and_what_its_exit_codes_mean() {
    let help = portico(&["--help"]).sound();
    assert!(help.starts_with("Service portals for pods"), "{help}");
    assert!(help.contains("Exit codes: 0 answered"), "{help}");
}

#[test]
fn a_missing_file_ends_with_1_and_the_rest_is_answered() {
    let answer = portico_with(&["portals", "-f", "no-such-file.yaml", "-f", "-"], SERVICE);
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("no-such-file.yaml"), "{}", answer.stderr);
    assert!(answer.stdout.contains("tcp://10.0.0.7:5432"), "{}", answer.stdout);
}

#[test]
fn a_bad_object_is_named_and_the_others_are_answered() {
    let bad = "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.0.0.8, ports: [{port: 70000}]}\n";
    let answer = portico_with(&["portals", "-f", "-"], &format!("{SERVICE}{bad}"));
    assert_eq!(answer.code, 1);
    for part in ["<stdin>", "document 3", "Service default/bad", "spec.ports[0].port", "70000"] {
        assert!(answer.stderr.contains(part), "{part} in {}", answer.stderr);
    }
    assert!(
        answer.stdout.contains("tcp://10.0.0.7:5432") && !answer.stdout.contains("bad"),
        "{}",
        answer.stdout
    );
}

#[test]
fn broken_yaml_is_named_with_line_and_column() {
    let answer = portico_with(&["portals", "-f", "-"], "kind: Service\n  bad: indent\n");
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("<stdin>:2:"), "{}", answer.stderr);
}

#[test]
fn a_forbidden_endpoint_is_left_out_with_a_warning() {
    let forbidden = SERVICE.replace("10.1.0.9", "127.0.0.1").replace("10.1.0.8", "10.0.0.7");
    let answer = portico_with(&["portals", "-f", "-"], &forbidden);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert!(answer.stderr.contains("127.0.0.1") && answer.stderr.contains("loopback"), "{}", answer.stderr);
    assert!(answer.stderr.contains("10.0.0.7 is the address of service team/db"), "{}", answer.stderr);
    assert!(answer.stdout.contains("reject"), "{}", answer.stdout);
}

#[test]
fn two_services_on_one_portal_are_reported_and_one_wins() {
    let service = |name: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, externalIPs: [192.0.2.1], ports: [{{port: 80}}]}}\n"
        )
    };
    let both = service("b", "10.0.0.2") + &service("a", "10.0.0.1");
    let args = ["portals", "--external-addresses", "all", "-o", "json", "-f", "-"];
    let answer = portico_with(&args, &both);
    expect![[r"
        portico: warning: service default/b claims 192.0.2.1 port 80 (TCP externalIP) in vain: service default/a has it (externalIP)
    "]]
    .assert_eq(&answer.stderr);
    assert_eq!(answer.stdout.matches("192.0.2.1").count(), 1);
}

#[test]
fn external_addresses_are_refused_by_default_and_both_commands_say_why() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]}\n";
    let answer = portico_with(&["portals", "-f", "-"], service);
    assert!(!answer.stdout.contains("192.0.2.1"), "{}", answer.stdout);
    expect![[r"
        portico: warning: service default/a: 1 portal is refused: external addresses of this kind are not allowed here (--external-addresses)
    "]]
    .assert_eq(&answer.stderr);
    let answer = portico_with(&["explain", "-f", "-", "tcp://192.0.2.1:80"], service);
    expect![[r"
        tcp://192.0.2.1:80: pass
          service default/a asks for 192.0.2.1 TCP port 80: external addresses of this kind are not allowed here (--external-addresses)
          left as it is: TCP 192.0.2.1 port 80 is no portal
    "]]
    .assert_eq(&answer.stdout);
    let elsewhere = ["--external-addresses", "all", "--external-cidrs", "198.51.100.0/24,203.0.113.0/24"];
    let answer = portico_with(&[&["portals", "-f", "-"], &elsewhere[..]].concat(), service);
    assert!(answer.stderr.contains("none of the allowed networks"), "{}", answer.stderr);
}

#[test]
fn what_is_beyond_a_bound_is_named() {
    let ports: Vec<String> = (1..=4).map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: 10.0.0.1, ports: [{}]}}\n",
        ports.join(", ")
    );
    let bounds = ["--service-portals-max", "3", "--namespace-elements-max", "3"];
    let answer = portico_with(&[&["portals", "-f", "-"], &bounds[..]].concat(), &service);
    expect![[r"
        portico: warning: service default/a: 1 portal is refused: the service has more portals than allowed (--service-portals-max)
        portico: warning: service default/a: 1 portal is refused: the namespace needs more elements than allowed (--namespace-elements-max)
    "]]
    .assert_eq(&answer.stderr);
    let answer = portico_with(&[&["explain", "-f", "-", "tcp://10.0.0.1:4"], &bounds[..]].concat(), &service);
    assert!(answer.stdout.contains("(--service-portals-max)"), "{}", answer.stdout);
}

#[test]
fn an_unknown_node_is_reported() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
    let answer = portico_with(&["portals", "--node", "n2", "-f", "-"], &format!("{SERVICE}{node}"));
    expect![[r"
        portico: warning: node n2 is not among the nodes read (n1): its zone and addresses are not known
    "]]
    .assert_eq(&answer.stderr);
}

#[test]
fn two_services_that_define_one_variable_are_reported() {
    let service = |name: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
        )
    };
    let both = service("foo", "10.0.0.1") + &service("foo-service", "10.0.0.2");
    let answer = portico_with(&["env", "-f", "-"], &both);
    assert_eq!(answer.stdout.matches("FOO_SERVICE_PORT=").count(), 1);
    expect![[r"
        portico: warning: FOO_SERVICE_PORT is defined by default/foo and by default/foo-service: the first stands
    "]]
    .assert_eq(&answer.stderr);
}

#[test]
fn nothing_is_coloured_where_no_terminal_is() {
    let answer = portico_with(&["portals", "-f", "-", "-f", "no-such-file"], SERVICE);
    assert!(!answer.stdout.contains('\u{1b}') && !answer.stderr.contains('\u{1b}'));
}

/// What the command writes to a terminal, with this environment.
fn on_a_terminal(environment: &str) -> String {
    let portico = env!("CARGO_BIN_EXE_portico");
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let line = format!(
        "env -u NO_COLOR -u CLICOLOR -u CLICOLOR_FORCE TERM=xterm {environment} {portico} portals -f {examples}/redis-master.yaml"
    );
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output();
    let output = output.expect("start script(1), which gives a terminal: package bsdutils");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_terminal_gets_colour_unless_no_color_is_set() {
    assert!(on_a_terminal("").contains("\u{1b}[32mforward"), "{:?}", on_a_terminal(""));
    assert!(!on_a_terminal("NO_COLOR=1").contains('\u{1b}'), "{:?}", on_a_terminal("NO_COLOR=1"));
}

#[test]
fn a_connection_from_the_node_comes_from_its_address() {
    let objects = r"
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 10.240.0.5}]}
---
apiVersion: v1
kind: Service
metadata: {name: lb}
spec:
  type: LoadBalancer
  clusterIP: 10.0.0.9
  loadBalancerSourceRanges: [10.240.0.0/16]
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.9}]}}
";
    let verdict = |from: &[&str]| {
        let args =
            [&["explain", "-o", "json", "-f", "-", "--node", "n1", "tcp://192.0.2.9:80"], from].concat();
        json(&args, objects)["verdict"].clone()
    };
    assert_eq!(verdict(&["--from", "node"]), json!("reject")); // let in, and there is no endpoint
    assert_eq!(verdict(&["--from", "pod", "--source", "10.1.0.1"]), json!("drop"));
    assert_eq!(verdict(&["--source", "192.0.2.9"]), json!("reject")); // the address itself, for the node
}

#[test]
fn every_shell_gets_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(portico(&["completions", shell]).sound().contains("explain"), "{shell}");
    }
}

#[test]
fn completions_that_nobody_reads_to_the_end_are_no_fault() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portico"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start portico");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("wait for portico");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_command_and_every_flag_of_it_has_its_manual_page() {
    let folder = std::env::temp_dir().join(format!("portico-man-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    portico(&["man", folder.to_str().expect("text")]).sound();
    let page =
        |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|why| panic!("{name}: {why}"));
    let help = portico(&["--help"]).sound();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<&str> =
        commands.map_while(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.len() > 10 && names.contains(&"agent"), "{names:?}");
    for name in names {
        let page = page(&format!("portico-{name}.1")).replace("\\-", "-");
        let help = portico(&[name, "--help"]).sound();
        for flag in help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
            let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            assert!(page.contains(flag), "{name}: {flag}");
        }
    }
    assert!(page("portico.1").contains("portico\\-explain(1)"));
    let _ = std::fs::remove_dir_all(&folder);
    let answer = portico(&["man", folder.to_str().expect("text")]);
    assert!(answer.code == 1 && answer.stderr.contains("write manual pages to"), "{}", answer.stderr);
}

//! The user interface of the command: exit codes, output streams, error messages, colours, JSON.

use std::process::{Command, Stdio};

use expect_test::expect;
use serde_json::{Value, json};
use test_support::command::{CommandOutput, portico, portico_with};

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
    let output = portico_with(args, input);
    assert_eq!(output.code, 0, "{}", output.stderr);
    serde_json::from_str(&output.stdout).expect("standard output is JSON")
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
fn explanation_as_json_has_the_documented_fields() {
    let expected = json!({
        "verdict": "forward", "portal": "team/db:5432",
        "backends": ["10.1.0.8:15432", "10.1.0.9:15432"], "reason": "forwarded to one of 2 backends",
    });
    assert_eq!(json(&["explain", "-o", "json", "-f", "-", "tcp://10.0.0.7:5432"], SERVICE), expected);
    let elsewhere = json(&["explain", "-o", "json", "-f", "-", "udp://192.0.2.1:53"], SERVICE);
    assert_eq!((&elsewhere["verdict"], &elsewhere["portal"]), (&json!("pass"), &Value::Null));
    let wrong_port = json(&["explain", "-o", "json", "-f", "-", "tcp://10.0.0.7:1"], SERVICE);
    assert_eq!((&wrong_port["verdict"], &wrong_port["portal"]), (&json!("reject"), &Value::Null));
}

#[test]
fn env_as_json_is_one_object() {
    let variables = json(&["env", "-n", "team", "-o", "json", "-f", "-"], SERVICE);
    assert_eq!(variables["DB_SERVICE_PORT_SQL"], json!("5432"));
    assert_eq!(variables.as_object().map(serde_json::Map::len), Some(8));
}

/// Runs `portico env --pod` with this manifest.
fn run_env_pod(name: &str, manifest: &str, args: &[&str]) -> CommandOutput {
    let file = format!("{}/{name}.yaml", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&file, manifest).expect("write the manifest");
    portico_with(&[&["env", "-f", "-", "--pod", &file], args].concat(), SERVICE)
}

#[test]
fn injection_is_shown_per_container_with_the_reason() {
    let pod = "
kind: Pod
metadata: {name: web, namespace: team, annotations: {portico.dev/forms: host-port, portico.dev/prefix: '1'}}
spec: {containers: [{name: app, env: [{name: DB_SERVICE_PORT, value: '1'}]}]}
";
    let output = run_env_pod("pod", pod, &[]);
    assert_eq!((output.code, output.stderr.contains("portico.dev/prefix")), (0, true), "{}", output.stderr);
    expect![[r"
        containers app: inline: inline is exact here
          DB_SERVICE_HOST=10.0.0.7
          already defined: DB_SERVICE_PORT
        label portico.dev/variables=warnings
    "]]
    .assert_eq(&output.stdout);
}

#[test]
fn annotations_of_the_namespace_apply_unless_the_pod_overrides_them() {
    let namespace = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, annotations: {{portico.dev/forms: host-port, \
             portico.dev/inject: configmap}}}}\n"
        )
    };
    let injection = |namespaces: &str, annotations: &str| {
        let pod = format!(
            "kind: Pod\nmetadata: {{name: web, namespace: team, annotations: {annotations}}}\nspec: {{containers: \
             [{{name: app}}]}}\n"
        );
        let file = format!("{}/namespaced.yaml", env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(&file, pod).expect("write the manifest");
        let services = [SERVICE, namespaces].concat();
        let output = portico_with(&["env", "-f", "-", "--pod", &file, "-o", "json"], &services);
        let injection: Value = serde_json::from_str(&output.stdout).expect("standard output is JSON");
        let report = &injection["containers"][0];
        (report["via"].as_str().map(str::to_owned), report["added"].as_array().map(Vec::len))
    };
    assert_eq!(injection("", "{}"), (Some("inline".to_owned()), Some(8)));
    assert_eq!(injection(&namespace("other"), "{}"), (Some("inline".to_owned()), Some(8)));
    assert_eq!(injection(&namespace("team"), "{}"), (Some("configmap".to_owned()), Some(2)));
    let inline = "{portico.dev/inject: inline}";
    assert_eq!(injection(&namespace("team"), inline), (Some("inline".to_owned()), Some(2)));
}

#[test]
fn workload_template_is_used_as_the_pod_and_denied_pod_has_exit_code_1() {
    let deployment = |annotation: &str| {
        format!(
            "kind: Deployment\nmetadata: {{name: web, namespace: team}}\nspec: {{template: {{metadata: {{annotations: \
             {{{annotation}}}}}, spec: {{containers: [{{name: app, envFrom: [{{secretRef: {{name: s}}}}]}}]}}}}}}"
        )
    };
    let output = run_env_pod("deployment", &deployment("portico.dev/services: db"), &["-o", "json"]);
    let injection: Value = serde_json::from_str(&output.stdout).expect("standard output is JSON");
    assert_eq!((&injection["containers"][0]["via"], output.code), (&json!("configmap"), 0));
    let annotations = "portico.dev/require: queue, portico.dev/on-missing: deny";
    let denied = run_env_pod("denied", &deployment(annotations), &[]);
    assert_eq!((denied.code, denied.stderr.contains("service queue does not exist")), (1, true));
    let no_template = run_env_pod("no-template", "kind: ConfigMap\n", &[]);
    assert_eq!(
        (no_template.code, no_template.stderr.contains("neither a Pod")),
        (1, true),
        "{}",
        no_template.stderr
    );
}

#[test]
fn rules_as_json_are_the_ruleset() {
    let rules = json(&["rules", "-o", "json", "-f", "-"], SERVICE);
    assert_eq!(rules["settings"]["nat_priority"], json!(-99));
    assert_eq!(rules["portals"][0]["backends"], json!(["10.1.0.8:15432", "10.1.0.9:15432"]));
    assert_eq!(rules["addresses"], json!(["10.0.0.7"]));
}

#[test]
fn wrong_usage_has_exit_code_2_and_refers_to_help() {
    for args in [
        &["portals"][..],
        &["explain", "-f", "x"],
        &["explain", "-f", "x", "10.0.0.1:80"],
        &["explain", "-f", "x", "icmp://10.0.0.1:80"],
        &["explain", "-f", "x", "--source", "fd00::1", "tcp://10.0.0.1:80"],
        &["rules", "-o", "yaml", "-f", "x"],
        &["env", "-f", "x", "--portal-net", "10.0.0.0"],
        &["no-such-command"],
    ] {
        let output = portico(args);
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        assert!(output.stdout.is_empty() && output.stderr.contains("--help"), "{args:?}: {}", output.stderr);
    }
}

#[test]
fn help_states_the_purpose_and_the_exit_codes() {
    let help = portico(&["--help"]).expect_success();
    assert!(help.starts_with("Per-pod service portals for Kubernetes"), "{help}");
    assert!(help.contains("Exit codes: 0 success"), "{help}");
}

#[test]
fn missing_file_has_exit_code_1_and_other_files_are_processed() {
    let output = portico_with(&["portals", "-f", "no-such-file.yaml", "-f", "-"], SERVICE);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("no-such-file.yaml"), "{}", output.stderr);
    assert!(output.stdout.contains("tcp://10.0.0.7:5432"), "{}", output.stdout);
}

#[test]
fn invalid_object_is_named_and_others_are_processed() {
    let bad = "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {clusterIP: 10.0.0.8, ports: [{port: 70000}]}\n";
    let output = portico_with(&["portals", "-f", "-"], &format!("{SERVICE}{bad}"));
    assert_eq!(output.code, 1);
    for part in ["<stdin>", "document 3", "Service default/bad", "spec.ports[0].port", "70000"] {
        assert!(output.stderr.contains(part), "{part} in {}", output.stderr);
    }
    assert!(
        output.stdout.contains("tcp://10.0.0.7:5432") && !output.stdout.contains("bad"),
        "{}",
        output.stdout
    );
}

#[test]
fn invalid_yaml_is_reported_with_line_and_column() {
    let output = portico_with(&["portals", "-f", "-"], "kind: Service\n  bad: indent\n");
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("<stdin>:2:"), "{}", output.stderr);
}

#[test]
fn forbidden_endpoint_is_omitted_with_a_warning() {
    let forbidden = SERVICE.replace("10.1.0.9", "127.0.0.1").replace("10.1.0.8", "10.0.0.7");
    let output = portico_with(&["portals", "-f", "-"], &forbidden);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("127.0.0.1") && output.stderr.contains("loopback"), "{}", output.stderr);
    assert!(output.stderr.contains("10.0.0.7 is the address of service team/db"), "{}", output.stderr);
    assert!(output.stdout.contains("reject"), "{}", output.stdout);
}

#[test]
fn conflicting_portals_are_reported_and_one_takes_precedence() {
    let service = |name: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, externalIPs: [192.0.2.1], ports: [{{port: 80}}]}}\n"
        )
    };
    let both = service("b", "10.0.0.2") + &service("a", "10.0.0.1");
    let args = ["portals", "--external-addresses", "all", "-o", "json", "-f", "-"];
    let output = portico_with(&args, &both);
    expect![[r"
        portico: warning: service default/b: 192.0.2.1:80/TCP (externalIP) conflicts with service default/a (externalIP), which takes precedence
    "]]
    .assert_eq(&output.stderr);
    assert_eq!(output.stdout.matches("192.0.2.1").count(), 1);
}

#[test]
fn external_addresses_are_refused_by_default_and_both_commands_report_the_reason() {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.0.0.1, externalIPs: [192.0.2.1], ports: [{port: 80}]}\n";
    let output = portico_with(&["portals", "-f", "-"], service);
    assert!(!output.stdout.contains("192.0.2.1"), "{}", output.stdout);
    expect![[r"
        portico: warning: service default/a: 1 portal refused: external addresses of this kind are not allowed (--external-addresses)
    "]]
    .assert_eq(&output.stderr);
    let output = portico_with(&["explain", "-f", "-", "tcp://192.0.2.1:80"], service);
    expect![[r"
        tcp://192.0.2.1:80: pass
          service default/a requests 192.0.2.1 TCP port 80: external addresses of this kind are not allowed (--external-addresses)
          not translated: TCP 192.0.2.1 port 80 is not a portal
    "]]
    .assert_eq(&output.stdout);
    let other_cidrs = ["--external-addresses", "all", "--external-cidrs", "198.51.100.0/24,203.0.113.0/24"];
    let output = portico_with(&[&["portals", "-f", "-"], &other_cidrs[..]].concat(), service);
    assert!(output.stderr.contains("not in an allowed CIDR"), "{}", output.stderr);
}

#[test]
fn portals_beyond_a_limit_are_reported_with_the_flag() {
    let ports: Vec<String> = (1..=4).map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: 10.0.0.1, ports: [{}]}}\n",
        ports.join(", ")
    );
    let limits = ["--service-portals-max", "3", "--namespace-elements-max", "3"];
    let output = portico_with(&[&["portals", "-f", "-"], &limits[..]].concat(), &service);
    expect![[r"
        portico: warning: service default/a: 1 portal refused: the service exceeds the limit of portals (--service-portals-max)
        portico: warning: service default/a: 1 portal refused: the namespace exceeds the limit of elements (--namespace-elements-max)
    "]]
    .assert_eq(&output.stderr);
    let output = portico_with(&[&["explain", "-f", "-", "tcp://10.0.0.1:4"], &limits[..]].concat(), &service);
    assert!(output.stdout.contains("(--service-portals-max)"), "{}", output.stdout);
}

#[test]
fn unknown_node_is_reported() {
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
    let output = portico_with(&["portals", "--node", "n2", "-f", "-"], &format!("{SERVICE}{node}"));
    expect![[r"
        portico: warning: node n2 not found (found: n1): its zone and addresses are unknown
    "]]
    .assert_eq(&output.stderr);
}

#[test]
fn variable_of_two_services_is_reported() {
    let service = |name: &str, ip: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
        )
    };
    let both = service("foo", "10.0.0.1") + &service("foo-service", "10.0.0.2");
    let output = portico_with(&["env", "-f", "-"], &both);
    assert_eq!(output.stdout.matches("FOO_SERVICE_PORT=").count(), 1);
    expect![[r"
        portico: warning: FOO_SERVICE_PORT is defined by default/foo and by default/foo-service; the first takes precedence
    "]]
    .assert_eq(&output.stderr);
}

#[test]
fn output_without_a_terminal_has_no_colours() {
    let output = portico_with(&["portals", "-f", "-", "-f", "no-such-file"], SERVICE);
    assert!(!output.stdout.contains('\u{1b}') && !output.stderr.contains('\u{1b}'));
}

/// The output of the command on a terminal, with these environment variables.
fn run_on_terminal(environment: &str) -> String {
    let portico = env!("CARGO_BIN_EXE_portico");
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let line = format!(
        "env -u NO_COLOR -u CLICOLOR -u CLICOLOR_FORCE TERM=xterm {environment} {portico} portals -f {examples}/redis-master.yaml"
    );
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output();
    let output = output.expect("start script(1), which provides a terminal (package bsdutils)");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn terminal_output_has_colours_unless_no_color_is_set() {
    assert!(run_on_terminal("").contains("\u{1b}[32mforward"), "{:?}", run_on_terminal(""));
    assert!(!run_on_terminal("NO_COLOR=1").contains('\u{1b}'), "{:?}", run_on_terminal("NO_COLOR=1"));
}

#[test]
fn connection_from_the_node_has_the_address_of_the_node() {
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
    assert_eq!(verdict(&["--from", "node"]), json!("reject")); // allowed, but there is no endpoint
    assert_eq!(verdict(&["--from", "pod", "--source", "10.1.0.1"]), json!("drop"));
    assert_eq!(verdict(&["--source", "192.0.2.9"]), json!("reject")); // the load-balancer IP, as a source of the node
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(portico(&["completions", shell]).expect_success().contains("explain"), "{shell}");
    }
}

#[test]
fn closed_output_pipe_is_not_an_error() {
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
fn manual_pages_cover_every_command_and_flag() {
    let dir = std::env::temp_dir().join(format!("portico-man-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("create a directory");
    portico(&["man", dir.to_str().expect("UTF-8")]).expect_success();
    let page = |name: &str| {
        std::fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let help = portico(&["--help"]).expect_success();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<&str> =
        commands.map_while(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.len() > 10 && names.contains(&"agent"), "{names:?}");
    for name in names {
        let page = page(&format!("portico-{name}.1")).replace("\\-", "-");
        let help = portico(&[name, "--help"]).expect_success();
        for flag in help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2) {
            // The value of a flag can be optional: --flag[=<VALUE>].
            let flag = flag.split('[').next().unwrap_or_default();
            let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            assert!(page.contains(flag), "{name}: {flag}");
        }
    }
    assert!(page("portico.1").contains("portico\\-explain(1)"));
    let _ = std::fs::remove_dir_all(&dir);
    let output = portico(&["man", dir.to_str().expect("UTF-8")]);
    assert!(
        output.code == 1 && output.stderr.contains("failed to write manual pages to"),
        "{}",
        output.stderr
    );
}

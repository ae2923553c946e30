//! The images of a release: built by scripts/images, and run without other files.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde_json::Value;

use crate::node::{HOME, on_a_node};
use crate::podman::{CONTAINERS_CONF, Podman};
use crate::process::{Process, try_command};
use test_support::apiserver::certificates::Certificates;
use test_support::eventually::{Wait, eventually};

/// The directory of the static programs that scripts/container-test builds.
fn static_programs() -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let dir = test.ancestors().nth(3).expect("target/debug/deps/test").join("static");
    assert!(dir.join("portico").exists(), "no {}: scripts/container-test builds them", dir.display());
    dir
}

/// Creates a directory with the contents of a release archive.
fn unpack_release() -> PathBuf {
    let dir = Path::new(HOME).join("release");
    let (bin, documents) = (dir.join("bin"), dir.join("share/doc/portico"));
    for dir in [&bin, &documents] {
        fs::create_dir_all(dir).expect("create the directory");
    }
    for program in ["portico", "portico-cni", "portico-webhook"] {
        fs::copy(static_programs().join(program), bin.join(program)).expect("copy a program");
    }
    for (name, text) in [
        ("LICENSE", "terms"),
        ("NOTICES", "more terms"),
        ("RELEASE", "version 0.0.1\nrevision abc\ntime 2026-01-02T03:04:05Z\n"),
    ] {
        fs::write(documents.join(name), text).expect("write a document");
    }
    dir
}

/// Runs scripts/images and returns its output: the images and their identities.
fn build_images(from: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/images");
    let mut command = Command::new(script);
    command.arg(from).env("BUILDER", Podman::words().join(" ")).env("REGISTRY", "localhost");
    try_command(command.env("CONTAINERS_CONF", CONTAINERS_CONF)).unwrap_or_else(|why| panic!("{why}"))
}

const AGENT: &str = "localhost/portico-agent:0.0.1";
const WEBHOOK: &str = "localhost/portico-webhook:0.0.1";

fn inspect_image(podman: &Podman, image: &str) -> Value {
    let output = try_command(&mut podman.podman(&["image", "inspect", image])).expect("an image");
    serde_json::from_str::<Value>(&output).expect("JSON")[0].take()
}

fn output_of(podman: &Podman, args: &[&str]) -> String {
    try_command(&mut podman.restricted_container(args)).unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn images_contain_static_programs_that_need_no_other_file() {
    on_a_node(|_| {
        let podman = Podman::new();
        let release = unpack_release();
        let first = build_images(&release);
        assert_eq!(first, build_images(&release), "builds are reproducible");
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            output_of(&podman, &["--network", "none", AGENT, "--version"]),
            format!("portico {version}\n")
        );
        assert_eq!(
            output_of(&podman, &["--network", "none", WEBHOOK, "--version"]),
            format!("portico-webhook {version}\n")
        );
        let plugin =
            ["--network", "none", "--entrypoint", "/portico-cni", "--env", "CNI_COMMAND=VERSION", AGENT];
        assert!(output_of(&podman, &plugin).contains("\"supportedVersions\""));
        // Without a capability the command reports the missing one.
        let refused = try_command(&mut podman.restricted_container(&["--network", "none", AGENT, "check"]))
            .expect_err("no capability");
        assert!(refused.contains("exit status: 1") && refused.contains("CAP_NET_ADMIN"), "{refused}");
    });
}

#[test]
fn images_have_labels_and_the_expected_user() {
    on_a_node(|_| {
        let podman = Podman::new();
        build_images(&unpack_release());
        for (image, user, entry) in [(AGENT, "0:0", "/portico"), (WEBHOOK, "65532:65532", "/portico-webhook")]
        {
            let found = inspect_image(&podman, image);
            assert_eq!(found["Config"]["User"], user, "{found}");
            assert_eq!(found["Config"]["Entrypoint"][0], entry, "{found}");
            let labels = &found["Labels"];
            assert_eq!(labels["org.opencontainers.image.version"], "0.0.1", "{labels}");
            assert_eq!(labels["org.opencontainers.image.revision"], "abc", "{labels}");
            assert_eq!(labels["org.opencontainers.image.created"], "2026-01-02T03:04:05Z", "{labels}");
            assert_eq!(found["Created"], "2026-01-02T03:04:05Z", "{found}");
        }
    });
}

#[test]
fn webhook_image_serves_as_an_unprivileged_user() {
    on_a_node(|_| {
        let podman = Podman::new();
        build_images(&unpack_release());
        let manifests = format!("{HOME}/manifests:/manifests:ro");
        let args = [
            "--network",
            "host",
            "--volume",
            &manifests,
            "--name",
            "webhook",
            WEBHOOK,
            "--manifests",
            "/manifests",
        ];
        let _process = Process::start(&mut podman.restricted_container(&args), Path::new("/run/webhook.log"));
        eventually("the webhook is ready", || {
            let mut stream = TcpStream::connect("127.0.0.1:9478").map_err(|why| why.to_string())?;
            stream
                .write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .map_err(|why| why.to_string())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(|why| why.to_string())?;
            if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
        });
        try_command(&mut podman.podman(&["rm", "--force", "--time", "0", "webhook"]))
            .expect("remove the container");
    });
}

/// A name that the resolver only knows with a suffix from the search list.
const BY_DNS: &str = "api.cluster";
const FULL_NAME: &[u8] = b"\x03api\x07cluster\x04test\0";

/// Resolves `FULL_NAME` to 127.0.0.7, and replies NXDOMAIN to other names.
fn resolve(socket: &UdpSocket) -> std::io::Result<()> {
    loop {
        let mut query = [0; 512];
        let (len, client) = socket.recv_from(&mut query)?;
        let query = &query[..len];
        let name_len = query[12..].iter().position(|byte| *byte == 0).expect("an end of the name") + 1;
        let question = &query[12..12 + name_len + 4];
        let is_known = &question[..name_len] == FULL_NAME;
        let answers = is_known && question[name_len..] == [0, 1, 0, 1];
        let mut answer = query[..2].to_vec();
        answer.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(answers), 0, 0, 0, 0]);
        answer.extend(question);
        if answers {
            answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 7]);
        }
        socket.send_to(&answer, client)?;
    }
}

/// A static program with the GNU C library can need shared libraries to resolve names, which the image lacks.
#[test]
fn agent_image_without_libraries_resolves_the_name_of_the_api_server() {
    on_a_node(|_| {
        let podman = Podman::new();
        build_images(&unpack_release());
        let socket = UdpSocket::bind("127.0.0.1:53").expect("the port of a resolver");
        thread::spawn(move || resolve(&socket));
        fs::write("/run/resolv.conf", "nameserver 127.0.0.1\nsearch no.test test\noptions ndots:5\n")
            .expect("write a file");
        fs::write("/run/hosts", "127.0.0.8 api.hosts\n").expect("write a file");
        fs::write("/run/ca.pem", Certificates::new().ca_certificate).expect("write a file");
        for (name, address) in [(BY_DNS, "127.0.0.7:6443"), ("api.hosts", "127.0.0.8:6443")] {
            let listener = TcpListener::bind(address).expect("listen");
            listener.set_nonblocking(true).expect("do not block");
            let kubeconfig = format!(
                "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], \
                 clusters: [{{name: c, cluster: {{server: 'http://{name}:6443', certificate-authority: /ca.pem}}}}], users: [{{name: u, user: {{}}}}]}}"
            );
            fs::write("/run/kubeconfig", kubeconfig).expect("write a file");
            let mut command = podman.restricted_container(&[
                "--network",
                "host",
                "--name",
                "agent",
                "--tmpfs",
                "/run/portico",
            ]);
            for file in [
                "/run/kubeconfig:/kubeconfig",
                "/run/ca.pem:/ca.pem",
                "/run/resolv.conf:/etc/resolv.conf",
                "/run/hosts:/etc/hosts",
            ] {
                command.args(["--volume", &format!("{file}:ro")]);
            }
            command.args([
                AGENT,
                "agent",
                "--node",
                "n1",
                "--kubeconfig",
                "/kubeconfig",
                "--metrics",
                "none",
            ]);
            let process = Process::start(&mut command, Path::new("/run/agent.log"));
            let connected =
                Wait::DEFAULT.try_until(|| listener.accept().map(drop).map_err(|why| why.to_string()));
            assert!(connected.is_ok(), "{name}: {connected:?}\n{}", process.output());
            try_command(&mut podman.podman(&["rm", "--force", "--time", "0", "agent"]))
                .expect("remove the container");
        }
    });
}

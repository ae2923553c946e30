//! The real CoreDNS, as a peer of tests.
//!
//! `COREDNS` is the path of the program. It answers from an API server like the cluster's DNS, on the loopback address,
//! and has a small zone of its own, `example.test`, in which only `www` exists.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::child_guard::ChildGuard;
use crate::temp_dir::TempDir;

/// The timeout of a response, generous for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A running CoreDNS, which is stopped when the value is dropped.
pub struct CoreDns {
    _child: ChildGuard,
    socket: UdpSocket,
    dir: TempDir,
}

impl CoreDns {
    /// Returns the path of the program, if there is one.
    pub fn program() -> Option<PathBuf> {
        std::env::var_os("COREDNS").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Starts the program as the addon of Kubernetes configures it, without a cache and upstreams.
    pub fn start(program: &Path, kubeconfig: &Path) -> Self {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let port = free.expect("a free port").port();
        let dir = TempDir::new("coredns");
        let config = dir.write("Corefile", corefile(port, kubeconfig));
        let log = File::create(dir.join("log")).expect("create a log");
        let mut command = Command::new(program);
        command
            .arg("-conf")
            .arg(config)
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("the log"))
            .stdout(log);
        let child = ChildGuard::spawn(&mut command);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).expect("connect a UDP socket");
        Self { _child: child, socket, dir }
    }

    /// Sends a query, and returns the response with the same id.
    pub fn ask(&self, query: &[u8], timeout: Duration) -> Option<Vec<u8>> {
        self.socket.set_read_timeout(Some(timeout)).expect("set a timeout");
        // Before the program listens, the kernel rejects packets.
        self.socket.send(query).ok()?;
        let mut buffer = vec![0; 65_536];
        loop {
            let len = self.socket.recv(&mut buffer).ok()?;
            if buffer[..len].get(..2) == query.get(..2) {
                buffer.truncate(len);
                return Some(buffer);
            }
        }
    }

    /// Sends a query, and returns the response.
    ///
    /// # Panics
    /// If CoreDNS does not respond.
    pub fn answer(&self, query: &[u8]) -> Vec<u8> {
        self.ask(query, TIMEOUT).unwrap_or_else(|| panic!("CoreDNS did not respond:\n{}", self.log()))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("read the log")
    }
}

fn corefile(port: u16, kubeconfig: &Path) -> String {
    let kubeconfig = kubeconfig.display();
    format!(
        ".:{port} {{
    bind 127.0.0.1
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    template IN A example.test {{
        match ^www[.]
        answer \"{{{{ .Name }}}} 60 IN A 192.0.2.1\"
        fallthrough
    }}
    template IN ANY example.test {{
        match ^www[.]
        rcode NOERROR
        fallthrough
    }}
    template IN ANY example.test {{
        rcode NXDOMAIN
    }}
}}
"
    )
}

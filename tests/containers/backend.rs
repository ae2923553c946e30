//! Backends on a network next to the node, and clients that ask for the name of a backend.
//!
//! A backend replies with its name to each line, and to an HTTP request like a web server.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use test_support::dns::{UpstreamLog, serve_upstream};
use test_support::namespace::run;
use test_support::pod::Pod;

/// The timeout of a reply. A lost packet is sent again after a second.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of questions, enough to miss one of three backends only once in ten million runs.
const QUESTIONS: usize = 40;

/// The name and the addresses of a backend. Its zone is `zone-` and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) address: &'static str,
    pub(crate) address6: &'static str,
}

pub(crate) const A: Backend = Backend { name: "a", address: "10.77.0.101", address6: "fd77::101" };
pub(crate) const B: Backend = Backend { name: "b", address: "10.77.0.102", address6: "fd77::102" };
pub(crate) const C: Backend = Backend { name: "c", address: "10.77.0.103", address6: "fd77::103" };

/// An endpoint without a server.
pub(crate) const GONE: Backend = Backend { name: "gone", address: "10.77.0.109", address6: "fd77::109" };

pub(crate) const TCP_PORT: u16 = 8080;
pub(crate) const UDP_PORT: u16 = 5353;

/// The network next to the node, with its backends.
pub(crate) struct BackendNetwork {
    netns: Pod,
}

impl BackendNetwork {
    /// Starts all backends at the other end of the node's interface `wire`.
    pub(crate) fn new() -> Self {
        let lan = Pod::new();
        lan.wire("wire", "lan0");
        for backend in [A, B, C] {
            lan.ip(&["address", "add", &format!("{}/24", backend.address), "dev", "lan0"]);
            lan.ip(&["address", "add", &format!("{}/64", backend.address6), "dev", "lan0", "nodad"]);
            lan.within(|| [backend.address, backend.address6].map(|address| backend.serve(address)));
        }
        Self { netns: lan }
    }

    /// Starts a DNS server at an address.
    pub(crate) fn serve_dns(&self, address: &str) -> UpstreamLog {
        self.netns.within(|| serve_upstream(address))
    }

    /// Adds the node's end to the bridge of the pods.
    pub(crate) fn bridge(&self) {
        run("ip", &["link", "add", "pods0", "type", "bridge"], "");
        run("ip", &["link", "set", "pods0", "up"], "");
        run("ip", &["link", "set", "wire", "master", "pods0"], "");
    }
}

impl Backend {
    fn serve(self, address: &str) {
        let at = |port| SocketAddr::new(address.parse().expect("an address"), port);
        let listener = TcpListener::bind(at(TCP_PORT)).expect("listen on a backend's address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client may close its connection at any time.
                thread::spawn(move || drop(self.reply_to_each_question(&stream)));
            }
        });
        let socket = UdpSocket::bind(at(UDP_PORT)).expect("bind to a backend's address");
        thread::spawn(move || {
            let mut question = [0; 16];
            while let Ok((_, client)) = socket.recv_from(&mut question) {
                let _ = socket.send_to(self.name.as_bytes(), client);
            }
        });
    }

    fn reply_to_each_question(self, mut stream: &TcpStream) -> io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next().transpose()? {
            if line.starts_with("GET ") {
                lines.by_ref().map_while(Result::ok).find(String::is_empty);
                return write!(stream, "HTTP/1.0 200 OK\r\n\r\n{}\n", self.name);
            }
            writeln!(stream, "{}", self.name)?;
        }
        Ok(())
    }
}

/// A persistent connection to a backend.
pub(crate) struct Conversation(BufReader<TcpStream>);

impl Conversation {
    pub(crate) fn open(portal: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&portal, REPLY_TIMEOUT)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Returns the name of the backend.
    pub(crate) fn ask(&mut self) -> io::Result<String> {
        self.0.get_mut().write_all(b"who?\n")?;
        let mut name = String::new();
        self.0.read_line(&mut name)?;
        Ok(name.trim().to_owned())
    }
}

/// Returns the backends that reply over TCP, with a new connection for each question. A failure counts as a reply.
pub(crate) fn tcp_answers(portal: SocketAddr) -> BTreeSet<String> {
    answers(|| Conversation::open(portal)?.ask())
}

/// Returns the backends that reply over UDP, with a new socket for each question.
pub(crate) fn udp_answers(portal: SocketAddr) -> BTreeSet<String> {
    answers(|| {
        let own = if portal.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(REPLY_TIMEOUT))?;
        socket.connect(portal)?;
        socket.send(b"who?")?;
        let mut name = [0; 16];
        let bytes = socket.recv(&mut name)?;
        Ok(String::from_utf8_lossy(&name[..bytes]).into_owned())
    })
}

fn answers(ask: impl Fn() -> io::Result<String>) -> BTreeSet<String> {
    let mut answers = BTreeSet::new();
    for _ in 0..QUESTIONS {
        match ask() {
            Ok(name) => drop(answers.insert(name)),
            Err(why) => {
                answers.insert(format!("failed: {why}"));
                break;
            }
        }
    }
    answers
}

/// The names of backends.
pub(crate) fn names(backends: &[Backend]) -> BTreeSet<String> {
    backends.iter().map(|backend| backend.name.to_owned()).collect()
}

/// A shell command that asks with `wget`, and fails without a reply.
pub(crate) fn wgets(portal: SocketAddr) -> String {
    let once = format!("timeout 5 wget -q -O - http://{portal}/");
    format!("i=0; while [ $i -lt {QUESTIONS} ]; do {once} || exit 1; i=$((i+1)); done")
}

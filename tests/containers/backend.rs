//! Backends on the network beside the node, and clients that ask who answers.
//!
//! A backend speaks lines: to each it answers with its name, to an HTTP request as a web server would.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use test_support::namespace::run;
use test_support::pod::Pod;

/// A lost packet is sent again after a second.
const ANSWER: Duration = Duration::from_secs(5);
/// So many questions that none of three backends is missed, but once in ten million times.
const QUESTIONS: usize = 40;

/// A backend: who it is and where. Its zone is `zone-` and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) address: &'static str,
    pub(crate) address6: &'static str,
}

pub(crate) const A: Backend = Backend { name: "a", address: "10.77.0.101", address6: "fd77::101" };
pub(crate) const B: Backend = Backend { name: "b", address: "10.77.0.102", address6: "fd77::102" };
pub(crate) const C: Backend = Backend { name: "c", address: "10.77.0.103", address6: "fd77::103" };

/// Told as a backend, and nowhere.
pub(crate) const GONE: Backend = Backend { name: "gone", address: "10.77.0.109", address6: "fd77::109" };

pub(crate) const TCP_PORT: u16 = 8080;
pub(crate) const UDP_PORT: u16 = 5353;

/// The network beside the node, with its backends.
pub(crate) struct Lan {
    /// Keeps the network namespace.
    _netns: Pod,
}

impl Lan {
    /// All backends, at the other end of the node's `wire`.
    pub(crate) fn new() -> Self {
        let lan = Pod::new();
        lan.wire("wire", "lan0");
        for backend in [A, B, C] {
            lan.ip(&["address", "add", &format!("{}/24", backend.address), "dev", "lan0"]);
            lan.ip(&["address", "add", &format!("{}/64", backend.address6), "dev", "lan0", "nodad"]);
            lan.within(|| [backend.address, backend.address6].map(|address| backend.serve(address)));
        }
        Self { _netns: lan }
    }

    /// Puts the node's end into the bridge of the pods.
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
                // A client that goes away is no fault.
                thread::spawn(move || drop(self.converse(&stream)));
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

    fn converse(self, mut stream: &TcpStream) -> io::Result<()> {
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

/// A connection that stays.
pub(crate) struct Conversation(BufReader<TcpStream>);

impl Conversation {
    pub(crate) fn open(portal: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&portal, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Who is at the other end.
    pub(crate) fn ask(&mut self) -> io::Result<String> {
        self.0.get_mut().write_all(b"who?\n")?;
        let mut name = String::new();
        self.0.read_line(&mut name)?;
        Ok(name.trim().to_owned())
    }
}

/// Who answers at a portal over TCP, a new connection for each question; a failure is among the answers.
pub(crate) fn tcp_answers(portal: SocketAddr) -> BTreeSet<String> {
    answers(|| Conversation::open(portal)?.ask())
}

/// The same over UDP, a new socket for each question.
pub(crate) fn udp_answers(portal: SocketAddr) -> BTreeSet<String> {
    answers(|| {
        let own = if portal.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(ANSWER))?;
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

/// A shell command that asks so often by `wget`; all answers must come.
pub(crate) fn wgets(portal: SocketAddr) -> String {
    let once = format!("timeout 5 wget -q -O - http://{portal}/");
    format!("i=0; while [ $i -lt {QUESTIONS} ]; do {once} || exit 1; i=$((i+1)); done")
}

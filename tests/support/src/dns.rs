//! DNS clients and upstreams of tests. Messages are written and read by hickory-proto, independent of Portico's code.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::namespace::add_address;

/// The time in which a response must arrive. Nothing here is further away than another network namespace.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The port of DNS.
const PORT: u16 = 53;
/// The address in all answers of an upstream.
pub const UPSTREAM_ANSWER: &str = "192.0.2.7";

/// A response, reduced to what tests compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The response code, such as `NXDomain`.
    pub code: String,
    /// The data of the answer records, such as `10.96.0.1`.
    pub records: BTreeSet<String>,
    pub is_truncated: bool,
    pub is_authoritative: bool,
}

impl Answer {
    /// An answer without errors and with these records.
    pub fn of(records: &[&str]) -> (String, BTreeSet<String>) {
        ("No Error".to_owned(), records.iter().map(|record| (*record).to_owned()).collect())
    }

    /// The response code and the records.
    pub fn content(&self) -> (String, BTreeSet<String>) {
        (self.code.clone(), self.records.clone())
    }

    fn parse(bytes: &[u8], id: u16) -> Self {
        let message = Message::from_vec(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
        assert_eq!((message.metadata.id, message.metadata.message_type), (id, MessageType::Response));
        Self {
            code: message.metadata.response_code.to_string(),
            records: message.answers.iter().map(|record| record.data.to_string()).collect(),
            is_truncated: message.metadata.truncation,
            is_authoritative: message.metadata.authoritative,
        }
    }
}

/// Returns a query.
pub fn query(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a message")
}

/// Asks a server over UDP.
pub fn try_ask(server: &str, name: &str, kind: RecordType, timeout: Duration) -> io::Result<Answer> {
    let server: IpAddr = server.parse().expect("an address");
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect((server, PORT))?;
    socket.set_read_timeout(Some(timeout))?;
    let id = fastrand::u16(..);
    socket.send(&query(id, name, kind))?;
    let mut buffer = vec![0; 65_536];
    let length = socket.recv(&mut buffer)?;
    Ok(Answer::parse(&buffer[..length], id))
}

/// Asks a server over UDP. Panics without a response.
#[track_caller]
pub fn ask(server: &str, name: &str, kind: RecordType) -> Answer {
    try_ask(server, name, kind, ANSWER_TIMEOUT).unwrap_or_else(|error| panic!("{name} {kind}: {error}"))
}

/// Asks a server over TCP.
pub fn ask_tcp(server: &str, name: &str, kind: RecordType) -> io::Result<Answer> {
    let server = SocketAddr::new(server.parse().expect("an address"), PORT);
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let id = fastrand::u16(..);
    write_message(&mut stream, &query(id, name, kind))?;
    Ok(Answer::parse(&read_message(&mut stream)?, id))
}

pub fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())
}

pub fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// The queries that an upstream received: the client, the name and the type.
#[derive(Debug, Clone, Default)]
pub struct UpstreamLog(Arc<Mutex<Vec<(IpAddr, String, RecordType)>>>);

impl UpstreamLog {
    pub fn queries(&self) -> Vec<(IpAddr, String, RecordType)> {
        self.0.lock().expect("a log").clone()
    }

    pub fn count(&self) -> usize {
        self.queries().len()
    }
}

/// Starts an upstream at port 53 of an address, which it adds, in this network namespace, over UDP and TCP. It answers
/// type A of names in example.com with `UPSTREAM_ANSWER`; other types have no records, and other names do not exist.
pub fn serve_upstream(address: &str) -> UpstreamLog {
    serve_upstream_after(address, Duration::ZERO)
}

/// As `serve_upstream`, with a delay of each response over UDP.
pub fn serve_upstream_after(address: &str, delay: Duration) -> UpstreamLog {
    add_address(address);
    let at = SocketAddr::new(address.parse().expect("an address"), PORT);
    let log = UpstreamLog::default();
    let socket = UdpSocket::bind(at).expect("listen on UDP");
    let listener = TcpListener::bind(at).expect("listen on TCP");
    let (of_udp, responder) = (log.clone(), socket.try_clone().expect("a second descriptor"));
    let (responses, due) = std::sync::mpsc::channel::<(Instant, Vec<u8>, SocketAddr)>();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let at = Instant::now() + delay;
            let _ = responses.send((at, respond(&buffer[..length], peer, &of_udp), peer));
        }
    });
    std::thread::spawn(move || {
        for (at, response, peer) in due {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let _ = responder.send_to(&response, peer);
        }
    });
    let of_tcp = log.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let Ok(peer) = stream.peer_addr() else { continue };
            while let Ok(query) = read_message(&mut stream) {
                let _ = write_message(&mut stream, &respond(&query, peer, &of_tcp));
            }
        }
    });
    log
}

fn respond(query: &[u8], peer: SocketAddr, log: &UpstreamLog) -> Vec<u8> {
    let query = Message::from_vec(query).expect("a query");
    let question = query.queries.first().expect("a question").clone();
    let name = question.name().to_ascii().to_ascii_lowercase();
    log.0.lock().expect("a log").push((peer.ip(), name.clone(), question.query_type()));
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.metadata.recursion_desired = true;
    response.metadata.recursion_available = true;
    if !name.ends_with("example.com.") {
        response.metadata.response_code = hickory_proto::op::ResponseCode::NXDomain;
    } else if question.query_type() == RecordType::A {
        let address: Ipv4Addr = UPSTREAM_ANSWER.parse().expect("an address");
        response.add_answer(Record::from_rdata(question.name().clone(), 60, RData::A(address.into())));
    }
    response.add_query(question);
    response.to_vec().expect("a message")
}

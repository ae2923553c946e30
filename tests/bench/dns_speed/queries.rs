//! Queries for names of services, and the clients that send them: a window of queries, or one at a time.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use test_support::dns::query;

/// The number of names, which are fewer than a cache of CoreDNS holds.
const NAMES: usize = 1_000;
/// The queries that a client of `answered` has sent without a response.
const WINDOW: usize = 64;
/// The time after which a query is lost.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Longer than each response.
const RESPONSE_BYTES: usize = 1_232;

/// The name of a service in the cluster.
pub(crate) fn service_name(index: usize) -> String {
    format!("s{index}.n{}.svc.cluster.local.", index % 100)
}

/// Queries for the addresses of services, distributed over all.
pub(crate) fn service_queries(services: usize) -> Vec<Vec<u8>> {
    let one = |number: usize| {
        let id = u16::try_from(number).expect("a small number");
        query(id, &service_name(number * 7_919 % services), RecordType::A)
    };
    (0..NAMES.min(services)).map(one).collect()
}

/// A socket of a client in this network namespace, connected to a DNS server.
pub(crate) fn connect(server: &str) -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(server).expect("connect");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket
}

/// Whether a response has at least one record.
pub(crate) fn has_records(response: &[u8]) -> bool {
    let code = response.get(3).map(|flags| flags & 0x0f);
    code == Some(0) && response.get(6..8).is_some_and(|count| count != [0, 0])
}

/// Sends a query, and returns whether a response with records arrived.
pub(crate) fn is_answered(socket: &UdpSocket, query: &[u8]) -> bool {
    let mut buffer = [0; RESPONSE_BYTES];
    socket.send(query).is_ok() && socket.recv(&mut buffer).is_ok_and(|length| has_records(&buffer[..length]))
}

/// Sends queries for this time with a window, and returns the number of responses.
pub(crate) fn answered(socket: &UdpSocket, queries: &[Vec<u8>], time: Duration) -> u64 {
    let (fd, start) = (socket.as_raw_fd(), Instant::now());
    let mut buffers = vec![[0; RESPONSE_BYTES]; WINDOW];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(WINDOW, None);
    let mut next = queries.iter().cycle();
    let (mut waiting, mut total) = (0, 0);
    while start.elapsed() < time {
        let slices: Vec<[IoSlice<'_>; 1]> =
            next.by_ref().take(WINDOW - waiting).map(|query| [IoSlice::new(query)]).collect();
        let no_addresses = vec![None; slices.len()];
        let none: &[ControlMessage<'_>] = &[];
        let sent = sendmmsg(fd, &mut headers, slices.iter(), &no_addresses, none, MsgFlags::empty());
        waiting += sent.expect("send").count();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None);
        match received {
            Ok(messages) => {
                let count = messages.map(|message| assert!(message.bytes > 12, "a response")).count();
                waiting = waiting.saturating_sub(count);
                total += u64::try_from(count).expect("a small number");
            }
            // The queries or their responses are lost.
            Err(Errno::EAGAIN) => waiting = 0,
            Err(error) => panic!("receive: {error}"),
        }
    }
    total
}

/// Sends this number of queries one at a time, and returns the time of each, in us.
pub(crate) fn exchange_times(socket: &UdpSocket, queries: &[Vec<u8>], exchanges: usize) -> Vec<f64> {
    let mut buffer = [0; RESPONSE_BYTES];
    let mut one = |query: &Vec<u8>| {
        let start = Instant::now();
        socket.send(query).expect("send");
        socket.recv(&mut buffer).expect("a response");
        start.elapsed().as_secs_f64() * 1e6
    };
    queries.iter().cycle().take(exchanges).map(&mut one).collect()
}

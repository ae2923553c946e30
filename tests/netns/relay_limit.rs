//! The limits of relayed connections on a node: memory, connections and file descriptors.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use proxy_core::sample::{backend, tcp};
use relay::Options;
use test_support::eventually::eventually;
use test_support::own_process;
use test_support::proc_memory::resident_kb;
use test_support::relay_fixture::{
    OPTIONS, RelayFixture, Server, TIMEOUT, accept, exchange_byte, listen, read_name, read_to_end,
    relayed_service, web_service, with_relay, with_relay_options,
};

const BACKEND: &str = "10.1.0.1";
const PORTAL: &str = "10.96.0.1:80";

fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").expect("this process").count()
}

fn over_limit(fixture: &RelayFixture) -> u64 {
    fixture.relay.report(Instant::now()).over_limit
}

#[test]
fn idle_connections_cost_less_than_8_kb_each_and_leave_nothing() {
    own_process!(|| {
        const CLIENTS: usize = 2_000;
        with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
            let listener = listen("10.1.0.1:8080");
            let (before, open) = (resident_kb(), open_fds());
            // One after the other, since the accept queue of the listener is short.
            let pairs: Vec<_> = (0..CLIENTS).map(|_| (fixture.connect(PORTAL), accept(&listener))).collect();
            eventually("all are relayed", || fixture.report(tcp(PORTAL)).active == CLIENTS as u64);
            let growth = (resident_kb() - before) / CLIENTS as f64;
            assert!(growth < 8.0, "{growth} KB each");
            drop(pairs);
            eventually("all are closed", || fixture.connections() == 0);
            fixture.relay.gc(Instant::now());
            assert!(open_fds() <= open + 2, "{} descriptors, {open} before", open_fds());
            let report = fixture.report(tcp(PORTAL));
            assert_eq!((report.active, report.backends[0].active), (0, 0));
        });
    });
}

#[test]
fn connections_over_the_limit_are_reset_and_counted() {
    let options = Options { connections_max: 10, ..OPTIONS };
    with_relay_options(options, relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut open: Vec<TcpStream> = (0..10).map(|_| fixture.connect(PORTAL)).collect();
        open.iter_mut().for_each(|stream| drop(read_name(stream)));
        for _ in 0..20 {
            assert_eq!(fixture.connect_outcome(PORTAL), Err(ErrorKind::ConnectionReset));
        }
        assert_eq!((over_limit(fixture), fixture.connections()), (20, 10));
        open.iter_mut().for_each(|stream| exchange_byte(stream).expect("the connection is open"));
        open.pop();
        eventually("new connections are accepted", || fixture.connections() == 9);
        let mut next = fixture.connect(PORTAL);
        assert_eq!(read_name(&mut next), "a");
    });
}

#[test]
fn connections_are_reset_if_file_descriptors_run_out() {
    own_process!(|| {
        with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
            let _server = Server::start("a", "10.1.0.1:8080");
            let mut served = fixture.connect(PORTAL);
            assert_eq!(read_name(&mut served), "a");
            // The sockets of the clients are open already; no other descriptor can be opened from now on.
            let mut clients = unconnected_sockets(fixture, 40);
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
            let last = fs::read_dir("/proc/self/fd").expect("this process").flatten();
            let last = last.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max();
            setrlimit(Resource::RLIMIT_NOFILE, last.expect("one") + 1, hard).expect("lower the limit");
            let fillers: Vec<_> = std::iter::from_fn(|| served.try_clone().ok()).collect();
            let before = over_limit(fixture);
            let ends: Vec<_> = clients.iter_mut().map(connect_outcome).collect();
            exchange_byte(&mut served).expect("the connection is open");
            let refused = over_limit(fixture) - before;
            drop(fillers);
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("restore the limit");
            assert!(ends.iter().all(|end| *end == Err(ErrorKind::ConnectionReset)), "{ends:?}");
            assert_eq!(refused, 40);
            assert_eq!(fixture.report(tcp(PORTAL)).backends[0].failures, 0, "the backend did not fail");
            eventually("new connections are accepted", || fixture.connections() == 1);
            assert_eq!(read_name(&mut fixture.connect(PORTAL)), "a");
        });
    });
}

/// Sockets in the pod that are not connected yet.
fn unconnected_sockets(fixture: &RelayFixture, count: usize) -> Vec<TcpStream> {
    let open = |_| socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    fixture.within(|| (0..count).map(open).map(|socket| socket.expect("a socket").into()).collect())
}

/// Connects a socket, and returns how the connection ends if the client sends nothing.
fn connect_outcome(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    let SocketAddr::V4(portal) = backend(PORTAL) else { panic!("an IPv4 portal") };
    let connected = connect(stream.as_raw_fd(), &SockaddrIn::from(portal));
    connected.map_err(|error| std::io::Error::from(error).kind())?;
    stream.set_read_timeout(Some(TIMEOUT)).expect("set a time-out");
    read_to_end(stream)
}

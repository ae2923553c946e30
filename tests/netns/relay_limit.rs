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
use test_support::kilobytes::resident_kb;
use test_support::own_process;
use test_support::relayed;
use test_support::relayed::{
    OPTIONS, Relayed, Server, TIMEOUT, end_of, eventually, leads, listener, name, relayed, relayed_with,
    talk, web,
};

const BACKEND: &str = "10.1.0.1";
const PORTAL: &str = "10.96.0.1:80";

fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").expect("this process").count()
}

fn over_limit(world: &Relayed) -> u64 {
    world.relay.report(Instant::now()).over_limit
}

#[test]
fn idle_connections_cost_less_than_8_kb_each_and_leave_nothing() {
    own_process!(|| {
        const CLIENTS: usize = 2_000;
        relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
            let listener = listener("10.1.0.1:8080");
            let (before, open) = (resident_kb(), open_fds());
            // One after the other, since the accept queue of the listener is short.
            let pairs: Vec<_> =
                (0..CLIENTS).map(|_| (world.connect(PORTAL), relayed::accepted(&listener))).collect();
            eventually("all are relayed", || world.report(tcp(PORTAL)).active == CLIENTS as u64);
            let growth = (resident_kb() - before) / CLIENTS as f64;
            assert!(growth < 8.0, "{growth} KB each");
            drop(pairs);
            eventually("all are closed", || world.connections() == 0);
            world.relay.gc(Instant::now());
            assert!(open_fds() <= open + 2, "{} descriptors, {open} before", open_fds());
            let report = world.report(tcp(PORTAL));
            assert_eq!((report.active, report.backends[0].active), (0, 0));
        });
    });
}

#[test]
fn connections_over_the_limit_are_reset_and_counted() {
    let options = Options { connections_max: 10, ..OPTIONS };
    relayed_with(options, leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut open: Vec<TcpStream> = (0..10).map(|_| world.connect(PORTAL)).collect();
        open.iter_mut().for_each(|stream| drop(name(stream)));
        for _ in 0..20 {
            assert_eq!(world.outcome(PORTAL), Err(ErrorKind::ConnectionReset));
        }
        assert_eq!((over_limit(world), world.connections()), (20, 10));
        open.iter_mut().for_each(|stream| talk(stream).expect("the connection is open"));
        open.pop();
        eventually("new connections are accepted", || world.connections() == 9);
        let mut next = world.connect(PORTAL);
        assert_eq!(name(&mut next), "a");
    });
}

#[test]
fn connections_are_reset_if_file_descriptors_run_out() {
    own_process!(|| {
        relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
            let _server = Server::start("a", "10.1.0.1:8080");
            let mut served = world.connect(PORTAL);
            assert_eq!(name(&mut served), "a");
            // The sockets of the clients are open already; no other descriptor can be opened from now on.
            let mut clients = sockets_in(world, 40);
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
            let last = fs::read_dir("/proc/self/fd").expect("this process").flatten();
            let last = last.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max();
            setrlimit(Resource::RLIMIT_NOFILE, last.expect("one") + 1, hard).expect("lower the limit");
            let fillers: Vec<_> = std::iter::from_fn(|| served.try_clone().ok()).collect();
            let before = over_limit(world);
            let ends: Vec<_> = clients.iter_mut().map(outcome).collect();
            talk(&mut served).expect("the connection is open");
            let refused = over_limit(world) - before;
            drop(fillers);
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("restore the limit");
            assert!(ends.iter().all(|end| *end == Err(ErrorKind::ConnectionReset)), "{ends:?}");
            assert_eq!(refused, 40);
            assert_eq!(world.report(tcp(PORTAL)).backends[0].failures, 0, "the backend did not fail");
            eventually("new connections are accepted", || world.connections() == 1);
            assert_eq!(name(&mut world.connect(PORTAL)), "a");
        });
    });
}

/// Sockets in the pod that are not connected yet.
fn sockets_in(world: &Relayed, count: usize) -> Vec<TcpStream> {
    let open = |_| socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    world.within(|| (0..count).map(open).map(|socket| socket.expect("a socket").into()).collect())
}

/// Connects a socket, and returns how the connection ends if the client sends nothing.
fn outcome(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    let SocketAddr::V4(portal) = backend(PORTAL) else { panic!("an IPv4 portal") };
    let connected = connect(stream.as_raw_fd(), &SockaddrIn::from(portal));
    connected.map_err(|error| std::io::Error::from(error).kind())?;
    stream.set_read_timeout(Some(TIMEOUT)).expect("set a time-out");
    end_of(stream)
}

//! How much of a node relayed connections may take: memory, connections, descriptors.

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
    OPTIONS, PATIENCE, Relayed, Server, end_of, eventually, leads, listener, name, relayed, relayed_with,
    talk, web,
};

const BACKEND: &str = "10.1.0.1";
const PORTAL: &str = "10.96.0.1:80";

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("this process").count()
}

fn over_limit(world: &Relayed) -> u64 {
    world.relay.report(Instant::now()).over_limit
}

#[test]
fn two_thousand_silent_clients_cost_less_than_8_kb_each_and_leave_nothing() {
    own_process!(|| {
        const CLIENTS: usize = 2_000;
        relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
            let listener = listener("10.1.0.1:8080");
            let (before, open) = (resident_kb(), descriptors());
            // One after the other: the listener's queue is short.
            let pairs: Vec<_> =
                (0..CLIENTS).map(|_| (world.connect(PORTAL), relayed::accepted(&listener))).collect();
            eventually("all are relayed", || world.report(tcp(PORTAL)).active == CLIENTS as u64);
            let grown = (resident_kb() - before) / CLIENTS as f64;
            assert!(grown < 8.0, "{grown} KB each");
            drop(pairs);
            eventually("all have gone", || world.connections() == 0);
            world.relay.gc(Instant::now());
            assert!(descriptors() <= open + 2, "{} descriptors, {open} before", descriptors());
            let report = world.report(tcp(PORTAL));
            assert_eq!((report.active, report.backends[0].active), (0, 0));
        });
    });
}

#[test]
fn who_comes_when_there_are_too_many_is_reset_and_counted_and_the_others_live() {
    let options = Options { connections_max: 10, ..OPTIONS };
    relayed_with(options, leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut kept: Vec<TcpStream> = (0..10).map(|_| world.connect(PORTAL)).collect();
        kept.iter_mut().for_each(|stream| drop(name(stream)));
        for _ in 0..20 {
            assert_eq!(world.outcome(PORTAL), Err(ErrorKind::ConnectionReset));
        }
        assert_eq!((over_limit(world), world.connections()), (20, 10));
        kept.iter_mut().for_each(|stream| talk(stream).expect("it lives"));
        kept.pop();
        eventually("there is room again", || world.connections() == 9);
        let mut next = world.connect(PORTAL);
        assert_eq!(name(&mut next), "a");
    });
}

#[test]
fn where_no_descriptor_is_left_who_comes_is_reset_and_the_others_live() {
    own_process!(|| {
        relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
            let _server = Server::start("a", "10.1.0.1:8080");
            let mut kept = world.connect(PORTAL);
            assert_eq!(name(&mut kept), "a");
            // The client's own sockets are there already; nothing else is to be had from now on.
            let mut clients = sockets_in(world, 40);
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
            let last = fs::read_dir("/proc/self/fd").expect("this process").flatten();
            let last = last.filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok()).max();
            setrlimit(Resource::RLIMIT_NOFILE, last.expect("one") + 1, hard).expect("lower the limit");
            let fillers: Vec<_> = std::iter::from_fn(|| kept.try_clone().ok()).collect();
            let before = over_limit(world);
            let ends: Vec<_> = clients.iter_mut().map(outcome).collect();
            talk(&mut kept).expect("it lives");
            let refused = over_limit(world) - before;
            drop(fillers);
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as it was");
            assert!(ends.iter().all(|end| *end == Err(ErrorKind::ConnectionReset)), "{ends:?}");
            assert_eq!(refused, 40);
            assert_eq!(world.report(tcp(PORTAL)).backends[0].failures, 0, "the backend has no part in it");
            eventually("there is room again", || world.connections() == 1);
            assert_eq!(name(&mut world.connect(PORTAL)), "a");
        });
    });
}

/// Sockets in the pod that are not connected yet.
fn sockets_in(world: &Relayed, count: usize) -> Vec<TcpStream> {
    let one = |_| socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    world.within(|| (0..count).map(one).map(|opened| opened.expect("a socket").into()).collect())
}

/// What becomes of a connection by this socket, on which nothing is said.
fn outcome(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    let SocketAddr::V4(portal) = backend(PORTAL) else { panic!("an IPv4 portal") };
    let connected = connect(stream.as_raw_fd(), &SockaddrIn::from(portal));
    connected.map_err(|error| std::io::Error::from(error).kind())?;
    stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    end_of(stream)
}

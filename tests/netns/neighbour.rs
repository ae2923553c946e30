//! Only a pod itself can use its portals: its neighbours on the same network reach nothing through them.
//!
//! The pod has a second interface on a LAN (bridge or macvlan). A neighbour on this LAN uses ordinary sockets and
//! crafted frames, as a container with NET_RAW can.

mod frame;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use frame::Wire;
use netns_nft::encode_fresh;
use proxy_core::portal::Portals;
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::service::{Dial, Mode, Service};
use proxy_core::snapshot::Change;
use test_support::backend_server::{DROP_TIMEOUT, backend_of, try_backend_of};
use test_support::namespace::{add_address_to, run};
use test_support::own_process;
use test_support::pod::Pod;
use test_support::relay_fixture::{
    RelayFixture, Server, read_name, relayed_service, web_service, with_relay,
};
use test_support::ruleset_loader::portals_of;

/// The pod and the neighbour on the LAN.
const POD: &str = "10.5.0.2";
const POD6: &str = "2001:db8:5::2";
const NEIGHBOUR: &str = "10.5.0.3";
const NEIGHBOUR6: &str = "2001:db8:5::3";
const PORTAL: &str = "10.96.0.1:80";
const PORTAL6: &str = "[2001:db8:96::1]:80";
const RELAY_PORT: u16 = 15_999;
/// The duration of a flood.
const FLOOD: Duration = Duration::from_secs(2);
/// The unit in which the kernel reports CPU time (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// The kind of the LAN that two pods of a node share.
#[derive(Debug, Clone, Copy)]
enum Lan {
    Bridge,
    Macvlan,
}

impl Lan {
    /// Creates a neighbour on a LAN with the pod. The neighbour routes service addresses to the pod.
    fn neighbour(self, pod: &Pod) -> Pod {
        let neighbour = Pod::new();
        match self {
            Self::Bridge => run("ip", &["link", "add", "lan", "type", "bridge"], ""),
            Self::Macvlan => {
                run("ip", &["link", "add", "lan", "type", "veth", "peer", "name", "other-end"], "")
            }
        };
        run("ip", &["link", "set", "lan", "up"], "");
        for (number, (member, own, own6)) in
            [(pod, POD, POD6), (&neighbour, NEIGHBOUR, NEIGHBOUR6)].into_iter().enumerate()
        {
            match self {
                Self::Bridge => {
                    let port = format!("port{number}");
                    member.wire(&port, "lan0");
                    run("ip", &["link", "set", &port, "master", "lan"], "");
                }
                Self::Macvlan => {
                    run("ip", &["link", "set", "other-end", "up"], "");
                    let path = member.path();
                    let kind = ["type", "macvlan", "mode", "bridge"];
                    run(
                        "ip",
                        &[&["link", "add", "link", "lan", "name", "lan0", "netns", &path], &kind[..]]
                            .concat(),
                        "",
                    );
                    member.ip(&["link", "set", "lan0", "up"]);
                }
            }
            member.within(|| {
                add_address_to("lan0", &format!("{own}/24"));
                add_address_to("lan0", &format!("{own6}/64"));
            });
        }
        neighbour.ip(&["route", "add", "default", "via", POD]);
        neighbour.ip(&["-6", "route", "add", "default", "via", POD6]);
        neighbour
    }
}

fn service() -> Service {
    web_service("10.96.0.1").ip("2001:db8:96::1")
}

fn service_ranges() -> Change {
    let ranges = ["10.96.0.0/16", "2001:db8:96::/64"].map(|net| net.parse().expect("a network"));
    Change::ServiceRanges(ranges.into())
}

/// The services of the pod, and whether it is programmed on demand.
fn cases() -> [(&'static str, Vec<Change>, bool); 4] {
    let to = ["10.1.0.1", "2001:db8:1::1"];
    let [kernel, made] = relayed_service(service(), &to);
    let Change::Service(kernel) = kernel else { panic!("a service") };
    let kernel = Service { mode: Some(Mode::Kernel), ..kernel };
    let of = |service: Service| [relayed_service(service, &to).to_vec(), vec![service_ranges()]].concat();
    [
        ("kernel", vec![kernel.clone().into(), made.clone(), service_ranges()], false),
        ("relay", of(service()), false),
        ("relay, dialled from the node", of(service().dial(Dial::Node)), false),
        ("on demand", vec![kernel.into(), made, service_ranges()], true),
    ]
}

/// Runs `body` with a programmed pod, a neighbour, and backends that count their connections.
fn with_neighbour(
    lan: Lan,
    changes: &[Change],
    on_demand: bool,
    body: impl FnOnce(&RelayFixture, &Pod, &[Server; 2]) + Send,
) {
    with_relay([], |fixture| {
        let servers = [Server::start("a", "10.1.0.1:8080"), Server::start("b", "[2001:db8:1::1]:8080")];
        let portals: Portals = portals_of(changes.to_vec());
        let settings = Settings { on_demand, ..Settings::default() };
        let socket = fixture.pod.netns.socket().expect("a socket");
        socket.apply(&encode_fresh(&Ruleset::new(&portals, settings))).expect("program the pod");
        fixture.relay.set_portals(&proxy_core::portal::ServiceFilter::All, portals);
        let neighbour = lan.neighbour(&fixture.pod);
        body(fixture, &neighbour, &servers);
    });
}

/// Asserts that the pod itself is served, so that the rejection of the neighbour is significant.
fn assert_serves_the_pod(fixture: &RelayFixture) {
    for (portal, name) in [(PORTAL, 'a'), (PORTAL6, 'b')] {
        let mut stream = fixture.connect(portal);
        assert_eq!(read_name(&mut stream), name.to_string(), "{portal}");
    }
}

fn connection_counts(servers: &[Server; 2]) -> [usize; 2] {
    servers.each_ref().map(Server::count)
}

/// Asserts that the neighbour gets no reply over TCP or UDP.
fn assert_no_reply(neighbour: &Pod) {
    let connect = |to: &str| try_backend_of(to, DROP_TIMEOUT).map(drop);
    let send = |to: &str| -> std::io::Result<()> {
        let client = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })?;
        client.set_read_timeout(Some(DROP_TIMEOUT))?;
        client.connect(to.replace(":80", ":53"))?;
        client.send(b"?")?;
        client.recv(&mut [0; 16]).map(drop)
    };
    neighbour.within(|| {
        std::thread::scope(|scope| {
            for to in [PORTAL, PORTAL6, "10.5.0.2:15999", "[2001:db8:5::2]:15999"] {
                scope.spawn(move || assert!(connect(to).is_err(), "{to}"));
                scope.spawn(move || assert!(send(to).is_err(), "{to}"));
            }
        });
    });
}

fn all_cases() -> impl Iterator<Item = (Lan, &'static str, Vec<Change>, bool)> {
    [Lan::Bridge, Lan::Macvlan]
        .into_iter()
        .flat_map(|lan| cases().map(|(name, changes, on_demand)| (lan, name, changes, on_demand)))
}

#[test]
fn neighbour_reaches_no_backend_through_the_portals_of_a_pod() {
    for (lan, name, changes, on_demand) in all_cases() {
        for forwards in ["0", "1"] {
            with_neighbour(lan, &changes, on_demand, |fixture, neighbour, servers| {
                fixture.within(|| {
                    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                        std::fs::write(format!("/proc/sys/net/{key}"), forwards).expect("set forwarding");
                    }
                });
                assert_serves_the_pod(fixture);
                let before =
                    (connection_counts(servers), fixture.relay.report(Instant::now()).totals.connections);
                assert_no_reply(neighbour);
                let after =
                    (connection_counts(servers), fixture.relay.report(Instant::now()).totals.connections);
                assert_eq!(after, before, "{lan:?}, {name}, forwards: {forwards}");
            });
        }
    }
}

#[test]
fn crafted_frames_get_no_reply() {
    for (lan, name, changes, on_demand) in all_cases() {
        with_neighbour(lan, &changes, on_demand, |fixture, neighbour, servers| {
            assert_serves_the_pod(fixture);
            let before = connection_counts(servers);
            let pod_mac = fixture.within(|| frame::mac_of("lan0"));
            let wire = neighbour.within(|| Wire::open("lan0", pod_mac));
            for to in
                [PORTAL, PORTAL6, "127.0.0.1:15999", "[::1]:15999", "10.5.0.2:15999", "[2001:db8:5::2]:15999"]
            {
                for from in [NEIGHBOUR, NEIGHBOUR6, POD, POD6, "127.0.0.1", "::1"] {
                    wire.send_syn(from, to);
                }
            }
            let replies = wire.syn_acks(DROP_TIMEOUT);
            assert!(replies.is_empty(), "{lan:?}, {name}: {replies:?}");
            assert_eq!((connection_counts(servers), fixture.connections()), (before, 0), "{lan:?}, {name}");
        });
    }
}

#[test]
fn external_address_that_is_the_pods_own_reaches_the_pod() {
    for (mode, forwards) in [(Mode::Kernel, "0"), (Mode::Kernel, "1"), (Mode::Relay, "0"), (Mode::Relay, "1")]
    {
        let hijack =
            web_service("10.96.0.1").external(POD).external(POD6).balanced("127.0.0.1").balanced("::1");
        let [service, made] = relayed_service(hijack, &["10.1.0.1", "2001:db8:1::1"]);
        let Change::Service(service) = service else { panic!("a service") };
        let service = Service { mode: Some(mode), ..service };
        with_neighbour(Lan::Bridge, &[service.into(), made], false, |fixture, neighbour, servers| {
            fixture.within(|| {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", forwards).expect("set forwarding");
                for address in [(POD, "v"), (POD6, "v"), ("127.0.0.1", "l"), ("::1", "l")] {
                    listen_as(address.1, address.0);
                }
                let own = ["10.5.0.2:80", "[2001:db8:5::2]:80", "127.0.0.1:80", "[::1]:80"];
                assert_eq!(own.map(backend_of), ["v", "v", "l", "l"], "{mode:?}");
            });
            neighbour.within(|| {
                assert_eq!(
                    ["10.5.0.2:80", "[2001:db8:5::2]:80"].map(backend_of),
                    ["v", "v"],
                    "{mode:?} {forwards}"
                );
            });
            assert_eq!(connection_counts(servers), [0, 0], "{mode:?} {forwards}");
        });
    }
}

/// Starts a server in the pod on an address of the pod.
fn listen_as(name: &'static str, address: &str) {
    let address: std::net::IpAddr = address.parse().expect("an address");
    let listener = TcpListener::bind((address, 80)).expect("listen");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection
                .and_then(|mut stream: TcpStream| std::io::Write::write_all(&mut stream, name.as_bytes()));
        }
    });
}

#[test]
fn datagrams_of_a_neighbour_to_the_relay_port_cost_no_cpu_time() {
    own_process!(|| {
        let (_, changes, _) = cases().into_iter().nth(1).expect("relay");
        with_neighbour(Lan::Bridge, &changes, false, |fixture, neighbour, _| {
            assert_serves_the_pod(fixture);
            let (begun, before) = (Instant::now(), relay_cpu());
            let sent: u64 = neighbour.within(|| {
                let client = UdpSocket::bind("0.0.0.0:0").expect("bind");
                client.connect(("10.5.0.2", RELAY_PORT)).expect("connect");
                (0..)
                    .take_while(|_| begun.elapsed() < FLOOD)
                    .map(|_| u64::from(client.send(b"?").is_ok()))
                    .sum()
            });
            let (took, used) = (begun.elapsed(), relay_cpu() - before);
            assert!(sent > 1_000, "only {sent} datagrams were sent");
            assert!(used < took / 20, "{sent} datagrams in {took:?} cost the relay {used:?}");
            assert_eq!(fixture.relay.report(Instant::now()).unmatched, 0);
        });
    });
}

/// The CPU time of the relay's threads.
fn relay_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("this process");
    let ticks = |stat: String| {
        let (name, rest) = stat.rsplit_once(')')?;
        let times = rest.split_whitespace().skip(11).take(2);
        name.contains("(relay-").then(|| times.filter_map(|ticks| ticks.parse::<u32>().ok()).sum::<u32>())
    };
    let stats = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    TICK * stats.filter_map(ticks).sum()
}

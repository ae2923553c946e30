//! `Relayed`: a pod whose portals are relayed, on a wire to its node, and the relay that serves it.
//!
//! The node is a network namespace of the test's own, and has the addresses of all backends; the pod has a
//! default route to it, for both families. What must not go in here: what any test claims.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::libc::linger;
use nix::sys::socket::{setsockopt, shutdown, sockopt};
use proxy_core::portal::{PortalKey, ServiceFilter};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{backend, slice, svc};
use proxy_core::service::{Mode, Service};
use proxy_core::snapshot::Change;
use relay::{Options, PortalReport, PortalUse, Relay};
use tokio::sync::mpsc::{Receiver, channel};

use crate::conversation::ANSWER;
use crate::namespace::{add_address, add_address_to, bare, run};
use crate::pod::Pod;
use crate::way::portals_of;

/// What must happen happens within this time.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The pod's own addresses.
pub const POD: &str = "10.244.0.2";
pub const POD6: &str = "2001:db8:244::2";
/// What a relay is started with, unless a test is about that.
pub const OPTIONS: Options =
    Options { workers: 2, port: 15_999, connections_max: 20_000, buffer_bytes_max: 1 << 30 };

/// A pod, its node and the relay.
pub struct Relayed {
    pub pod: Pod,
    pub relay: Relay,
    pub used: Mutex<Receiver<PortalUse>>,
    applied: Mutex<Ruleset>,
}

/// Runs `body` on a node with a pod that sees these services.
pub fn relayed<const N: usize>(changes: [Change; N], body: impl FnOnce(&Relayed) + Send) {
    relayed_with(OPTIONS, changes, body);
}

/// The same, with a relay of this kind.
pub fn relayed_with<const N: usize>(
    options: Options,
    changes: [Change; N],
    body: impl FnOnce(&Relayed) + Send,
) {
    bare(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let pod = wired("10.244.0", "2001:db8:244:", "w1");
        let (used, told) = channel(4_096);
        let relay = Relay::start(options, &used).expect("start the relay");
        let applied = Mutex::new(Ruleset::empty());
        let world = Relayed { pod, relay, used: Mutex::new(told), applied };
        world.show(changes);
        world.relay.open_netns(&world.pod.netns, &ServiceFilter::All, false).expect("listen in the pod");
        body(&world);
    });
}

/// A pod with the second address of each of these nets; this node has the first.
pub fn wired(net: &str, net6: &str, outer: &str) -> Pod {
    let pod = Pod::new();
    pod.wire(outer, "eth0");
    add_address_to(outer, &format!("{net}.1/24"));
    add_address_to(outer, &format!("{net6}:1/64"));
    pod.within(|| {
        add_address_to("eth0", &format!("{net}.2/24"));
        add_address_to("eth0", &format!("{net6}:2/64"));
    });
    pod.ip(&["route", "add", "default", "via", &format!("{net}.1")]);
    pod.ip(&["-6", "route", "add", "default", "via", &format!("{net6}:1")]);
    pod
}

impl Relayed {
    /// Shows other services to the pod.
    pub fn show(&self, changes: impl IntoIterator<Item = Change>) {
        let portals = portals_of(changes);
        let after = Ruleset::new(&portals, Settings::default());
        // The relay knows a portal before somebody comes to it.
        self.relay.set_portals(&ServiceFilter::All, portals);
        let mut applied = self.applied.lock().expect("no test panicked here");
        self.pod.change(&applied, &after);
        *applied = after;
    }

    /// Runs `body` in the pod.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.pod.within(body)
    }

    /// A connection from the pod.
    pub fn connect(&self, portal: &str) -> TcpStream {
        self.within(|| connected(portal))
    }

    /// What the relay tells of a portal.
    pub fn report(&self, key: PortalKey) -> PortalReport {
        let report = self.relay.report(Instant::now());
        let portals = report.namespaces.into_iter().flat_map(|place| place.portals);
        portals.into_iter().find(|told| told.portal == key.to_string()).expect("a portal that was used")
    }

    /// What becomes of a connection on which a client says nothing: it may be broken off before it is seen to stand.
    pub fn outcome(&self, portal: &str) -> Result<(), ErrorKind> {
        self.within(|| {
            let mut stream = TcpStream::connect(backend(portal)).map_err(|error| error.kind())?;
            stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
            end_of(&mut stream)
        })
    }

    /// How many connections wait for a first backend.
    pub fn held(&self) -> usize {
        self.relay.report(Instant::now()).namespaces.iter().map(|place| place.pending).sum()
    }

    /// How many connections the relay has.
    pub fn connections(&self) -> usize {
        self.relay.report(Instant::now()).connections
    }
}

/// A connection whose answers must come in time.
pub fn connected(to: &str) -> TcpStream {
    let stream = TcpStream::connect_timeout(&backend(to), ANSWER).unwrap_or_else(|why| panic!("{to}: {why}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("set a time-out");
    stream
}

/// Waits for something to be so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never came to this: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Listens on an address of this node's own.
pub fn listener(address: &str) -> TcpListener {
    add_address(address.rsplit_once(':').expect("a port").0.trim_matches(['[', ']']));
    TcpListener::bind(address).expect("listen on the backend's address")
}

/// Accepts a connection, which must come in time.
pub fn accepted(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).expect("do not wait for ever");
    let mut connection = None;
    eventually("a connection to the backend", || {
        connection = listener.accept().ok();
        connection.is_some()
    });
    let (stream, from) = connection.expect("waited for above");
    stream.set_nonblocking(false).expect("wait for bytes");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a time-out");
    stream.set_write_timeout(Some(PATIENCE)).expect("set a time-out");
    (stream, from)
}

/// A server that says its name, which is one letter, answers every byte with itself, and ends with its client.
pub struct Server {
    listener: TcpListener,
    connections: Arc<Mutex<Connections>>,
    thread: Option<JoinHandle<()>>,
}

/// The connections of a server: how many there were, and those that are there now.
#[derive(Default)]
struct Connections {
    count: usize,
    now: BTreeMap<usize, TcpStream>,
}

impl Server {
    pub fn start(name: &str, address: &str) -> Self {
        Self::on(listener(address), name)
    }

    /// A server with this listener.
    pub fn on(listener: TcpListener, name: &str) -> Self {
        let taking = listener.try_clone().expect("a second descriptor");
        let connections = Arc::<Mutex<Connections>>::default();
        let (all, name) = (Arc::clone(&connections), name.to_owned());
        let thread = thread::spawn(move || {
            for mut stream in taking.incoming().map_while(Result::ok) {
                // Whoever is accepted has been told the name before the server can be killed.
                let mut now = all.lock().expect("no server panicked");
                let _ = stream.write_all(name.as_bytes());
                let (all, number) = (Arc::clone(&all), now.count);
                now.count += 1;
                now.now.insert(number, stream.try_clone().expect("a second descriptor"));
                thread::spawn(move || {
                    let _ = std::io::copy(&mut &stream, &mut &stream);
                    all.lock().expect("no server panicked").now.remove(&number);
                });
            }
        });
        Self { listener, connections, thread: Some(thread) }
    }

    /// How many connections it has had.
    pub fn count(&self) -> usize {
        self.connections.lock().expect("no server panicked").count
    }
}

impl Drop for Server {
    /// Its listener goes, and all its connections.
    fn drop(&mut self) {
        let connections = self.connections.lock().expect("no server panicked");
        shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).expect("wake the thread");
        connections.now.values().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        drop(connections);
        self.thread.take().expect("only once").join().expect("the thread does not panic");
    }
}

/// The name that a server said.
pub fn name(stream: &mut TcpStream) -> String {
    let mut name = [0];
    stream.read_exact(&mut name).expect("a server says its name");
    String::from_utf8_lossy(&name).into_owned()
}

/// Closes a connection so that the other side sees a reset.
pub fn break_off(stream: TcpStream) {
    let linger = linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).expect("no lingering");
    drop(stream);
}

/// Why nothing more can be read.
pub fn end_of(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(drop).map_err(|error| error.kind())
}

/// Says a byte and hears it back.
pub fn talk(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [7];
    stream.write_all(&buffer)?;
    stream.read_exact(&mut buffer)
}

/// A relayed service, and where it leads: port 80 to port 8080 at these addresses, port 53 of UDP to 5353.
pub fn leads(service: Service, addresses: &[&str]) -> [Change; 2] {
    let made = slice(&service.key.name).tcp("http", 8080).udp("dns", 5353);
    let made = addresses.iter().fold(made, |made, address| made.at(address));
    [service.mode(Mode::Relay).into(), made.into()]
}

/// A service with these two ports at an address.
pub fn web(address: &str) -> Service {
    svc("web").ip(address).tcp("http", 80).udp("dns", 53)
}

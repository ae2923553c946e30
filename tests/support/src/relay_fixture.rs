//! `RelayFixture`: a pod with relayed portals, connected to its node by a veth pair, and the relay that serves it.
//!
//! The node is a network namespace of the test, and has the addresses of all backends. The pod has a default route to
//! it in both families.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

use crate::backend_server::REPLY_TIMEOUT;
use crate::eventually::eventually;
use crate::namespace::{add_address, in_new_netns, run};
use crate::pod::Pod;
use crate::ruleset_loader::portals_of;

/// The timeout of reads and writes.
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// The addresses of the pod.
pub const POD: &str = "10.244.0.2";
pub const POD6: &str = "2001:db8:244::2";
/// The default options of a relay.
pub const OPTIONS: Options =
    Options { workers: 2, port: 15_999, connections_max: 20_000, buffer_bytes_max: 1 << 30 };

/// A pod, its node and the relay.
pub struct RelayFixture {
    pub pod: Pod,
    pub relay: Relay,
    pub used: Mutex<Receiver<PortalUse>>,
    applied: Mutex<Ruleset>,
}

/// Runs `body` on a node with a pod that uses these services.
pub fn with_relay<const N: usize>(changes: [Change; N], body: impl FnOnce(&RelayFixture) + Send) {
    with_relay_options(OPTIONS, changes, body);
}

/// Like `with_relay`, with options of the relay.
pub fn with_relay_options<const N: usize>(
    options: Options,
    changes: [Change; N],
    body: impl FnOnce(&RelayFixture) + Send,
) {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let pod = Pod::routed("w1", "10.244.0", "2001:db8:244:");
        let (sender, used) = channel(4_096);
        let relay = Relay::start(options, &sender).expect("start the relay");
        let applied = Mutex::new(Ruleset::empty());
        let fixture = RelayFixture { pod, relay, used: Mutex::new(used), applied };
        fixture.set_services(changes);
        fixture.relay.open_netns(&fixture.pod.netns, &ServiceFilter::All, false).expect("listen in the pod");
        body(&fixture);
    });
}

impl RelayFixture {
    /// Replaces the services of the pod.
    pub fn set_services(&self, changes: impl IntoIterator<Item = Change>) {
        let portals = portals_of(changes);
        let after = Ruleset::new(&portals, Settings::default());
        // The relay gets the portals before the kernel redirects connections to it.
        self.relay.set_portals(&ServiceFilter::All, portals);
        let mut applied = self.applied.lock().expect("no test panicked here");
        self.pod.change(&applied, &after);
        *applied = after;
    }

    /// Runs `body` in the pod.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.pod.within(body)
    }

    /// Connects from the pod.
    pub fn connect(&self, portal: &str) -> TcpStream {
        self.within(|| connect_with_timeouts(portal))
    }

    /// Opens connections from the pod, one after the other, until `is_over`, and counts them.
    pub fn connect_repeatedly(&self, portal: &str, count: &AtomicUsize, is_over: &AtomicBool) {
        self.within(|| {
            while !is_over.load(Ordering::Relaxed) {
                read_name(&mut connect_with_timeouts(portal));
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// The relay's report on a portal.
    pub fn report(&self, key: PortalKey) -> PortalReport {
        let report = self.relay.report(Instant::now());
        let portals = report.namespaces.into_iter().flat_map(|netns| netns.portals);
        portals.into_iter().find(|report| report.portal == key.to_string()).expect("a portal that was used")
    }

    /// Returns how a connection ends if the client sends nothing. It may be reset before it is established.
    pub fn connect_outcome(&self, portal: &str) -> Result<(), ErrorKind> {
        self.within(|| {
            let mut stream = TcpStream::connect(backend(portal)).map_err(|error| error.kind())?;
            stream.set_read_timeout(Some(TIMEOUT)).expect("set a time-out");
            read_to_end(&mut stream)
        })
    }

    /// The number of connections that wait for a first backend.
    pub fn pending(&self) -> usize {
        self.relay.report(Instant::now()).namespaces.iter().map(|netns| netns.pending).sum()
    }

    /// The number of open connections and flows of the relay.
    pub fn connections(&self) -> usize {
        self.relay.report(Instant::now()).connections
    }
}

/// Connects with timeouts for reads and writes.
pub fn connect_with_timeouts(to: &str) -> TcpStream {
    let stream =
        TcpStream::connect_timeout(&backend(to), REPLY_TIMEOUT).unwrap_or_else(|why| panic!("{to}: {why}"));
    stream.set_read_timeout(Some(TIMEOUT)).expect("set a time-out");
    stream.set_write_timeout(Some(TIMEOUT)).expect("set a time-out");
    stream
}

/// Listens on an address of this node's own.
pub fn listen(address: &str) -> TcpListener {
    add_address(address.rsplit_once(':').expect("a port").0.trim_matches(['[', ']']));
    TcpListener::bind(address).expect("listen on the backend's address")
}

/// Accepts a connection, or panics after the timeout.
pub fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).expect("do not block");
    let (stream, from) = eventually("a connection to the backend", || listener.accept());
    stream.set_nonblocking(false).expect("block");
    stream.set_read_timeout(Some(TIMEOUT)).expect("set a time-out");
    stream.set_write_timeout(Some(TIMEOUT)).expect("set a time-out");
    (stream, from)
}

/// A server that sends its name, which is one letter, echoes every byte, and closes a connection after its client.
pub struct Server {
    listener: TcpListener,
    connections: Arc<Mutex<Connections>>,
    thread: Option<JoinHandle<()>>,
}

/// The number of connections that a server has accepted, and those that are open.
#[derive(Default)]
struct Connections {
    count: usize,
    open: BTreeMap<usize, TcpStream>,
}

impl Server {
    pub fn start(name: &str, address: &str) -> Self {
        Self::on(listen(address), name)
    }

    /// Starts a server with a listener.
    pub fn on(listener: TcpListener, name: &str) -> Self {
        let acceptor = listener.try_clone().expect("a second descriptor");
        let connections = Arc::<Mutex<Connections>>::default();
        let (all, name) = (Arc::clone(&connections), name.to_owned());
        let thread = thread::spawn(move || {
            for mut stream in acceptor.incoming().map_while(Result::ok) {
                // The lock ensures that an accepted client gets the name before the server is dropped.
                let mut connections = all.lock().expect("no server panicked");
                let _ = stream.write_all(name.as_bytes());
                let (all, number) = (Arc::clone(&all), connections.count);
                connections.count += 1;
                connections.open.insert(number, stream.try_clone().expect("a second descriptor"));
                thread::spawn(move || {
                    let _ = std::io::copy(&mut &stream, &mut &stream);
                    all.lock().expect("no server panicked").open.remove(&number);
                });
            }
        });
        Self { listener, connections, thread: Some(thread) }
    }

    /// The number of connections that the server has accepted.
    pub fn count(&self) -> usize {
        self.connections.lock().expect("no server panicked").count
    }
}

impl Drop for Server {
    /// Closes the listener and all connections.
    fn drop(&mut self) {
        let connections = self.connections.lock().expect("no server panicked");
        shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).expect("wake the thread");
        connections.open.values().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        drop(connections);
        self.thread.take().expect("only once").join().expect("the thread does not panic");
    }
}

/// Reads the name that a server sends.
pub fn read_name(stream: &mut TcpStream) -> String {
    let mut name = [0];
    stream.read_exact(&mut name).expect("a server sends its name");
    String::from_utf8_lossy(&name).into_owned()
}

/// Closes a connection with a reset.
pub fn close_with_reset(stream: TcpStream) {
    let linger = linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).expect("set SO_LINGER");
    drop(stream);
}

/// Reads until the connection ends, and returns the error if it was not closed in order.
pub fn read_to_end(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(drop).map_err(|error| error.kind())
}

/// Sends a byte and receives its echo.
pub fn exchange_byte(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [7];
    stream.write_all(&buffer)?;
    stream.read_exact(&mut buffer)
}

/// A relayed service and its endpoints: port 80 leads to port 8080 of these addresses, UDP port 53 to 5353.
pub fn relayed_service(service: Service, addresses: &[&str]) -> [Change; 2] {
    let slice = slice(&service.key.name).tcp("http", 8080).udp("dns", 5353);
    let slice = addresses.iter().fold(slice, |slice, address| slice.at(address));
    [service.mode(Mode::Relay).into(), slice.into()]
}

/// A service with these two ports at an address.
pub fn web_service(address: &str) -> Service {
    svc("web").ip(address).tcp("http", 80).udp("dns", 53)
}

//! `Worker`: a thread that serves the connections of all network namespaces, beside others like it.
//!
//! Everything of one connection happens on one thread, so nothing of it is locked. What must not go in here: what a
//! connection is.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netns_nft::NetnsId;
use proxy_core::portal::PortalKey;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::connection::serve;
use crate::exchange::Buffers;
use crate::listen::Sockets;
use crate::place::Place;
use crate::relay::Used;
use crate::udp;

/// Where no descriptor is left, connections are looked at again after so long.
const PAUSE: Duration = Duration::from_millis(20);

/// What a worker is told.
pub(crate) enum Order {
    /// Serve this network namespace.
    Open(Arc<Place>, Sockets),
    /// It is gone, with all its connections.
    Close(NetnsId),
    /// Take no new connections, and end with the last old one.
    Finish,
}

/// What all workers count together.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    connections: AtomicUsize,
    /// Refused because there were too many.
    pub(crate) over_limit: AtomicU64,
    /// Came without having wanted to go to a portal.
    pub(crate) strangers: AtomicU64,
}

impl Totals {
    /// One connection more, if there may be.
    pub(crate) fn enter(self: &Arc<Self>, max: usize) -> Option<Entered> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let entered = Entered(Arc::clone(self));
        (before < max).then_some(entered)
    }

    /// How many there are.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A connection that is counted as long as this is there.
#[derive(Debug)]
pub(crate) struct Entered(Arc<Totals>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the connections of a worker share.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) totals: Arc<Totals>,
    pub(crate) connections_max: usize,
    used: UnboundedSender<Used>,
}

impl Tools {
    /// Tells that somebody wanted to go there.
    pub(crate) fn used(&self, place: &Place, key: PortalKey) {
        // At the end nobody listens any more.
        let _ = self.used.send(Used { netns: place.id, key });
    }
}

/// A handle on a worker.
#[derive(Debug)]
pub(crate) struct Worker {
    orders: UnboundedSender<Order>,
    ended: Option<oneshot::Receiver<()>>,
    _thread: JoinHandle<()>,
}

impl Worker {
    /// Starts one.
    pub(crate) fn start(
        number: usize,
        totals: Arc<Totals>,
        connections_max: usize,
        used: UnboundedSender<Used>,
    ) -> io::Result<Self> {
        let (orders, received) = unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let work = move || {
            let tools = Rc::new(Tools { buffers: Rc::default(), totals, connections_max, used });
            LocalSet::new().block_on(&runtime, run(tools, received));
            // Nobody may be waiting.
            let _ = end.send(());
        };
        let thread = thread::Builder::new().name(format!("relay-{number}")).spawn(work)?;
        Ok(Self { orders, ended: Some(ended), _thread: thread })
    }

    /// Tells it something.
    pub(crate) fn tell(&self, order: Order) {
        // After its end there is nothing left to be told.
        let _ = self.orders.send(order);
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) {
        if let Some(ended) = self.ended.take() {
            let _ = ended.await;
        }
    }
}

async fn run(tools: Rc<Tools>, mut orders: UnboundedReceiver<Order>) {
    let (finish, finishing) = watch::channel(false);
    let mut places: HashMap<NetnsId, JoinSet<()>> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Open(place, sockets) => {
                let id = place.id;
                let mut tasks = JoinSet::new();
                let Sockets { stream, datagram } = sockets;
                let udp = udp::listen(Rc::clone(&tools), Arc::clone(&place), datagram, finishing.clone());
                tasks.spawn_local(udp);
                tasks.spawn_local(listen(Rc::clone(&tools), place, stream, finishing.clone()));
                places.insert(id, tasks);
            }
            Order::Close(netns) => drop(places.remove(&netns)),
            Order::Finish => break,
        }
    }
    // The listeners may have gone already.
    let _ = finish.send(true);
    for tasks in places.into_values() {
        tasks.join_all().await;
    }
}

/// Takes connections until it is told to finish, and waits for the last to end.
async fn listen(tools: Rc<Tools>, place: Arc<Place>, socket: OwnedFd, mut finishing: watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(socket.into()) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => take(&mut connections, &tools, &place, client, peer),
                Err(error) => not_accepted(&tools, &error).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = finishing.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn take(
    connections: &mut JoinSet<()>,
    tools: &Rc<Tools>,
    place: &Arc<Place>,
    client: TcpStream,
    peer: SocketAddr,
) {
    connections.spawn_local(serve(Rc::clone(tools), Arc::clone(place), client, peer));
}

async fn not_accepted(tools: &Tools, error: &io::Error) {
    let errno = Errno::from_io_error(error);
    if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) {
        tools.totals.over_limit.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

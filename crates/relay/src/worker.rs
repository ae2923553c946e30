//! `Worker`: a thread that serves the connections of all network namespaces, beside others like it.
//!
//! Everything of one connection happens on one thread, so nothing of it is locked. What must not go in here: what a
//! connection is.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netns_nft::NetnsId;
use proxy_core::portal::PortalKey;
use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::connection::serve;
use crate::exchange::Buffers;
use crate::limits::Limits;
use crate::listen::Sockets;
use crate::place::Place;
use crate::relay::PortalUse;
use crate::reserve::Reserve;
use crate::udp;

/// Where nothing can be taken at the moment, it is tried again after so long.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// What a worker is told.
pub(crate) enum Order {
    /// Serve this network namespace.
    Open(Arc<Place>, Sockets),
    /// It is gone, with all its connections.
    Close(NetnsId),
    /// Take no new connections, and end with the last old one.
    Finish,
    /// Break off whatever is left, and end.
    Stop,
}

/// What the connections of a worker share.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) buffers: Buffers,
    pub(crate) limits: Arc<Limits>,
    reserve: Reserve,
    used: Sender<PortalUse>,
}

impl Tools {
    /// Tells that somebody wanted to go there.
    pub(crate) fn used(&self, place: &Place, key: PortalKey) {
        if place.is_news(key.address, Instant::now()) {
            // Where the agent cannot keep up, or ends, later connections report it again.
            let _ = self.used.try_send(PortalUse { netns: place.id, key });
        }
    }
}

/// A handle on a worker.
#[derive(Debug)]
pub(crate) struct Worker {
    orders: UnboundedSender<Order>,
    _thread: JoinHandle<()>,
}

impl Worker {
    /// Starts one.
    pub(crate) fn start(
        number: usize,
        limits: Arc<Limits>,
        pipes_max: usize,
        used: Sender<PortalUse>,
    ) -> io::Result<Self> {
        let (orders, mut received) = unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            let reserve = Reserve::default();
            let tools = Rc::new(Tools { buffers: Buffers::new(pipes_max), limits, reserve, used });
            // With it goes every connection that is left; then its end can be seen.
            LocalSet::new().block_on(&runtime, run(tools, &mut received));
            drop(received);
        };
        let thread = thread::Builder::new().name(format!("relay-{number}")).spawn(work)?;
        Ok(Self { orders, _thread: thread })
    }

    /// Tells it something.
    pub(crate) fn tell(&self, order: Order) {
        // After its end there is nothing left to be told.
        let _ = self.orders.send(order);
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&self) {
        self.orders.closed().await;
    }
}

async fn run(tools: Rc<Tools>, orders: &mut UnboundedReceiver<Order>) {
    let (finish, finishing) = watch::channel(false);
    let mut places: HashMap<NetnsId, JoinSet<()>> = HashMap::new();
    loop {
        let is_finishing = *finishing.borrow();
        let order = tokio::select! {
            order = orders.recv() => order,
            () = all_over(&mut places), if is_finishing => return,
        };
        match order {
            // Whoever finishes listens nowhere any more.
            Some(Order::Open(..)) if is_finishing => {}
            Some(Order::Open(place, Sockets { stream, datagram })) => {
                let tasks = places.entry(place.id).or_default();
                let udp = udp::listen(Rc::clone(&tools), Arc::clone(&place), datagram, finishing.clone());
                tasks.spawn_local(udp);
                tasks.spawn_local(listen(Rc::clone(&tools), place, stream, finishing.clone()));
            }
            Some(Order::Close(netns)) => drop(places.remove(&netns)),
            // The listeners may have gone already.
            Some(Order::Finish) => drop(finish.send(true)),
            Some(Order::Stop) | None => return,
        }
    }
}

async fn all_over(places: &mut HashMap<NetnsId, JoinSet<()>>) {
    for tasks in places.values_mut() {
        while tasks.join_next().await.is_some() {}
    }
}

/// Takes connections until it is told to finish, and waits for the last to end.
async fn listen(tools: Rc<Tools>, place: Arc<Place>, socket: OwnedFd, mut finishing: watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(socket.into()) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => {
                    connections.spawn_local(serve(Rc::clone(&tools), Arc::clone(&place), client, peer));
                }
                Err(error) => not_accepted(&tools, &listener, &error).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            _ = finishing.changed() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn not_accepted(tools: &Tools, listener: &TcpListener, error: &io::Error) {
    let errno = Errno::from_io_error(error);
    if !matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) {
        return;
    }
    if tools.reserve.refuse(listener).await {
        tools.limits.no_socket();
    } else {
        tokio::time::sleep(PAUSE).await;
    }
}

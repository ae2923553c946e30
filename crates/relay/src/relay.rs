//! `Relay`: the threads that serve relayed portals, and what they are told.
//!
//! What must not go in here: how a connection is served.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netns_nft::{Netns, NetnsId, Socket};
use proxy_core::portal::{PortalKey, Portals, View};
use thiserror::Error;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use crate::account::{Account, Backend};
use crate::limits::Limits;
use crate::listen::sockets;
use crate::lock::lock;
use crate::opener::Opener;
use crate::pipe::{PIPE_BYTES, PIPES_MAX};
use crate::place::Place;
use crate::report::{BackendReport, NetnsReport, PortalReport, RelayReport, TrafficTotals};
use crate::worker::{Order, Worker};

/// What the operator decides.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many threads serve connections.
    pub workers: usize,
    /// The port on which it listens in each network namespace.
    pub port: u16,
    /// So many connections are served at a time, and of one pod a quarter of them; more are refused.
    pub connections_max: usize,
    /// So many bytes may socket buffers hold of connections of which one end takes nothing. Beyond that, those of the pod
    /// with the most are broken off.
    pub buffer_bytes_max: usize,
}

/// Somebody connected to a portal that the kernel could serve, or to another port of a service's address. Of those who
/// come to one address soon after one another, one is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortalUse {
    /// Where.
    pub netns: NetnsId,
    /// The original destination.
    pub key: PortalKey,
}

/// Why the relay cannot do what it should.
#[derive(Debug, Error)]
pub enum Error {
    /// A thread could not be started.
    #[error("start the relay's threads")]
    Start(#[source] io::Error),
    /// The network namespace could not be entered.
    #[error("enter the network namespace, to listen for relayed connections")]
    Enter(#[source] netns_nft::Error),
    /// Its port is not to be had.
    #[error("listen on port {port} in the network namespace, for relayed connections")]
    Listen {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The relay.
#[derive(Debug)]
pub struct Relay {
    options: Options,
    opener: Opener,
    workers: Vec<Worker>,
    limits: Arc<Limits>,
    views: Mutex<BTreeMap<View, watch::Sender<Portals>>>,
    places: Mutex<HashMap<NetnsId, Arc<Place>>>,
    /// What passed through portals and network namespaces that are gone.
    past: Mutex<TrafficTotals>,
}

impl Relay {
    /// Starts its threads. Whoever uses a portal on demand is told to `used`.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start(options: Options, used: &Sender<PortalUse>) -> Result<Self, Error> {
        let limits = Arc::new(Limits::new(&options));
        let pipes_max = options.buffer_bytes_max / PIPE_BYTES / options.workers.max(1);
        let pipes_max = pipes_max.clamp(1, PIPES_MAX);
        let worker = |number| Worker::start(number, Arc::clone(&limits), pipes_max, used.clone());
        let workers = (0..options.workers.max(1)).map(worker).collect::<io::Result<_>>();
        let opener = Opener::start().map_err(Error::Start)?;
        let workers = workers.map_err(Error::Start)?;
        Ok(Self {
            options,
            opener,
            workers,
            limits,
            views: Mutex::default(),
            places: Mutex::default(),
            past: Mutex::default(),
        })
    }

    /// What pods with this view see from now on.
    pub fn set_portals(&self, view: &View, portals: Portals) {
        let mut views = lock(&self.views);
        match views.get(view) {
            Some(shown) => drop(shown.send_replace(portals)),
            None => drop(views.insert(view.clone(), watch::channel(portals).0)),
        }
    }

    /// Nobody has this view any more.
    pub fn remove_view(&self, view: &View) {
        lock(&self.views).remove(view);
    }

    /// Listens in a network namespace whose pod has this view, for the pod itself and, where it has any, its guests.
    /// Where it does already, nothing happens.
    ///
    /// # Errors
    /// Where it cannot be entered, or the port is taken.
    pub fn open_netns(&self, netns: &Netns, view: &View, has_guests: bool) -> Result<(), Error> {
        let is_same = |place: &Arc<Place>| place.view == *view && place.has_guests == has_guests;
        match lock(&self.places).get(&netns.id()).map(is_same) {
            Some(true) => return Ok(()),
            Some(false) => self.close_netns(netns.id()),
            None => {}
        }
        let (port, count) = (self.options.port, self.workers.len());
        // All at once: to enter is what costs.
        let opened = netns.within(|| (sockets(port, count), Socket::open())).map_err(Error::Enter)?;
        let sockets = opened.0.map_err(|source| Error::Listen { port, source })?;
        let tracked = opened.1.map_err(Error::Enter)?;
        let portals = {
            let mut views = lock(&self.views);
            let shown = views.entry(view.clone()).or_insert_with(|| watch::channel(Portals::default()).0);
            shown.subscribe()
        };
        let place =
            Place::new(netns, (view.clone(), has_guests), (tracked, port), self.opener.clone(), portals)
                .map_err(|source| Error::Listen { port, source })?;
        let mut places = lock(&self.places);
        // Somebody may have been quicker; then these sockets close, and what waits at them goes to the others.
        let Entry::Vacant(vacant) = places.entry(netns.id()) else { return Ok(()) };
        let place = Arc::clone(vacant.insert(Arc::new(place)));
        for (worker, sockets) in self.workers.iter().zip(sockets) {
            worker.tell(Order::Open(Arc::clone(&place), sockets));
        }
        Ok(())
    }

    /// Lets go of a network namespace, with all its connections: they would keep it alive.
    pub fn close_netns(&self, netns: NetnsId) {
        let mut places = lock(&self.places);
        if let Some(place) = places.remove(&netns) {
            *lock(&self.past) += place.passed();
            self.workers.iter().for_each(|worker| worker.tell(Order::Close(netns)));
        }
    }

    /// Forgets what is over. Call it now and then.
    pub fn gc(&self, now: Instant) {
        self.limits.stalls.tidy(now);
        for place in lock(&self.places).values() {
            *lock(&self.past) += place.tidy(now);
        }
    }

    /// Takes no new connections, and waits for the old ones to end; those that are left after this time break off.
    pub async fn shut_down(&self, patience: Duration) {
        self.workers.iter().for_each(|worker| worker.tell(Order::Finish));
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            self.workers.iter().for_each(|worker| worker.tell(Order::Stop));
            self.ended().await;
        }
        // Else network namespaces of pods that are gone would live on with us.
        lock(&self.places).clear();
    }

    async fn ended(&self) {
        for worker in &self.workers {
            worker.ended().await;
        }
    }

    /// Everything there is to tell.
    pub fn report(&self, now: Instant) -> RelayReport {
        let places = lock(&self.places);
        let mut totals = *lock(&self.past);
        places.values().for_each(|place| totals += place.passed());
        let mut namespaces: Vec<NetnsReport> =
            places.values().map(|place| place_report(place, now)).collect();
        namespaces.retain(|place| !place.portals.is_empty() || place.pending > 0);
        namespaces.sort_by_key(|place| place.netns);
        RelayReport {
            connections: self.limits.connections(),
            over_limit: self.limits.refused().total(),
            refused: self.limits.refused(),
            evicted: self.limits.stalls.evicted(),
            unmatched: self.limits.strangers.load(Ordering::Relaxed),
            totals,
            namespaces,
        }
    }
}

fn place_report(place: &Place, now: Instant) -> NetnsReport {
    let portals = place.portals.borrow().clone();
    let mut accounts: Vec<(PortalKey, PortalReport)> = place
        .accounts()
        .iter()
        .map(|(key, account)| (*key, portal_report(*key, account, &portals, now)))
        .collect();
    accounts.sort_by_key(|(key, _)| *key);
    NetnsReport {
        netns: place.id.inode,
        pending: place.held.load(Ordering::Relaxed),
        portals: accounts.into_iter().map(|(_, report)| report).collect(),
    }
}

fn portal_report(key: PortalKey, account: &Account, portals: &Portals, now: Instant) -> PortalReport {
    let mut backends: Vec<BackendReport> =
        account.backends().map(|(backend, known)| backend_report(*backend, known, now)).collect();
    backends.sort_by_key(|report| report.backend);
    PortalReport {
        portal: key.to_string(),
        service: portals.get(key).map(|portal| portal.service.to_string()),
        active: account.tally.active.load(Ordering::Relaxed),
        totals: account.tally.passed(),
        backends,
    }
}

fn backend_report(backend: std::net::SocketAddr, known: &Backend, now: Instant) -> BackendReport {
    BackendReport {
        backend,
        active: known.load.connections,
        connections: known.connections,
        failures: known.failures,
        is_ejected: known.rests_until.is_some_and(|until| now < until),
        via_node: known.via_node,
        delay_us: known.load.delay_us,
    }
}

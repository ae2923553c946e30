//! `Place`: one network namespace in which portals are relayed, and what is remembered of its connections.
//!
//! Turns, health of backends and affinity are a network namespace's own, as they are a pod's own in the kernel: what
//! one pod cannot reach, another may. What must not go in here: sockets that listen, and bytes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use netns_nft::{Netns, NetnsId, Socket};
use proxy_core::address::Family;
use proxy_core::portal::{Portal, PortalKey, Portals, View};
use tokio::sync::watch;

use crate::account::{Account, Chosen};
use crate::datagram::Ends;
use crate::lock::lock;
use crate::opener::{Kind, Opener, one};
use crate::report::TrafficTotals;

/// Sockets are opened in advance, twice as many each time they run out, up to so many.
const SPARES_MAX: usize = 64;

/// So many addresses are remembered as told. Those beyond are told when there is room again.
const TOLD_MAX: usize = 1_024;
/// So many portals are remembered, as long as not more of them have connections.
const ACCOUNTS_MAX: usize = 1_024;
/// So many backends and sticky clients are remembered of all portals together, beside those that have connections.
const KNOWN_MAX: usize = 16_384;
/// After so many choices it is looked whether there are more.
const CHOICES_BEFORE_LOOK: usize = 1_024;

/// What is used is told again after so long: each time that somebody connects would be more than the agent can hear.
const TOLD_AGAIN: Duration = Duration::from_millis(100);

/// One network namespace.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: NetnsId,
    pub(crate) view: View,
    /// Whether guests of the pod are served, too, who come by other interfaces than loopback.
    pub(crate) has_guests: bool,
    netns: Arc<OwnedFd>,
    opener: Opener,
    /// Asks the kernel where redirected datagrams were to go.
    tracked: Mutex<Socket>,
    port: u16,
    /// What the pod sees.
    pub(crate) portals: watch::Receiver<Portals>,
    accounts: Mutex<HashMap<PortalKey, Account>>,
    /// What passed through portals that were forgotten.
    forgotten: Mutex<TrafficTotals>,
    choices: AtomicUsize,
    /// When it was told last that somebody wanted to go to an address.
    told: Mutex<HashMap<IpAddr, Instant>>,
    spares: Mutex<Spares>,
    /// Several sockets are being opened; whoever comes meanwhile opens one.
    is_opening: AtomicBool,
    /// How many connections and flows there are.
    pub(crate) connections: Arc<AtomicUsize>,
    /// How many connections wait for a first backend.
    pub(crate) held: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Spares {
    sockets: HashMap<Family, Vec<OwnedFd>>,
    /// How many are opened next.
    next: usize,
}

impl Place {
    /// A network namespace, as its pod sees services.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub(crate) fn new(
        netns: &Netns,
        (view, has_guests): (View, bool),
        (tracked, port): (Socket, u16),
        opener: Opener,
        portals: watch::Receiver<Portals>,
    ) -> io::Result<Self> {
        Ok(Self {
            id: netns.id(),
            view,
            has_guests,
            netns: Arc::new(netns.as_fd().try_clone_to_owned()?),
            opener,
            tracked: Mutex::new(tracked),
            port,
            portals,
            accounts: Mutex::default(),
            forgotten: Mutex::default(),
            choices: AtomicUsize::default(),
            told: Mutex::default(),
            spares: Mutex::default(),
            is_opening: AtomicBool::new(false),
            connections: Arc::default(),
            held: Arc::default(),
        })
    }

    /// Whether a client that was redirected to this address of the pod may be served: what the pod sends is redirected
    /// to loopback, and what it forwards for a guest to the address of the interface by which it came.
    pub(crate) fn serves_at(&self, redirected_to: IpAddr) -> bool {
        self.has_guests || redirected_to.is_loopback()
    }

    /// Where a client wanted to go whose datagrams come here.
    pub(crate) fn original_destination(&self, ends: Ends) -> Option<SocketAddr> {
        let ours = SocketAddr::new(ends.ours, self.port);
        lock(&self.tracked).original_destination(ends.client, ours).ok().flatten()
    }

    /// The portal that is in force there now.
    pub(crate) fn portal(&self, key: PortalKey) -> Option<Portal> {
        self.portals.borrow().get(key).cloned()
    }

    /// Whether the agent should hear that somebody wants to go to this address: it is one of a service, and that was
    /// not told just now.
    pub(crate) fn is_news(&self, address: IpAddr, now: Instant) -> bool {
        if self.portals.borrow().at(address).next().is_none() {
            return false;
        }
        let mut told = lock(&self.told);
        if told.len() >= TOLD_MAX {
            told.retain(|_, last| now < *last + TOLD_AGAIN);
            if told.len() >= TOLD_MAX {
                return false;
            }
        }
        let is_news = told.get(&address).is_none_or(|last| now >= *last + TOLD_AGAIN);
        if is_news {
            told.insert(address, now);
        }
        is_news
    }

    /// A socket to reach a backend from: one in there, or one of the node.
    pub(crate) async fn socket(&self, kind: Kind, family: Family, via_node: bool) -> io::Result<OwnedFd> {
        match kind {
            _ if via_node => one(family, kind).map_err(io::Error::from),
            Kind::Stream => self.stream_socket(family).await,
            Kind::Datagram => self.datagram_socket(family).await,
        }
    }

    /// A socket in there for a connection to a backend.
    async fn stream_socket(&self, family: Family) -> io::Result<OwnedFd> {
        let (count, _opening) = {
            let mut spares = lock(&self.spares);
            if let Some(socket) = spares.sockets.get_mut(&family).and_then(Vec::pop) {
                return Ok(socket);
            }
            let opening = Opening::new(&self.is_opening);
            if opening.is_some() {
                spares.next = (spares.next * 2).clamp(1, SPARES_MAX);
            }
            (if opening.is_some() { spares.next } else { 1 }, opening)
        };
        let netns = Arc::clone(&self.netns);
        let mut opened = self.opener.open(netns, family, Kind::Stream, count).await?;
        let first = opened.pop().ok_or(io::ErrorKind::NotFound)?;
        if !opened.is_empty() {
            lock(&self.spares).sockets.entry(family).or_default().append(&mut opened);
        }
        Ok(first)
    }

    /// A socket in there for the datagrams of one flow.
    async fn datagram_socket(&self, family: Family) -> io::Result<OwnedFd> {
        let netns = Arc::clone(&self.netns);
        let mut opened = self.opener.open(netns, family, Kind::Datagram, 1).await?;
        opened.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Lets go of what was opened in advance and is not needed, and of portals that are gone; what passed through
    /// these is the answer.
    pub(crate) fn tidy(&self, now: Instant) -> TrafficTotals {
        *lock(&self.spares) = Spares::default();
        lock(&self.told).clear();
        let portals = self.portals.borrow().clone();
        let mut gone = std::mem::take(&mut *lock(&self.forgotten));
        lock(&self.accounts).retain(|key, account| {
            account.tidy(portals.get(*key), now);
            let stays = !account.is_idle() || portals.get(*key).is_some();
            if !stays {
                gone += account.tally.passed();
            }
            stays
        });
        gone
    }

    /// What passed through all portals that are remembered.
    pub(crate) fn passed(&self) -> TrafficTotals {
        let mut passed = *lock(&self.forgotten);
        lock(&self.accounts).values().for_each(|account| passed += account.tally.passed());
        passed
    }

    /// What is remembered of a portal's connections.
    pub(crate) fn account<T>(&self, key: PortalKey, work: impl FnOnce(&mut Account) -> T) -> T {
        let mut accounts = lock(&self.accounts);
        if accounts.len() >= ACCOUNTS_MAX && !accounts.contains_key(&key) {
            self.forget_idle(&mut accounts);
        }
        work(accounts.entry(key).or_default())
    }

    /// Forgets the portals that have no connection; what passed through them stays counted.
    fn forget_idle(&self, accounts: &mut HashMap<PortalKey, Account>) {
        let mut forgotten = lock(&self.forgotten);
        accounts.retain(|_, account| {
            let stays = !account.is_idle();
            if !stays {
                *forgotten += account.tally.passed();
            }
            stays
        });
    }

    /// Looks now and then whether too much is remembered, and forgets all that has no connection then.
    fn bound_memory(&self) {
        if self.choices.fetch_add(1, Ordering::Relaxed) % CHOICES_BEFORE_LOOK != CHOICES_BEFORE_LOOK - 1 {
            return;
        }
        let mut accounts = lock(&self.accounts);
        if accounts.values().map(Account::size).sum::<usize>() > KNOWN_MAX {
            self.forget_idle(&mut accounts);
            accounts.values_mut().for_each(Account::forget_idle);
        }
    }

    /// Goes through all that is remembered.
    pub(crate) fn accounts(&self) -> MutexGuard<'_, HashMap<PortalKey, Account>> {
        lock(&self.accounts)
    }
}

/// Who opens sockets in advance: one at a time, however many need one.
struct Opening<'a>(&'a AtomicBool);

impl<'a> Opening<'a> {
    fn new(is_opening: &'a AtomicBool) -> Option<Self> {
        (!is_opening.swap(true, Ordering::Relaxed)).then(|| Self(is_opening))
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A connection that its backend counts; it stops with this.
#[derive(Debug)]
pub(crate) struct Lease {
    place: Arc<Place>,
    pub(crate) key: PortalKey,
    pub(crate) backend: SocketAddr,
}

impl Lease {
    /// Chooses a backend, which has one connection more from then on: whoever chooses next knows of it.
    pub(crate) fn take(
        place: &Arc<Place>,
        portal: &Portal,
        client: IpAddr,
        tried: &[SocketAddr],
    ) -> Option<(Self, Chosen)> {
        let key = portal.key;
        place.bound_memory();
        let chosen = place.account(key, |account| {
            let chosen = account.choose(portal, client, tried, Instant::now())?;
            account.begin(chosen.backend);
            Some(chosen)
        })?;
        Some((Self { place: Arc::clone(place), key, backend: chosen.backend }, chosen))
    }

    /// It took so long until the backend answered.
    pub(crate) fn answered(&self, delay_us: u32) {
        self.place.account(self.key, |account| account.answered(self.backend, delay_us));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.place.account(self.key, |account| account.end(self.backend));
    }
}

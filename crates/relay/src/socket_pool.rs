//! `SocketPool`: TCP sockets of one network namespace, opened in advance.
//!
//! A new socket costs a round trip to the thread that enters the network namespace. The pool opens 1, 2, 4, ... 64
//! sockets at a time, so that a burst of connections pays for few round trips, and an idle pod holds no socket.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use proxy_core::address::Family;
use support::lock;

use crate::netns_socket_factory::{NetnsSocketFactory, SocketKind};

/// The maximum number of sockets that are opened at a time.
const REFILL_MAX: usize = 64;

/// The pool of one network namespace.
#[derive(Debug)]
pub(crate) struct SocketPool {
    netns: Arc<OwnedFd>,
    factory: NetnsSocketFactory,
    sockets: Mutex<PooledSockets>,
    /// Set while one caller refills the pool. Others open one socket each.
    is_refilling: AtomicBool,
}

#[derive(Debug, Default)]
struct PooledSockets {
    by_family: HashMap<Family, Vec<OwnedFd>>,
    last_refill: usize,
}

impl SocketPool {
    /// Returns an empty pool.
    pub(crate) fn new(netns: OwnedFd, factory: NetnsSocketFactory) -> Self {
        let (sockets, is_refilling) = Default::default();
        Self { netns: Arc::new(netns), factory, sockets, is_refilling }
    }

    /// Returns a TCP socket from the pool, or refills the pool if it is empty.
    pub(crate) async fn stream_socket(&self, family: Family) -> io::Result<OwnedFd> {
        let (count, _guard) = {
            let mut pool = lock(&self.sockets);
            if let Some(socket) = pool.by_family.get_mut(&family).and_then(Vec::pop) {
                return Ok(socket);
            }
            let guard = RefillGuard::try_new(&self.is_refilling);
            if guard.is_some() {
                pool.last_refill = (pool.last_refill * 2).clamp(1, REFILL_MAX);
            }
            (if guard.is_some() { pool.last_refill } else { 1 }, guard)
        };
        let mut sockets = self.open(family, SocketKind::Stream, count).await?;
        let socket = sockets.pop().ok_or(io::ErrorKind::NotFound)?;
        if !sockets.is_empty() {
            lock(&self.sockets).by_family.entry(family).or_default().append(&mut sockets);
        }
        Ok(socket)
    }

    /// Opens a UDP socket. The pool holds only TCP sockets.
    pub(crate) async fn datagram_socket(&self, family: Family) -> io::Result<OwnedFd> {
        let mut sockets = self.open(family, SocketKind::Datagram, 1).await?;
        sockets.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Closes all pooled sockets.
    pub(crate) fn clear(&self) {
        *lock(&self.sockets) = PooledSockets::default();
    }

    async fn open(&self, family: Family, kind: SocketKind, count: usize) -> io::Result<Vec<OwnedFd>> {
        self.factory.open(Arc::clone(&self.netns), family, kind, count).await
    }
}

/// The right to refill the pool, held by one caller at a time.
struct RefillGuard<'a>(&'a AtomicBool);

impl<'a> RefillGuard<'a> {
    fn try_new(is_refilling: &'a AtomicBool) -> Option<Self> {
        (!is_refilling.swap(true, Ordering::Relaxed)).then(|| Self(is_refilling))
    }
}

impl Drop for RefillGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

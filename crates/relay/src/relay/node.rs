//! The relay in the node's network namespace: it serves node ports at the loopback addresses.
//!
//! A rule redirects connections to 127.0.0.1 or ::1 and the port of a node port to one port, on which the relay listens
//! at these addresses only. A kernel rule without the relay cannot serve them: it would need `route_localnet`, which
//! IPv6 does not have.

use netns_nft::NetnsId;
use proxy_core::portal::Portals;
use support::lock;

use super::{Error, Relay};
use crate::listener_sockets::open_loopback_listeners;
use crate::pod_relay::PodRelay;
use crate::served_netns::ServedNetns;

impl Relay {
    /// Replaces the portals of the node, those of `Place::Node`.
    pub fn set_node_portals(&self, portals: Portals) {
        self.node_portals.send_replace(portals);
    }

    /// Listens on a port at the loopback addresses of the network namespace of this thread, in which the relay was
    /// started as well. Has no effect if the relay listens there already on this port. Another relay can listen on the
    /// same port meanwhile, which it hands over by `shut_down`.
    ///
    /// # Errors
    /// If another process uses the port, or sockets are exhausted.
    pub fn open_node(&self, port: u16) -> Result<(), Error> {
        let id = NetnsId::current().map_err(Error::Enter)?;
        let is_open = lock(&self.pods).get(&id).map(|node| node.port == port);
        match is_open {
            Some(true) => return Ok(()),
            Some(false) => self.close_netns(id),
            None => {}
        }
        let listeners = open_loopback_listeners(port, self.workers.len());
        let listeners = listeners.map_err(|source| Error::ListenOnNode { port, source })?;
        self.listen(PodRelay::new(id, ServedNetns::Node, port, self.node_portals.subscribe()), listeners);
        Ok(())
    }

    /// Closes the listeners and all connections of the node.
    pub fn close_node(&self) {
        let node = lock(&self.pods).values().find(|pod| pod.netns.is_node()).map(|node| node.id);
        node.into_iter().for_each(|id| self.close_netns(id));
    }
}

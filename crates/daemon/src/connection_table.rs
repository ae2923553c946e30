//! `ConnectionTable`: the connections of a server by peer, and the order in which they are closed.
//!
//! At a limit, the peer with the most connections loses the one that has been idle for the longest time, so that one
//! peer cannot keep others out. Connections that the server is answering are not closed. Pure: no sockets and no
//! clocks.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tokio::sync::Notify;

/// The limits of concurrent connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections of all peers.
    pub total: usize,
    /// Connections of one peer.
    pub of_a_peer: usize,
}

#[derive(Debug)]
struct Connection {
    peer: IpAddr,
    /// The number of its last event: the smaller, the longer it has been idle.
    last_used: u64,
    answering: usize,
    is_closing: bool,
    close: Arc<Notify>,
}

/// All connections of a server.
#[derive(Debug, Default)]
pub struct ConnectionTable {
    events: u64,
    connections: BTreeMap<u64, Connection>,
    /// The number of connections that are closing.
    closing: usize,
}

impl ConnectionTable {
    /// Returns the number of connections, including closing ones.
    #[must_use]
    pub fn count(&self) -> usize {
        self.connections.len()
    }

    /// Adds a connection of a peer, and closes another one if needed. Returns its number, and the notification to close
    /// it; `None` if the limit is reached and no connection can be closed.
    pub fn connect(&mut self, limits: ConnectionLimits, peer: IpAddr) -> Option<(u64, Arc<Notify>)> {
        let peer = peer_of(peer);
        let counts = self.counts();
        let own = counts.get(&peer).copied().unwrap_or_default();
        if own >= limits.of_a_peer {
            self.close_one_of(Some(peer), &counts)?;
        } else if self.connections.len() - self.closing >= limits.total {
            self.close_one_of(None, &counts)?;
        }
        let (id, close) = (self.event(), Arc::new(Notify::new()));
        let connection =
            Connection { peer, last_used: id, answering: 0, is_closing: false, close: Arc::clone(&close) };
        self.connections.insert(id, connection);
        Some((id, close))
    }

    /// Closes the first connection in order; returns false if none can be closed.
    pub fn close_one(&mut self) -> bool {
        let counts = self.counts();
        self.close_one_of(None, &counts).is_some()
    }

    /// Closes a connection.
    pub fn close(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            close(connection, &mut self.closing);
        }
    }

    /// Removes a connection that has ended.
    pub fn disconnect(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.closing -= usize::from(connection.is_closing);
        }
    }

    /// Returns the peer of a connection.
    #[must_use]
    pub fn peer(&self, id: u64) -> Option<IpAddr> {
        self.connections.get(&id).map(|connection| connection.peer)
    }

    /// Records that the connection was used.
    pub fn touch(&mut self, id: u64) {
        let event = self.event();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.last_used = event;
        }
    }

    /// Records that the server begins to answer a request of the connection.
    pub fn begin_answer(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.answering += 1;
        }
    }

    /// Records that the answer to a request of the connection is complete.
    pub fn end_answer(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.answering -= 1;
        }
    }

    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// Returns the number of connections of each peer, without closing ones.
    fn counts(&self) -> HashMap<IpAddr, usize> {
        let mut counts = HashMap::new();
        for connection in self.connections.values().filter(|connection| !connection.is_closing) {
            *counts.entry(connection.peer).or_default() += 1;
        }
        counts
    }

    fn close_one_of(&mut self, peer: Option<IpAddr>, counts: &HashMap<IpAddr, usize>) -> Option<()> {
        let can_close = |connection: &Connection| {
            connection.answering == 0
                && !connection.is_closing
                && peer.is_none_or(|peer| peer == connection.peer)
        };
        let candidates = self.connections.values_mut().filter(|connection| can_close(connection));
        let first = candidates.min_by_key(|connection| {
            let count = counts.get(&connection.peer).copied().unwrap_or_default();
            (usize::MAX - count, connection.last_used)
        })?;
        close(first, &mut self.closing);
        Some(())
    }
}

fn close(connection: &mut Connection, closing: &mut usize) {
    if !connection.is_closing {
        connection.is_closing = true;
        *closing += 1;
        connection.close.notify_one();
    }
}

/// Returns the address that identifies a peer: for IPv6 its /64, since a node has that many addresses.
fn peer_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits { total: 4, of_a_peer: 3 };

    /// Whether a notification was sent.
    fn is_notified(notice: &Arc<Notify>) -> bool {
        pin!(notice.notified()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn connect(table: &mut ConnectionTable, last: u8) -> (u64, Arc<Notify>) {
        table.connect(LIMITS, Ipv4Addr::new(10, 0, 0, last).into()).expect("room")
    }

    #[test]
    fn idlest_connection_of_the_largest_peer_is_closed_first() {
        let mut table = ConnectionTable::default();
        let honest = connect(&mut table, 1);
        let [first, second, third] = [(); 3].map(|()| connect(&mut table, 2));
        table.touch(first.0);
        connect(&mut table, 3);
        let closed = [&honest, &first, &second, &third].map(|(_, close)| is_notified(close));
        assert_eq!(closed, [false, false, true, false]);
        table.disconnect(second.0);
        // A peer beyond its own limit loses one of its connections, even if there is room.
        connect(&mut table, 2);
        assert!(is_notified(&third.1) && !is_notified(&first.1));
        assert_eq!(table.count(), 5);
        table.disconnect(third.0);
        assert_eq!(table.count(), 4);
    }

    #[test]
    fn connection_that_is_being_answered_is_not_closed() {
        let mut table = ConnectionTable::default();
        let connections: Vec<_> = (0..4).map(|last| connect(&mut table, last)).collect();
        connections.iter().for_each(|(id, _)| table.begin_answer(*id));
        assert!(table.connect(LIMITS, Ipv4Addr::LOCALHOST.into()).is_none() && !table.close_one());
        table.end_answer(connections[2].0);
        assert!(table.connect(LIMITS, Ipv4Addr::LOCALHOST.into()).is_some());
        assert!(is_notified(&connections[2].1));
    }

    #[test]
    fn ipv6_peer_is_a_64_bit_prefix() {
        let address = |text: &str| peer_of(text.parse().expect("an address"));
        assert_eq!(address("fd00:1::1"), address("fd00:1::2"));
        assert_ne!(address("fd00:1::1"), address("fd00:2::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }
}

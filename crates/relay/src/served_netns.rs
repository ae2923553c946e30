//! `ServedNetns`: the network namespace whose clients the relay serves, a pod's or the node's.
//!
//! In a pod the relay serves portals of all addresses, and dials from the pod or from the node. On the node it serves
//! only node ports at loopback addresses, and dials from the node: a kernel rule cannot translate a loopback address
//! without `route_localnet`, which would expose all services that listen on loopback.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use netns_nft::Socket;
use proxy_core::address::Family;
use proxy_core::portal::{PortalKey, ServiceFilter, node_port_address};
use proxy_core::service::Protocol;
use support::lock;

use crate::netns_socket_factory::{SocketKind, open_socket};
use crate::socket_pool::SocketPool;

/// A network namespace.
#[derive(Debug)]
pub(crate) enum ServedNetns {
    /// That of a pod.
    Pod(PodNetns),
    /// That of the node, in which this process runs.
    Node,
}

/// The network namespace of a pod.
#[derive(Debug)]
pub(crate) struct PodNetns {
    pub(crate) filter: ServiceFilter,
    /// Whether the relay serves guests of the pod, whose connections arrive at other interfaces than loopback.
    pub(crate) has_guests: bool,
    pub(crate) sockets: SocketPool,
    /// Reads the original destination of datagrams.
    pub(crate) conntrack: Mutex<Socket>,
}

impl ServedNetns {
    /// Whether it is the pod's with this view and these guests.
    pub(crate) fn is_pod(&self, filter: &ServiceFilter, has_guests: bool) -> bool {
        matches!(self, Self::Pod(pod) if pod.filter == *filter && pod.has_guests == has_guests)
    }

    pub(crate) fn is_node(&self) -> bool {
        matches!(self, Self::Node)
    }

    /// Whether the relay serves clients that were redirected to this local address. The kernel redirects the own
    /// connections of a network namespace to loopback, and connections that a pod forwards for a guest to the address
    /// of the interface on which they arrived.
    pub(crate) fn serves_at(&self, local: IpAddr) -> bool {
        local.is_loopback() || matches!(self, Self::Pod(pod) if pod.has_guests)
    }

    /// The portal of a connection with this original destination. A node port has one portal for all addresses of the
    /// node, whose address is unspecified.
    pub(crate) fn portal_key(&self, protocol: Protocol, original: SocketAddr) -> Option<PortalKey> {
        let address = match self {
            Self::Pod(_) => original.ip(),
            Self::Node if original.ip().is_loopback() => node_port_address(Family::of(original.ip())),
            Self::Node => return None,
        };
        Some(PortalKey { address, protocol, port: original.port() })
    }

    /// Whether connections to this address end at this host, where they would be redirected to the relay again.
    pub(crate) fn redirects_to_relay(&self, backend: IpAddr) -> bool {
        let backend = backend.to_canonical();
        self.is_node() && (backend.is_loopback() || backend.is_unspecified())
    }

    /// Opens a socket for a connection to a backend, in this network namespace or in the node's.
    pub(crate) async fn open_socket(
        &self,
        kind: SocketKind,
        family: Family,
        via_node: bool,
    ) -> io::Result<OwnedFd> {
        match (self, kind) {
            (Self::Pod(pod), SocketKind::Stream) if !via_node => pod.sockets.stream_socket(family).await,
            (Self::Pod(pod), SocketKind::Datagram) if !via_node => pod.sockets.datagram_socket(family).await,
            _ => open_socket(family, kind).map_err(io::Error::from),
        }
    }

    /// Closes pooled sockets.
    pub(crate) fn clear_sockets(&self) {
        if let Self::Pod(pod) = self {
            pod.sockets.clear();
        }
    }

    /// Returns the original destination of a redirected UDP flow. On the node, no UDP flow is redirected.
    pub(crate) fn original_udp_destination(
        &self,
        client: SocketAddr,
        local: SocketAddr,
    ) -> Option<SocketAddr> {
        let Self::Pod(pod) = self else { return None };
        lock(&pod.conntrack).original_destination(client, local).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::sample::{backend, tcp};

    use super::*;

    fn portal_at(original: &str) -> Option<PortalKey> {
        ServedNetns::Node.portal_key(Protocol::Tcp, backend(original))
    }

    #[test]
    fn node_port_at_a_loopback_address_is_the_portal_of_all_addresses() {
        assert_eq!(portal_at("127.0.0.1:30080"), Some(tcp("0.0.0.0:30080")));
        assert_eq!(portal_at("127.8.0.1:30080"), Some(tcp("0.0.0.0:30080")));
        assert_eq!(portal_at("[::1]:30080"), Some(tcp("[::]:30080")));
    }

    #[test]
    fn other_address_of_the_node_has_no_portal_in_the_relay() {
        for original in ["10.0.0.1:30080", "[2001:db8::1]:30080", "[::ffff:127.0.0.1]:30080"] {
            assert_eq!(portal_at(original), None, "{original}");
        }
    }

    #[test]
    fn backend_at_a_loopback_address_leads_back_to_the_relay_of_the_node() {
        let redirects =
            |backend: &str| ServedNetns::Node.redirects_to_relay(backend.parse().expect("an address"));
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"] {
            assert!(redirects(address), "{address}");
        }
        assert!(!redirects("10.1.0.1") && !redirects("2001:db8::1"));
    }
}

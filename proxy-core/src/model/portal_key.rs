//! `PortalKey`: the address, protocol and port by which the kernel finds a portal.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use crate::model::service::Protocol;

/// The address, protocol and port of a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortalKey {
    /// The destination address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
}

impl PortalKey {
    /// Returns the least key of an address.
    pub(crate) const fn first(address: IpAddr) -> Self {
        Self { address, protocol: Protocol::Tcp, port: 0 }
    }
}

impl fmt::Display for PortalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.address, self.protocol, self.port)
    }
}

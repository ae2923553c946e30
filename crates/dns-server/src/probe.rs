//! `Probe`: the queries with which the server verifies that the queries of a pod reach it.
//!
//! A probe is a query for a random name that no client knows. Its ID is the index of the DNS address. The thread that
//! receives it sends it back as a response, without a look-up.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};

/// The port of DNS.
const DNS_PORT: u16 = 53;
/// The flag of a response, in the third byte of a message.
const RESPONSE_FLAG: u8 = 0x80;
/// ID and flags, which differ between probe and response.
const ID_BYTES: usize = 2;
const FLAGS_AT: usize = 2;
/// One question; no other records.
const COUNTS: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];
/// The root label, type A, class IN.
const QUESTION_END: [u8; 5] = [0, 0, 1, 0, 1];
/// The last labels of the name (RFC 6761: `invalid` never exists, so a probe that leaks is harmless).
const SUFFIX: [&[u8]; 2] = [b"portico-probe", b"invalid"];

/// The probes of one pod.
#[derive(Debug)]
pub(crate) struct Probe {
    socket: OwnedFd,
    message: Vec<u8>,
    /// Whether the socket uses IPv6, and IPv4-mapped addresses for IPv4.
    is_v6: bool,
}

impl Probe {
    /// Probes with a random name.
    pub(crate) fn new(socket: OwnedFd, random: u128) -> io::Result<Self> {
        let is_v6 = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?.is_ipv6();
        let label = format!("{random:032x}");
        let mut message = vec![0; FLAGS_AT + 2];
        message.extend(COUNTS);
        for label in [label.as_bytes()].into_iter().chain(SUFFIX) {
            message.push(u8::try_from(label.len()).unwrap_or_default());
            message.extend(label);
        }
        message.extend(QUESTION_END);
        Ok(Self { socket, message, is_v6 })
    }

    /// Sends a probe through a DNS address.
    pub(crate) fn send(&mut self, index: usize, server: IpAddr) -> io::Result<()> {
        let id = u16::try_from(index).unwrap_or_default().to_be_bytes();
        self.message.iter_mut().zip(id).for_each(|(byte, of_id)| *byte = of_id);
        let server = match server {
            IpAddr::V4(v4) if self.is_v6 => v4.to_ipv6_mapped().into(),
            other => other,
        };
        sendto(&self.socket, &self.message, SendFlags::DONTWAIT, &SocketAddr::new(server, DNS_PORT))?;
        Ok(())
    }

    /// Writes the response if a query is a probe of this pod.
    pub(crate) fn respond(&self, query: &[u8], out: &mut Vec<u8>) -> bool {
        let is_probe = query.get(ID_BYTES..) == self.message.get(ID_BYTES..);
        if is_probe {
            out.clear();
            out.extend_from_slice(query);
            out.iter_mut().skip(FLAGS_AT).take(1).for_each(|flags| *flags |= RESPONSE_FLAG);
        }
        is_probe
    }

    /// Receives the next response to a probe. Returns the index of its DNS address, or `None` if no datagram waits;
    /// other datagrams are dropped.
    pub(crate) fn receive(&self) -> Option<usize> {
        let mut buffer = [0; 128];
        loop {
            let (length, _, _) = recvfrom(&self.socket, &mut buffer, RecvFlags::DONTWAIT).ok()?;
            let mut response = buffer.get(..length).unwrap_or_default().to_vec();
            response.iter_mut().skip(FLAGS_AT).take(1).for_each(|flags| *flags ^= RESPONSE_FLAG);
            if response.get(ID_BYTES..) == self.message.get(ID_BYTES..)
                && let Some(id) = response.first_chunk()
            {
                return Some(u16::from_be_bytes(*id).into());
            }
        }
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

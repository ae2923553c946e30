//! `DnsTable`: the table that passes DNS queries of a pod to the agent's sockets in the pod's network namespace.
//!
//! The table belongs to a netlink socket of the agent (5.12), so the kernel removes it when the agent dies, and the
//! ordinary portal of the cluster DNS applies again, without any process. Against an agent that hangs, queries are
//! redirected only while the table is armed: by an element with a timeout, which the threads that respond renew. A new
//! table is not armed. The replies of the agent and open TCP connections do not depend on that.
//!
//! The way of a query is described in `rules`. UDP has no conntrack entries.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proxy_core::ruleset::Settings;

use crate::error::Error;
use crate::netlink::attributes::Attributes;
use crate::netlink::batch::BatchOp;
use crate::netlink::socket::Socket;
use crate::netlink::uapi::*;
use crate::nft::generation_span::GenerationSpan;
use crate::nft::names::DNS_TABLE;
use crate::nft::ownership::OwnershipRejection;
use crate::nft::read::reader::{failed_to_read, request};
use crate::nft::table_writer::TableWriter;

mod rules;

/// How long queries are redirected after the table was armed.
pub const DNS_ARMED_TIME: Duration = Duration::from_secs(10);

/// The priority (`SO_PRIORITY`) of a socket whose queries are not redirected. Queueing disciplines treat it as 0,
/// so that the table need not reset it: its lowest four bits are 0, and its upper half is the handle of none.
pub const DNS_BYPASS_PRIORITY: u32 = 0x5044_0000;

/// A DNS address, and the agent's ports at the loopback address of its family that respond for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsRedirect {
    /// The address to which the pod sends queries, at port 53.
    pub address: IpAddr,
    /// The port of the UDP socket.
    pub udp_port: u16,
    /// The port of the TCP listener.
    pub tcp_port: u16,
}

/// How a table is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsTableSettings {
    /// The priority of the NAT chains with the portals. The table redirects TCP before them.
    pub nat_priority: i32,
    /// How long queries are redirected after the table was armed.
    pub armed_time: Duration,
}

impl Default for DnsTableSettings {
    fn default() -> Self {
        Self { nat_priority: Settings::default().nat_priority, armed_time: DNS_ARMED_TIME }
    }
}

/// The DNS table of a network namespace, as its owner. If this is dropped, the kernel removes the table, unless another
/// process has the socket as well.
#[derive(Debug)]
pub struct DnsTable {
    socket: Socket,
    /// The generation after the last transaction.
    generation: AtomicU32,
}

impl DnsTable {
    /// Creates the table in the socket's network namespace, or replaces one without an owner. It is not armed.
    ///
    /// # Errors
    /// `DnsTableUnsupported` if the kernel is too old, `DnsTableOwned` if another socket owns the table, or the reason
    /// for which the kernel rejects the transaction.
    pub fn create(
        socket: Socket,
        redirects: &[DnsRedirect],
        settings: DnsTableSettings,
    ) -> Result<(Self, GenerationSpan), Error> {
        let span = socket
            .apply_as_span(None, |batch| {
                batch.op = Some(BatchOp::Table("the DNS table"));
                let mut table = TableWriter::new(batch, DNS_TABLE);
                table.clear();
                rules::add_table(&mut table, redirects, settings);
            })
            .map_err(describe)?;
        Ok((Self { socket, generation: AtomicU32::new(span.after) }, span))
    }

    /// Continues to own a table with the socket that created it, which another process sent.
    ///
    /// # Errors
    /// `DnsTableMissing` if the socket owns no such table, or if the kernel does not report the table.
    pub fn adopt(socket: OwnedFd) -> Result<Self, Error> {
        let socket = Socket::from(socket);
        let mut owner = None;
        let request =
            request(NFT_MSG_GETTABLE, NLM_F_ACK, |buffer| buffer.put_string(NFTA_TABLE_NAME, DNS_TABLE));
        let result = socket.request(&request, |message| {
            owner = Attributes::of_netfilter(message.body).u32(NFTA_TABLE_OWNER);
        });
        match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed_to_read("the DNS table", error))
            }
            _ if owner != Some(socket.writer_id()?.port) => Err(Error::DnsTableMissing),
            _ => Ok(Self { generation: AtomicU32::new(socket.generation()?), socket }),
        }
    }

    /// Redirects queries for the armed time from now on.
    ///
    /// # Errors
    /// If the kernel rejects the transaction.
    pub fn arm(&self) -> Result<GenerationSpan, Error> {
        self.apply(rules::arm)
    }

    /// Stops redirecting queries. The agent's sockets still reply to queries that they have received.
    ///
    /// # Errors
    /// If the kernel rejects the transaction.
    pub fn disarm(&self) -> Result<GenerationSpan, Error> {
        self.apply(rules::disarm)
    }

    /// Removes the table. Dropping it does the same, without an error and without a new generation.
    ///
    /// # Errors
    /// If the kernel rejects the transaction.
    pub fn remove(self) -> Result<GenerationSpan, Error> {
        self.apply(|table| table.delete())
    }

    fn apply(&self, fill: impl Fn(&mut TableWriter<'_>)) -> Result<GenerationSpan, Error> {
        let expected = self.generation.load(Ordering::Relaxed);
        let span = self.socket.apply_as_span(Some(expected), |batch| {
            batch.op = Some(BatchOp::Table("the change of the DNS table"));
            fill(&mut TableWriter::new(batch, DNS_TABLE));
        })?;
        self.generation.store(span.after, Ordering::Relaxed);
        Ok(span)
    }
}

impl AsFd for DnsTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Distinguishes the reasons for which the kernel rejects the table.
fn describe(error: Error) -> Error {
    match OwnershipRejection::of(error) {
        OwnershipRejection::Unsupported(source) => Error::DnsTableUnsupported(source),
        OwnershipRejection::Owned => Error::DnsTableOwned,
        OwnershipRejection::Other(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::libc;

    use super::*;

    #[test]
    fn reason_of_a_rejected_dns_table_is_distinguished() {
        let rejected = |code| {
            let op = Some(BatchOp::Table("the DNS table"));
            describe(Error::Rejected { op, source: io::Error::from_raw_os_error(code) })
        };
        assert!(matches!(rejected(libc::EOPNOTSUPP), Error::DnsTableUnsupported(_)));
        assert!(matches!(rejected(libc::EPERM), Error::DnsTableOwned));
        assert!(rejected(libc::EPERM).is_transient(), "its owner can exit");
        assert!(!rejected(libc::EOPNOTSUPP).is_transient());
        assert!(matches!(rejected(libc::ENOENT), Error::Rejected { .. }));
    }
    #[test]
    fn bypass_priority_selects_the_queue_of_sockets_without_a_priority() {
        /// The kernel's `TC_PRIO_MAX`.
        const QUEUE_MASK: u32 = 15;
        assert_eq!(DNS_BYPASS_PRIORITY & QUEUE_MASK, 0);
        assert!(i32::try_from(DNS_BYPASS_PRIORITY).is_ok(), "the type of the socket option");
    }
}

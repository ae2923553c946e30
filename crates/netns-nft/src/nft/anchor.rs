//! `Anchor`: a table that keeps NAT registered in a network namespace after another process flushed the ruleset.
//!
//! The translation of an open connection is stored in its conntrack entry, but the kernel applies it only while at
//! least one NAT chain exists. `nft flush ruleset` deletes all tables, so all translated connections would stall. The
//! kernel does not flush a table that is owned by a socket of another process (5.12), and keeps it after the socket was
//! closed if it persists (6.9). The table then has no owner until the next agent creates it again; a transaction that
//! replaces it registers the new chain before it removes the old one. The only rule of the table never matches.

use crate::error::Error;
use crate::netlink::batch::{Batch, BatchOp, BatchWriter};
use crate::netlink::socket::Socket;
use crate::netlink::uapi::*;
use crate::nft::names::ANCHOR_TABLE;
use crate::nft::ownership::OwnershipRejection;
use crate::nft::table_writer::TableWriter;

const CHAIN: &str = "postrouting";
const COMMENT: &str = "portico: keeps NAT registered if the ruleset is flushed";
/// No packet has this transport protocol.
const NO_PROTOCOL: u8 = u8::MAX;

/// The anchor table of a network namespace. If this is dropped, the table stays, but it no longer has an owner, so
/// every process can delete it.
#[derive(Debug)]
pub struct Anchor(Socket);

impl Anchor {
    /// Creates the table, or replaces one without an owner, and owns it with this socket.
    ///
    /// # Errors
    /// `AnchorUnsupported` if the kernel is too old, `AnchorOwned` if another process owns the table, or the reason for
    /// which the kernel rejects the transaction.
    pub fn hold(socket: Socket) -> Result<Self, Error> {
        socket.apply(&creation()).map_err(describe)?;
        Ok(Self(socket))
    }

    /// Deletes the table.
    ///
    /// # Errors
    /// If the kernel rejects the transaction.
    pub fn remove(self) -> Result<(), Error> {
        self.0.apply(&BatchWriter::batch(|batch| {
            batch.op = Some(BatchOp::Table("the deletion of the anchor table"));
            TableWriter::new(batch, ANCHOR_TABLE).delete();
        }))
    }
}

/// The transaction that creates the table, whatever it contained before.
fn creation() -> Batch {
    BatchWriter::batch(|batch| {
        batch.op = Some(BatchOp::Table("the anchor table"));
        let mut table = TableWriter::new(batch, ANCHOR_TABLE);
        table.clear();
        table.add_with_flags(COMMENT, NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST);
        table.add_base_chain(CHAIN, NF_INET_POST_ROUTING, NF_IP_PRI_NAT_SRC);
        // The rule registers connection tracking as well, which a NAT chain without a rule does not.
        table.add_rule(CHAIN, |rule| rule.match_protocol(NO_PROTOCOL).masquerade());
    })
}

fn describe(error: Error) -> Error {
    match OwnershipRejection::of(error) {
        OwnershipRejection::Unsupported(source) => Error::AnchorUnsupported(source),
        OwnershipRejection::Owned => Error::AnchorOwned,
        OwnershipRejection::Other(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use nix::libc;

    use super::*;

    fn rejected(op: Option<BatchOp>, code: i32) -> Error {
        describe(Error::Rejected { op, source: io::Error::from_raw_os_error(code) })
    }

    #[test]
    fn reason_of_a_rejection_is_distinguished() {
        let op = Some(BatchOp::Table("the anchor table"));
        assert!(matches!(rejected(op, libc::EOPNOTSUPP), Error::AnchorUnsupported(_)));
        assert!(matches!(rejected(op, libc::EINVAL), Error::AnchorUnsupported(_)));
        assert!(matches!(rejected(op, libc::EPERM), Error::AnchorOwned));
        assert!(matches!(rejected(op, libc::ENOMEM), Error::Rejected { .. }));
        assert!(matches!(rejected(None, libc::EPERM), Error::Rejected { .. }), "no CAP_NET_ADMIN");
    }

    #[test]
    fn only_an_owned_anchor_is_worth_a_retry() {
        assert!(Error::AnchorOwned.is_transient());
        assert!(!Error::AnchorUnsupported(io::Error::from_raw_os_error(libc::EOPNOTSUPP)).is_transient());
    }
}

//! `Monitor`: reports changes that other processes make to a table of nf_tables.
//!
//! The kernel notifies of each change of each table in the network namespace. The monitor discards those of other
//! tables, and those of the transactions of one socket, with which the agent itself changes the table. If notifications
//! were lost, the table may have changed.
//!
//! While this process applies a large transaction, in whichever network namespace, there are no notifications: see
//! `netlink::membership`. If the generation was changed meanwhile, the change is unknown.

use std::os::fd::{AsFd, BorrowedFd};

use crate::error::Error;
use crate::netlink::attributes::{Attributes, NFGENMSG_BYTES};
use crate::netlink::membership::JOIN;
use crate::netlink::multicast::{MulticastSocket, Received};
use crate::netlink::socket::{Message, Socket, split_message};
use crate::netlink::uapi::*;

/// The maximum of datagrams that one call reads. A datagram has up to 64 KiB.
const DATAGRAMS_MAX: usize = 64;

/// What other processes did to the table, in the order of importance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableChange {
    /// Nothing.
    #[default]
    None,
    /// They added, changed or deleted parts of it.
    Changed,
    /// Notifications were lost: the table must be read.
    Unknown,
    /// They deleted it, and may have created it again.
    Deleted,
}

/// The changes that one call read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// The most important change of the table.
    pub table: TableChange,
    /// Whether there were no further notifications. If not, the file descriptor is still readable.
    pub is_drained: bool,
}

/// Receives the notifications of nf_tables in a network namespace. The file descriptor is readable if there are
/// notifications.
#[derive(Debug)]
pub struct Monitor {
    socket: MulticastSocket,
    table: String,
    /// The generation at the time from which on there were no notifications.
    suspended_at: Option<u32>,
}

impl Monitor {
    /// Monitors a table of family inet in the network namespace of this thread. The transactions of `writer` are not
    /// reported.
    ///
    /// # Errors
    /// If the kernel has no netfilter netlink, no file descriptor is available, or without CAP_NET_ADMIN.
    pub fn open(table: &str, writer: &Socket) -> Result<Self, Error> {
        let socket = MulticastSocket::open(NFNLGRP_NFTABLES, writer.writer_id()?)?;
        Ok(Self { socket, table: table.to_owned(), suspended_at: None })
    }

    /// Replaces the socket whose transactions are not reported.
    ///
    /// # Errors
    /// If the kernel does not accept the filter.
    pub fn set_writer(&self, writer: &Socket) -> Result<(), Error> {
        self.socket.set_writer(writer.writer_id()?)
    }

    /// Reads the notifications that have arrived, up to a maximum, without waiting.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn next_changes(&mut self) -> Result<Changes, Error> {
        let (mut changes, port) = (Changes::default(), self.socket.port());
        for _ in 0..DATAGRAMS_MAX {
            match self.socket.receive()? {
                Received::Messages(messages) => {
                    let change = change_in(messages, &self.table, port, &mut self.suspended_at);
                    changes.table = changes.table.max(change);
                }
                Received::Lost => changes.table = changes.table.max(TableChange::Unknown),
                Received::Nothing => {
                    changes.is_drained = true;
                    break;
                }
            }
        }
        Ok(changes)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The most important change of a table in the messages of a datagram. The replies to requests of the monitor have its
/// port.
fn change_in(mut messages: &[u8], table: &str, port: u32, suspended_at: &mut Option<u32>) -> TableChange {
    let mut change = TableChange::None;
    while let Some((message, rest)) = split_message(messages) {
        let this = if message.port == port {
            change_while_suspended(&message, suspended_at)
        } else {
            change_of(&message, table)
        };
        change = change.max(this);
        messages = rest;
    }
    change
}

/// What happened between the two generations around a time without notifications.
fn change_while_suspended(reply: &Message<'_>, suspended_at: &mut Option<u32>) -> TableChange {
    let generation = Attributes::of_netfilter(reply.body).u32(NFTA_GEN_ID);
    let Some(own) = reply.sequence.checked_sub(JOIN) else {
        *suspended_at = generation;
        return TableChange::None;
    };
    let expected = suspended_at.take().map(|generation| generation.wrapping_add(own));
    if expected.is_some() && expected == generation { TableChange::None } else { TableChange::Unknown }
}

fn change_of(message: &Message<'_>, table: &str) -> TableChange {
    const DELTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE;
    const NEWGEN: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN;
    let family = message.body.first_chunk::<NFGENMSG_BYTES>().map(|header| header[0]);
    // Each message about a table, or about a part of it, has the name of the table as its first attribute. A message
    // about a generation has a number there.
    let is_of_table = family == Some(NFPROTO_INET)
        && message.kind != NEWGEN
        && Attributes::of_netfilter(message.body).string(NFTA_TABLE_NAME) == table;
    match message.kind {
        DELTABLE if is_of_table => TableChange::Deleted,
        _ if is_of_table => TableChange::Changed,
        _ => TableChange::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes::{MessageBuffer, nfgenmsg};
    use crate::netlink::membership::LEAVE;

    const OWN_PORT: u32 = 7;

    fn change_in(messages: &[u8], table: &str) -> TableChange {
        super::change_in(messages, table, OWN_PORT, &mut None)
    }

    fn notification(family: u8, kind: u16, table: &str) -> Vec<u8> {
        MessageBuffer::message(NFNL_SUBSYS_NFTABLES << 8 | kind, 0, &nfgenmsg(family, 0), |buffer| {
            buffer.put_string(NFTA_TABLE_NAME, table);
        })
    }

    #[test]
    fn change_of_the_table_is_the_most_important_one() {
        let of = |family, kind, table| change_in(&notification(family, kind, table), "a");
        assert_eq!(of(NFPROTO_INET, NFT_MSG_NEWSETELEM, "a"), TableChange::Changed);
        assert_eq!(of(NFPROTO_INET, NFT_MSG_DELTABLE, "a"), TableChange::Deleted);
        assert_eq!(of(NFPROTO_INET, NFT_MSG_DELTABLE, "b"), TableChange::None, "another table");
        assert_eq!(of(NFPROTO_IPV4, NFT_MSG_DELTABLE, "a"), TableChange::None, "another family");
        assert_eq!(of(NFPROTO_INET, NFT_MSG_NEWGEN, "a"), TableChange::None, "not about a table");
        let messages = [
            notification(NFPROTO_INET, NFT_MSG_NEWTABLE, "b"),
            notification(NFPROTO_INET, NFT_MSG_DELTABLE, "a"),
            notification(NFPROTO_INET, NFT_MSG_NEWTABLE, "a"),
        ];
        assert_eq!(change_in(&messages.concat(), "a"), TableChange::Deleted);
    }

    /// The reply to a request of the monitor.
    fn generation(sequence: u32, generation: u32) -> Vec<u8> {
        let mut buffer = MessageBuffer::default();
        let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN;
        let open = buffer.begin_message(kind, 0, sequence, &nfgenmsg(NFPROTO_UNSPEC, 0));
        buffer.put_u32(NFTA_GEN_ID, generation);
        buffer.end_message(&open);
        buffer.0[12..16].copy_from_slice(&OWN_PORT.to_ne_bytes());
        buffer.0
    }

    #[test]
    fn other_generation_after_a_suspension_is_an_unknown_change() {
        let around = |before, own, after| {
            let replies = [generation(LEAVE, before), generation(JOIN + own, after)].concat();
            change_in(&replies, "a")
        };
        assert_eq!(around(5, 0, 5), TableChange::None);
        assert_eq!(around(5, 2, 7), TableChange::None, "the writer's transactions");
        assert_eq!(around(5, 0, 6), TableChange::Unknown);
        assert_eq!(around(5, 1, 7), TableChange::Unknown, "one of them is not the writer's");
        assert_eq!(change_in(&generation(JOIN, 5), "a"), TableChange::Unknown, "the first reply was lost");
    }

    #[test]
    fn truncated_notifications_are_no_change() {
        let messages = notification(NFPROTO_INET, NFT_MSG_DELTABLE, "a");
        for length in 0..messages.len() {
            assert_eq!(change_in(&messages[..length], "a"), TableChange::None, "{length}");
        }
    }
}

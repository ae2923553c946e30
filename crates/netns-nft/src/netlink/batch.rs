//! `Batch`: the messages of one nf_tables transaction, and `BatchWriter`, which writes them.
//!
//! The kernel applies the messages between batch-begin and batch-end as a whole or not at all. The sequence number of
//! a message is its index in the batch, so an error of the kernel names the operation.

use std::fmt;

use proxy_core::plan::Op;
use proxy_core::ruleset::node::NodeOp;

use crate::netlink::attributes::{HEADER_BYTES, MessageBuffer, NFGENMSG_BYTES, Open, nfgenmsg};
use crate::netlink::uapi::*;

/// The length of batch-end.
const FRAME_BYTES: usize = HEADER_BYTES + NFGENMSG_BYTES;

/// The operation of a message, which an error of the kernel names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOp {
    /// An operation of a pod's plan.
    Pod(Op),
    /// An operation of the node's plan.
    Node(NodeOp),
    /// The operation of a small table, as a text.
    Table(&'static str),
}

impl fmt::Display for BatchOp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(op) => write!(formatter, "{op:?}"),
            Self::Node(op) => write!(formatter, "{op:?}"),
            Self::Table(text) => formatter.write_str(text),
        }
    }
}

/// The messages of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// The first operation of each message; none for the first and the last, which frame the batch. Empty if unknown.
    pub(crate) ops: Vec<Option<BatchOp>>,
}

impl Batch {
    /// Restores a batch from its bytes. Its operations are unknown, so an error of the kernel does not name one.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes, ops: Vec::new() }
    }

    /// The messages as they are sent.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The operation with which the message of this sequence number starts.
    pub(crate) fn op(&self, sequence: u32) -> Option<BatchOp> {
        *self.ops.get(usize::try_from(sequence).ok()?)?
    }

    /// The same transaction with an additional message before batch-end. `kind` is a type of nf_tables.
    pub(crate) fn with_message(&self, kind: u16, flags: u16, fill: impl FnOnce(&mut MessageBuffer)) -> Self {
        let Some(at) = self.bytes.len().checked_sub(FRAME_BYTES) else { return self.clone() };
        let (operations, batch_end) = self.bytes.split_at(at);
        let mut buffer = MessageBuffer(operations.to_vec());
        // No operation of the plan has this sequence number.
        let open = begin_nft_message(&mut buffer, NFPROTO_INET, kind, flags, u32::MAX);
        fill(&mut buffer);
        buffer.end_message(&open);
        buffer.0.extend_from_slice(batch_end);
        Self { bytes: buffer.0, ops: self.ops.clone() }
    }
}

/// Writes the messages of a batch, and records the operation of each.
#[derive(Debug, Default)]
pub(crate) struct BatchWriter {
    pub(crate) buffer: MessageBuffer,
    /// The operation to which the next messages belong.
    pub(crate) op: Option<BatchOp>,
    ops: Vec<Option<BatchOp>>,
    last: Option<Open>,
}

impl BatchWriter {
    /// Encodes a batch with the messages that `fill` writes.
    pub(crate) fn batch(fill: impl FnOnce(&mut Self)) -> Batch {
        Self::framed(|_| {}, fill)
    }

    /// As `batch`, but the kernel rejects it with `ERESTART` unless this is the current generation of the rulesets. An
    /// accepted batch creates the next generation.
    pub(crate) fn batch_at(generation: u32, fill: impl FnOnce(&mut Self)) -> Batch {
        Self::framed(|buffer| buffer.put_u32(NFNL_BATCH_GENID, generation), fill)
    }

    fn framed(condition: impl FnOnce(&mut MessageBuffer), fill: impl FnOnce(&mut Self)) -> Batch {
        let mut writer = Self::default();
        writer.frame(NFNL_MSG_BATCH_BEGIN, condition);
        fill(&mut writer);
        writer.request_ack();
        writer.frame(NFNL_MSG_BATCH_END, |_| {});
        Batch { bytes: writer.buffer.0, ops: writer.ops }
    }

    fn frame(&mut self, kind: u16, fill: impl FnOnce(&mut MessageBuffer)) {
        let header = nfgenmsg(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES);
        let open = self.buffer.begin_message(kind, NLM_F_REQUEST, self.sequence(), &header);
        fill(&mut self.buffer);
        self.buffer.end_message(&open);
        self.ops.push(None);
    }

    /// Requests an ACK for the last operation. Kernels before 6.10 do not acknowledge batch-begin and batch-end.
    fn request_ack(&mut self) {
        if let Some(last) = &self.last {
            self.buffer.add_flags(last, NLM_F_ACK);
        }
    }

    fn sequence(&self) -> u32 {
        u32::try_from(self.ops.len()).expect("a batch has fewer than 2^32 messages")
    }

    /// Starts a message of nf_tables.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16) -> Open {
        let sequence = self.sequence();
        begin_nft_message(&mut self.buffer, NFPROTO_INET, kind, flags, sequence)
    }

    /// Ends a message.
    pub(crate) fn end(&mut self, open: Open) {
        self.buffer.end_message(&open);
        self.ops.push(self.op);
        self.last = Some(open);
    }

    /// Writes a message of nf_tables with the attributes that `fill` writes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut MessageBuffer)) {
        let open = self.begin(kind, flags);
        fill(&mut self.buffer);
        self.end(open);
    }

    /// As `message` without flags, for a table of another family.
    pub(crate) fn message_of(&mut self, family: u8, kind: u16, fill: impl FnOnce(&mut MessageBuffer)) {
        let sequence = self.sequence();
        let open = begin_nft_message(&mut self.buffer, family, kind, 0, sequence);
        fill(&mut self.buffer);
        self.end(open);
    }
}

fn begin_nft_message(buffer: &mut MessageBuffer, family: u8, kind: u16, flags: u16, sequence: u32) -> Open {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    buffer.begin_message(kind, NLM_F_REQUEST | flags, sequence, &nfgenmsg(family, 0))
}

//! `DatagramBatch`: receives up to 32 datagrams with one system call, and sends the responses with another.
//!
//! The headers of a batch hold addresses of one family: the kernel shortens the length of an address in a header, and
//! the next call would truncate a longer one.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg, sendmmsg, sendto,
};

/// The number of datagrams in a batch. A pod with more waits until each other pod had a batch.
const BATCH: usize = 32;
/// The size of a receive buffer. A query is smaller; a longer datagram is truncated, and is malformed then.
const RECEIVE_BYTES: usize = 4_096;
/// The capacity that a response buffer keeps.
const RESPONSE_BYTES: usize = 4_096;

/// The address of a client as the kernel passes it.
pub(crate) trait PeerAddress: SockaddrLike + Copy {
    /// Converts the address to that of the standard library.
    fn to_std(&self) -> SocketAddr;
}

impl PeerAddress for SockaddrIn {
    fn to_std(&self) -> SocketAddr {
        SocketAddrV4::new(self.ip(), self.port()).into()
    }
}

impl PeerAddress for SockaddrIn6 {
    fn to_std(&self) -> SocketAddr {
        SocketAddrV6::new(self.ip(), self.port(), self.flowinfo(), self.scope_id()).into()
    }
}

/// The buffers of one family.
#[derive(Debug)]
pub(crate) struct DatagramBatch<S> {
    received: MultiHeaders<S>,
    sent: MultiHeaders<S>,
    buffers: Box<[[u8; RECEIVE_BYTES]]>,
    /// The lengths and clients of the received datagrams.
    datagrams: Vec<(usize, Option<S>)>,
    responses: Vec<Vec<u8>>,
    /// The clients of the responses.
    addresses: Vec<Option<S>>,
    /// The number of datagrams to receive at a time. Each header costs time, also if no datagram is left for it.
    limit: usize,
}

impl<S: PeerAddress> DatagramBatch<S> {
    pub(crate) fn new() -> Self {
        Self {
            received: MultiHeaders::preallocate(BATCH, None),
            sent: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; RECEIVE_BYTES]; BATCH].into(),
            datagrams: Vec::with_capacity(BATCH),
            responses: (0..BATCH).map(|_| Vec::new()).collect(),
            addresses: Vec::with_capacity(BATCH),
            limit: 1,
        }
    }

    /// Receives a batch, and passes each datagram to `handle`, which writes the response into the buffer and returns
    /// whether to send it. Returns whether the batch was full, so that more datagrams may wait. A response for which
    /// the socket has no room is dropped, as UDP permits.
    pub(crate) fn serve(
        &mut self,
        socket: BorrowedFd<'_>,
        mut handle: impl FnMut(&[u8], S, &mut Vec<u8>) -> bool,
    ) -> nix::Result<bool> {
        let is_full = self.receive(socket)?;
        self.addresses.clear();
        for (buffer, (length, address)) in self.buffers.iter().zip(&self.datagrams) {
            let used = self.addresses.len();
            let (Some(address), Some(response)) = (address, self.responses.get_mut(used)) else { continue };
            if handle(buffer.get(..*length).unwrap_or_default(), *address, response) {
                self.addresses.push(Some(*address));
            }
        }
        self.send(socket);
        let used = self.addresses.len();
        self.responses.iter_mut().take(used).for_each(|response| response.shrink_to(RESPONSE_BYTES));
        Ok(is_full)
    }

    /// Receives datagrams up to the limit, and adapts the limit to the load.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> nix::Result<bool> {
        self.datagrams.clear();
        let mut buffers = self.buffers.iter_mut().take(self.limit);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
            [IoSliceMut::new(buffers.next().map_or(&mut [], |buffer| &mut buffer[..]))]
        });
        let slices = slices.iter_mut().take(self.limit);
        let received =
            recvmmsg(socket.as_raw_fd(), &mut self.received, slices, MsgFlags::MSG_DONTWAIT, None)?;
        self.datagrams.extend(received.map(|message| (message.bytes, message.address)));
        let count = self.datagrams.len();
        let is_full = count == self.limit;
        self.limit = if is_full { BATCH.min(2 * count) } else { count.max(1) };
        Ok(is_full)
    }

    fn send(&mut self, socket: BorrowedFd<'_>) {
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let addresses = self.addresses.as_slice();
        if let ([Some(address)], Some(response)) = (addresses, self.responses.first()) {
            // The client may have closed its socket.
            let _ = sendto(fd, response, address, flags);
            return;
        }
        let mut first = 0;
        while first < addresses.len() {
            let left = addresses.get(first..).unwrap_or_default();
            let slices: Vec<[IoSlice<'_>; 1]> = self
                .responses
                .iter()
                .skip(first)
                .take(left.len())
                .map(|bytes| [IoSlice::new(bytes)])
                .collect();
            let none: &[ControlMessage<'_>] = &[];
            let sent = sendmmsg(fd, &mut self.sent, slices.iter(), left, none, flags);
            // The kernel stops at the first response that it cannot send, which is skipped.
            first += sent.map_or(1, |sent| sent.count().max(1));
        }
    }
}

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
    responses: Vec<Vec<u8>>,
}

impl<S: PeerAddress> DatagramBatch<S> {
    pub(crate) fn new() -> Self {
        Self {
            received: MultiHeaders::preallocate(BATCH, None),
            sent: MultiHeaders::preallocate(BATCH, None),
            buffers: vec![[0; RECEIVE_BYTES]; BATCH].into(),
            responses: (0..BATCH).map(|_| Vec::new()).collect(),
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
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let mut datagrams = [(0, None); BATCH];
        let count = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let received = recvmmsg(fd, &mut self.received, slices.iter_mut(), flags, None)?;
            let mut count = 0;
            for (message, datagram) in received.zip(&mut datagrams) {
                *datagram = (message.bytes, message.address);
                count += 1;
            }
            count
        };
        let (mut addresses, mut used) = (Vec::with_capacity(count), 0);
        for (buffer, (length, address)) in self.buffers.iter().zip(&datagrams).take(count) {
            let (Some(address), Some(response)) = (address, self.responses.get_mut(used)) else { continue };
            if handle(buffer.get(..*length).unwrap_or_default(), *address, response) {
                addresses.push(Some(*address));
                used += 1;
            }
        }
        self.send(socket, &addresses);
        self.responses.iter_mut().take(used).for_each(|response| response.shrink_to(RESPONSE_BYTES));
        Ok(count == BATCH)
    }

    fn send(&mut self, socket: BorrowedFd<'_>, addresses: &[Option<S>]) {
        let (fd, flags) = (socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
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

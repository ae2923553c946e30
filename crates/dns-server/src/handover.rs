//! The handover of the sockets and tables of pods to another process, so that no query is lost.
//!
//! Both processes have the same sockets for a while. The kernel keeps datagrams that neither has received, and the
//! table of a pod remains, because its owner is a socket and not a process. Each pod is one message with its file
//! descriptors on a socket pair.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netns_nft::{DnsTable, NetnsId};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::pod_sockets::{AddressSockets, PodSockets};
use crate::served_pod::ServedPod;

/// The maximum number of DNS addresses of a pod.
pub(crate) const ADDRESSES_MAX: usize = 16;
/// The file descriptors of a pod: two for each address, the probe, and the owner of the table.
const DESCRIPTORS_MAX: usize = 2 * ADDRESSES_MAX + 2;
/// The maximum size of a description.
const DESCRIPTION_BYTES_MAX: usize = 4_096;

/// The description of a pod; its file descriptors are sent along.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    netns: NetnsId,
    servers: Vec<IpAddr>,
}

/// Duplicates of the sockets of one pod.
#[derive(Debug)]
pub(crate) struct SharedPod {
    pub(crate) netns: NetnsId,
    pub(crate) servers: Vec<IpAddr>,
    /// Two for each address, the probe, and the owner of the table.
    descriptors: Vec<OwnedFd>,
}

impl SharedPod {
    /// Duplicates the sockets of a pod.
    pub(crate) fn of(pod: &ServedPod) -> io::Result<Self> {
        let addresses = pod.addresses.iter().flat_map(|address| [&address.datagram, &address.listener]);
        let sockets = addresses.map(AsFd::as_fd).chain([pod.probe.as_fd(), pod.table.as_fd()]);
        Ok(Self {
            netns: pod.id,
            servers: pod.addresses.iter().map(|address| address.server).collect(),
            descriptors: sockets.map(|socket| socket.try_clone_to_owned()).collect::<io::Result<_>>()?,
        })
    }

    /// Takes the sockets, unless they do not match the DNS addresses or the table is gone.
    pub(crate) fn into_sockets(self) -> Option<PodSockets> {
        let Self { servers, mut descriptors, .. } = self;
        if descriptors.len() != 2 * servers.len() + 2 {
            return None;
        }
        let table = DnsTable::adopt(descriptors.pop()?).ok()?;
        let probe = descriptors.pop()?;
        let mut sockets = descriptors.into_iter();
        let mut addresses = Vec::new();
        for server in servers {
            addresses.push(AddressSockets { server, datagram: sockets.next()?, listener: sockets.next()? });
        }
        Some(PodSockets { addresses, probe, table, creation: None })
    }

    /// Sends the pod.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let description = Description { netns: self.netns, servers: self.servers.clone() };
        let bytes = serde_json::to_vec(&description)?;
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut room);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives the next pod, or `None` at the end.
    pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; DESCRIPTION_BYTES_MAX];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut room);
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(socket, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        let Description { netns, servers } =
            serde_json::from_slice(bytes.get(..received.bytes).unwrap_or_default())?;
        Ok(Some(Self { netns, servers, descriptors }))
    }
}

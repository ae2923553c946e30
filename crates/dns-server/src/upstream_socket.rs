//! `UpstreamSocket`: the socket of one exchange with an upstream, in the network namespace of a pod or on the node.
//!
//! Each exchange has its own socket, so that the kernel chooses a random source port for it (RFC 5452), and a connected
//! socket receives only from the upstream.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dns::{ExchangeId, Transport};
use netns_nft::{DNS_BYPASS_PRIORITY, enter_netns};
use nix::sys::socket::{setsockopt, sockopt};
use proxy_core::address::Family;
use rustix::io::Errno;
use rustix::net::SocketType;

use crate::pod_sockets::open_socket;

/// The maximum size of a message over TCP, with its length.
const STREAM_BYTES_MAX: usize = 2 + u16::MAX as usize;
/// The number of bytes that are read from a stream at a time.
const READ_BYTES: usize = 4_096;
/// The maximum size of a datagram.
pub(crate) const DATAGRAM_BYTES: usize = 64 << 10;

/// The socket of an exchange.
#[derive(Debug)]
pub(crate) struct UpstreamSocket {
    pub(crate) exchange: ExchangeId,
    channel: Channel,
}

#[derive(Debug)]
enum Channel {
    Datagram(UdpSocket),
    Stream { stream: TcpStream, output: Vec<u8>, input: Vec<u8> },
}

/// Opens a socket to an upstream in a network namespace, and returns to the thread's own one. Sockets of a pod bypass the
/// redirect of the pod's DNS address, which can be the upstream.
///
/// # Errors
/// The first error is that of the socket. The second means that the thread could not return.
pub(crate) fn open_in(
    netns: Option<BorrowedFd<'_>>,
    own: BorrowedFd<'_>,
    upstream: SocketAddr,
    transport: Transport,
) -> Result<io::Result<OwnedFd>, io::Error> {
    let Some(netns) = netns else { return Ok(connect(upstream, transport)) };
    if let Err(error) = enter_netns(netns) {
        return Ok(Err(error));
    }
    let kind = kind_of(transport);
    let socket = open_socket(Family::of(upstream.ip()), kind).map_err(io::Error::from);
    // The route and the source address are those of the socket's network namespace, wherever the thread is.
    enter_netns(own)?;
    Ok(socket.and_then(|socket| {
        let priority = i32::try_from(DNS_BYPASS_PRIORITY).unwrap_or_default();
        setsockopt(&socket, sockopt::Priority, &priority)?;
        connect_to(socket, upstream)
    }))
}

fn kind_of(transport: Transport) -> SocketType {
    match transport {
        Transport::Udp => SocketType::DGRAM,
        Transport::Tcp => SocketType::STREAM,
    }
}

fn connect(upstream: SocketAddr, transport: Transport) -> io::Result<OwnedFd> {
    connect_to(open_socket(Family::of(upstream.ip()), kind_of(transport))?, upstream)
}

fn connect_to(socket: OwnedFd, upstream: SocketAddr) -> io::Result<OwnedFd> {
    match rustix::net::connect(&socket, &upstream) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

impl UpstreamSocket {
    /// Sends the query; over TCP, it is sent once the connection is established.
    pub(crate) fn start(
        exchange: ExchangeId,
        socket: OwnedFd,
        transport: Transport,
        message: &[u8],
    ) -> io::Result<Self> {
        let channel = match transport {
            Transport::Udp => {
                let socket = UdpSocket::from(socket);
                socket.send(message)?;
                Channel::Datagram(socket)
            }
            Transport::Tcp => {
                let length = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidInput)?;
                let output = [&length.to_be_bytes(), message].concat();
                Channel::Stream { stream: socket.into(), output, input: Vec::new() }
            }
        };
        Ok(Self { exchange, channel })
    }

    /// Whether the query is not sent yet.
    pub(crate) fn must_write(&self) -> bool {
        matches!(&self.channel, Channel::Stream { output, .. } if !output.is_empty())
    }

    /// Does what the socket is ready for. Returns a message if one is complete.
    ///
    /// # Errors
    /// If the upstream refuses or ends the exchange.
    pub(crate) fn advance<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match &mut self.channel {
            Channel::Datagram(socket) => match socket.recv(buffer) {
                Ok(length) => Ok(buffer.get(..length)),
                Err(error) if is_transient(&error) => Ok(None),
                Err(error) => Err(error),
            },
            Channel::Stream { stream, output, input } => {
                if !output.is_empty() {
                    return write(stream, output).map(|()| None);
                }
                if !read(stream, input)? {
                    return Ok(None);
                }
                let message = input.get(2..).unwrap_or_default();
                let copy = buffer.get_mut(..message.len()).ok_or(ErrorKind::InvalidData)?;
                copy.copy_from_slice(message);
                Ok(Some(copy))
            }
        }
    }
}

impl AsFd for UpstreamSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.channel {
            Channel::Datagram(socket) => socket.as_fd(),
            Channel::Stream { stream, .. } => stream.as_fd(),
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn write(stream: &mut TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.write(output) {
        Ok(length) => drop(output.drain(..length)),
        Err(error) if is_transient(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Reads a part of the response. Returns whether the message is complete.
fn read(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; READ_BYTES];
    match stream.read(&mut buffer) {
        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok(length) => input.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        Err(error) if is_transient(&error) => return Ok(false),
        Err(error) => return Err(error),
    }
    let Some(length) = input.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length))) else {
        return Ok(false);
    };
    input.truncate((length + 2).min(STREAM_BYTES_MAX));
    Ok(input.len() == length + 2)
}

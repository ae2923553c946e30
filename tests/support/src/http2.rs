//! `Frames`: sends raw HTTP/2 frames over TLS, so that a test can violate the protocol.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use crate::caller::{Stream, connect_tls};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// An HTTP/2 connection.
pub struct Frames(Stream);

impl Frames {
    /// Connects and sends these settings (identifier and value).
    pub fn new(address: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let mut frames = Self(connect_tls(address, "127.0.0.1", None, &[b"h2"])?);
        frames.0.write_all(PREFACE)?;
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        frames.send(&frame(SETTINGS, 0, 0, &payload))?;
        Ok(frames)
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Reads until the server closes the connection, or until the read timeout.
    pub fn read_until_closed(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

/// Encodes a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of `POST /mutate`, in the static table of HPACK.
pub fn head() -> Vec<u8> {
    let path = b"/mutate?timeout=30s";
    let len = u8::try_from(path.len()).expect("short");
    [&[0x83, 0x87, 0x04, len][..], path, &[0x01, 1, b'x']].concat()
}

/// Encodes a complete request.
pub fn request(stream: u32, body: &[u8]) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &head());
    let pieces: Vec<&[u8]> = body.chunks(16_000).collect();
    let data = pieces.iter().enumerate().flat_map(|(index, piece)| {
        frame(DATA, if index + 1 == pieces.len() { END_STREAM } else { 0 }, stream, piece)
    });
    head.into_iter().chain(data).collect()
}

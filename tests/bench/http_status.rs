//! A client of the HTTP pages of this network namespace, for benchmarks: small, and without a runtime.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

/// Returns the response to a request at a port of the loopback address; `None` if nothing listens there.
pub(crate) fn get(port: u16, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    // With this version, the response is one piece, and its end is that of the connection.
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    connection.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    connection.read_to_string(&mut response).ok()?;
    Some(response)
}

/// Returns the status of the response.
pub(crate) fn status(port: u16) -> Option<u16> {
    get(port, "/")?.split(' ').nth(1)?.parse().ok()
}

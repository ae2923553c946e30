//! Conversations with what is behind a portal: servers that say their name, and clients that ask for it.
//!
//! What must not go in here: namespaces and rules.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use proxy_core::sample::backend;

use crate::namespace::add_address;

/// How long an answer may take: a lost packet is sent again after a second, and after three.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);
/// How long nothing must come where everything is dropped: an answer within one machine takes 0.1 ms.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// A server on this address that answers each connection with its own name.
pub(crate) fn serve(name: &'static str, address: &str) {
    add_address(address.rsplit_once(':').expect("a port").0.trim_matches(['[', ']']));
    let listener = TcpListener::bind(address).expect("listen on the backend's address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(|mut stream| stream.write_all(name.as_bytes()));
        }
    });
}

/// Who answers at a portal.
pub(crate) fn ask(portal: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&backend(portal), patience)?;
    let mut name = String::new();
    stream.set_read_timeout(Some(patience))?;
    stream.read_to_string(&mut name)?;
    Ok(name)
}

pub(crate) fn answer(portal: &str) -> String {
    ask(portal, ANSWER).unwrap_or_else(|why| panic!("{portal} does not answer: {why}"))
}

pub(crate) fn tally(portal: &str, times: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..times {
        *tally.entry(answer(portal)).or_default() += 1;
    }
    tally
}

pub(crate) fn assert_refused(portal: &str) {
    let kind = ask(portal, ANSWER).expect_err("nobody answers").kind();
    assert_eq!(kind, ErrorKind::ConnectionRefused, "{portal}");
}

pub(crate) fn assert_silent(portal: &str) {
    let kind = ask(portal, SILENCE).expect_err("nobody answers").kind();
    assert_eq!(kind, ErrorKind::TimedOut, "{portal}");
}

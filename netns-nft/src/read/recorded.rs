//! `Recorded`: answers that are bytes, as the kernel would give them.
//!
//! Tests replay what a kernel said, and a fuzzer makes up what a pod might have the kernel say. What must not go in
//! here: what the answers mean.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;

use super::limits::Limits;
use super::reader::{Reader, Source, Take};
use super::{End, Found};
use crate::error::Error;
use crate::socket::{ends, split};

/// Answers one after the other: the end of a list or an acknowledgement ends the answers to one request.
struct Recorded<'a>(Cell<&'a [u8]>);

impl Source for Recorded<'_> {
    fn ask(&self, _request: &[u8], take: Take<'_>) -> io::Result<()> {
        let (mut is_wanted, mut rest) = (true, self.0.get());
        while let Some((answer, behind)) = split(rest) {
            rest = behind;
            self.0.set(rest);
            match ends(&answer) {
                Some(end) => return end,
                None if is_wanted => is_wanted = take(&answer) == ControlFlow::Continue(()),
                None => {}
            }
        }
        Ok(())
    }
}

/// What these answers say that stands in a network namespace, as `Socket::find_within` would say it of a kernel that
/// gave them.
///
/// # Errors
/// Where they say that the kernel could not tell.
pub fn found_in(answers: &[u8], limits: &Limits) -> Result<Found, Error> {
    let source = Recorded(Cell::new(answers));
    match (Reader { source: &source, limits }).look() {
        Ok(found) => Ok(found),
        Err(End::Other(why) | End::TooMany(why)) => Ok(Found::Other(why)),
        Err(End::Failed(error)) => Err(error),
    }
}

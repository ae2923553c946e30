//! All that a server has, as the initial events of a watch (`sendInitialEvents`), from its watch cache.
//!
//! It costs the server less than a list, and holds no page here. A server that does not do this says so in many ways:
//! by a status, by an error in the watch, by an end, or by silence. All of them lead to a list in pages. What must not go
//! in here: the list.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::decoder::Decoder;
use crate::cluster::fault::{Cause, Fault};
use crate::cluster::follow::watch::{Initial, Opened};
use crate::cluster::follow::{Follower, Position, Stop};
use crate::cluster::said::Said;

const FROM: &str = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
/// How long a server that has refused is not asked again.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

/// How an attempt ended.
pub(super) enum Streamed {
    /// All was said; the watch goes on from there.
    All(Position, Opened),
    /// The server does not do this: it is to be listed.
    Refused,
}

impl<D: Decoder> Follower<D> {
    /// Says all that the server has.
    pub(super) async fn stream(&mut self) -> Result<Streamed, Stop> {
        if self.no_stream_until.is_some_and(|until| Instant::now() < until) {
            return Ok(Streamed::Refused);
        }
        let opened = match self.open_watch(FROM).await {
            Ok(opened) => opened,
            Err(fault) => return self.not_opened(fault),
        };
        match self.initial_events(opened).await {
            Err(Stop::Deaf) => Err(Stop::Deaf),
            Ok(streamed) => Ok(streamed),
            // Whatever it was, pages may do better.
            Err(Stop::Fault(_) | Stop::Expired) => Ok(self.refused()),
        }
    }

    async fn initial_events(&self, mut opened: Opened) -> Result<Streamed, Stop> {
        self.say(Said::Begin).await?;
        loop {
            match self.initial_event(&mut opened).await? {
                Initial::Said(said) => self.say(said).await?,
                Initial::Nothing => {}
                Initial::End(position) => {
                    self.say(Said::End).await?;
                    return Ok(Streamed::All(position, opened));
                }
            }
        }
    }

    /// A server that cannot be reached, or asks for time, would not answer a list either.
    fn not_opened(&mut self, fault: Fault) -> Result<Streamed, Stop> {
        match fault.cause {
            Cause::Connection | Cause::Silence | Cause::Status(429) => Err(fault.into()),
            // It may be the same with a list, which says so.
            Cause::Status(401 | 403 | 404 | 410 | 500..) => Ok(Streamed::Refused),
            Cause::Status(_) | Cause::Content => Ok(self.refused()),
        }
    }

    fn refused(&mut self) -> Streamed {
        self.no_stream_until = Some(Instant::now() + REFUSED_PAUSE);
        Streamed::Refused
    }
}

//! A watch of the double: changes line by line, until its time is over or a fault ends it.
//!
//! What must not go in here: what is changed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep_until};

use super::Fault;
use super::double::{Body, State, status};
use super::kind::Kind;
use super::store::Selector;

/// What is watched, and from where on.
pub(crate) struct Watching {
    pub(crate) state: Arc<State>,
    pub(crate) kind: Kind,
    pub(crate) selector: Selector,
    pub(crate) version: u64,
    pub(crate) seconds: u64,
}

/// The pieces of an answer as they come.
struct Pieces(Receiver<io::Result<Frame<Bytes>>>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context)
    }
}

/// The answer to a watch, which goes on.
pub(crate) fn watching(watching: Watching) -> Response<Body> {
    let (say, pieces) = channel(64);
    // What happens from now on is not missed.
    let once = watching.state.once.subscribe();
    tokio::spawn(watching.run(say, once));
    Response::new(Pieces(pieces).boxed())
}

/// The reader is gone, or the watch is over.
struct Over;

impl Watching {
    async fn run(
        mut self,
        say: Sender<io::Result<Frame<Bytes>>>,
        mut once: tokio::sync::broadcast::Receiver<Fault>,
    ) {
        let state = Arc::clone(&self.state);
        let mut happened = state.happened.subscribe();
        let end = Instant::now() + Duration::from_secs(self.seconds);
        loop {
            happened.mark_unchanged();
            if self.catch_up(&say).await.is_err() {
                return;
            }
            let is_silent = state.lock().faults.silent;
            let went_on = tokio::select! {
                _ = happened.changed() => Ok(()),
                fault = once.recv() => match fault {
                    Ok(fault) => self.once(fault, &say).await,
                    Err(_) => Err(Over),
                },
                () = sleep_until(end), if !is_silent => {
                    let _ = self.bookmark(&say).await;
                    Err(Over)
                }
                () = say.closed() => Err(Over),
            };
            if went_on.is_err() {
                return;
            }
        }
    }

    /// Says what has changed since the last time, if it may.
    async fn catch_up(&mut self, say: &Sender<io::Result<Frame<Bytes>>>) -> Result<(), Over> {
        let (changes, version) = {
            let inner = self.state.lock();
            let is_known = inner.store.knows(self.version);
            let is_held = inner.faults.held.is_some_and(|label| self.selector.labels.ends_with(label));
            if inner.faults.silent || is_held && self.kind.name == "Service" {
                return Ok(());
            }
            let changes = is_known.then(|| inner.store.after(self.version, self.kind, &self.selector));
            (changes, inner.store.version)
        };
        let Some(changes) = changes else {
            line(say, &expired()).await?;
            return Err(Over);
        };
        for change in changes {
            line(say, &change).await?;
        }
        self.version = version;
        Ok(())
    }

    async fn once(&mut self, fault: Fault, say: &Sender<io::Result<Frame<Bytes>>>) -> Result<(), Over> {
        match fault {
            Fault::EndWatches => Err(Over),
            Fault::CutWatches => {
                let _ = piece(say, b"{\"type\":\"MODIFIED\",\"object\":{\"meta".to_vec()).await;
                let _ = say.send(Err(io::Error::other("cut"))).await;
                Err(Over)
            }
            Fault::Expire => {
                // Even if nothing is said otherwise.
                line(say, &expired()).await?;
                Err(Over)
            }
            Fault::Bookmark => self.bookmark(say).await,
            Fault::Line(resource, mut text) if resource == self.kind.resource => {
                text.push(b'\n');
                piece(say, text).await
            }
            _ => Ok(()),
        }
    }

    async fn bookmark(&self, say: &Sender<io::Result<Frame<Bytes>>>) -> Result<(), Over> {
        let metadata = json!({"resourceVersion": self.version.to_string()});
        let object =
            json!({"kind": self.kind.name, "apiVersion": self.kind.api_version(), "metadata": metadata});
        line(say, &json!({"type": "BOOKMARK", "object": object})).await
    }
}

fn expired() -> Value {
    json!({"type": "ERROR", "object": status(410, "too old resource version")})
}

async fn line(say: &Sender<io::Result<Frame<Bytes>>>, value: &Value) -> Result<(), Over> {
    piece(say, format!("{value}\n").into_bytes()).await
}

async fn piece(say: &Sender<io::Result<Frame<Bytes>>>, bytes: Vec<u8>) -> Result<(), Over> {
    say.send(Ok(Frame::data(bytes.into()))).await.map_err(|_| Over)
}

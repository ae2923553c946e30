//! A watch of the double: changes line by line, until its time is over or a fault ends it.

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

use super::double::{Body, State, status};
use super::listing::{Sent, Shape};
use super::store::Selector;
use super::{Fault, InitialEvents};

/// What is watched, and from where on.
pub(crate) struct Watching {
    pub state: Arc<State>,
    pub shape: Shape,
    pub selector: Selector,
    pub version: u64,
    pub seconds: u64,
    /// All that there is comes first, or that is refused in a way.
    pub initial: Option<Option<InitialEvents>>,
}

/// The pieces of an answer as they come.
pub(crate) struct Pieces(pub Receiver<io::Result<Frame<Bytes>>>);

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
                    let _ = self.bookmark(&say, Value::Null).await;
                    Err(Over)
                }
                () = say.closed() => Err(Over),
            };
            if went_on.is_err() {
                return;
            }
        }
    }

    async fn say_change(
        &self,
        say: &Sender<io::Result<Frame<Bytes>>>,
        kind: &str,
        object: &Sent,
    ) -> Result<(), Over> {
        let object = self.shape.text(object, false);
        piece(say, format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into_bytes()).await
    }

    /// Says all that there is, and that this is all; or does not, in the way that was asked for.
    async fn initial(
        &mut self,
        refused: Option<InitialEvents>,
        say: &Sender<io::Result<Frame<Bytes>>>,
    ) -> Result<(), Over> {
        if let Some(InitialEvents::Error(code)) = refused {
            line(say, &json!({"type": "ERROR", "object": status(code, "no initial events")})).await?;
            return Err(Over);
        }
        let (objects, version) = {
            let inner = self.state.lock();
            (inner.all(inner.store.version, self.shape.kind, &self.selector), inner.store.version)
        };
        for object in &objects {
            self.say_change(say, "ADDED", object).await?;
        }
        self.version = version;
        match refused {
            Some(InitialEvents::Ends) => Err(Over),
            // As a server that does not know of it.
            Some(InitialEvents::NoBookmark) => Ok(()),
            _ => self.bookmark(say, json!({"k8s.io/initial-events-end": "true"})).await,
        }
    }

    /// Says what has changed since the last time, if it may.
    async fn catch_up(&mut self, say: &Sender<io::Result<Frame<Bytes>>>) -> Result<(), Over> {
        if self.state.lock().faults.silent {
            return Ok(());
        }
        if let Some(refused) = self.initial.take() {
            return self.initial(refused, say).await;
        }
        let (changes, version) = {
            let inner = self.state.lock();
            let is_known = inner.store.knows(self.version);
            let is_held = inner.faults.held.is_some_and(|label| self.selector.labels.ends_with(label));
            if is_held && self.shape.kind.name == "Service" {
                return Ok(());
            }
            let changes = is_known.then(|| inner.store.after(self.version, self.shape.kind, &self.selector));
            (changes, inner.store.version)
        };
        let Some(changes) = changes else {
            line(say, &expired()).await?;
            return Err(Over);
        };
        for change in changes {
            let kind = change["type"].as_str().expect("a change has a type");
            self.say_change(say, kind, &Sent::Stored(change["object"].clone())).await?;
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
            Fault::Bookmark => self.bookmark(say, Value::Null).await,
            Fault::Line(resource, mut text) if resource == self.shape.kind.resource => {
                text.push(b'\n');
                piece(say, text).await
            }
            _ => Ok(()),
        }
    }

    async fn bookmark(&self, say: &Sender<io::Result<Frame<Bytes>>>, annotations: Value) -> Result<(), Over> {
        let metadata = json!({"resourceVersion": self.version.to_string(), "annotations": annotations});
        self.say_change(say, "BOOKMARK", &Sent::Stored(json!({"metadata": metadata}))).await
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

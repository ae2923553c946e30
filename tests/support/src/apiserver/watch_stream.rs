//! A watch of the double: sends changes line by line, until its timeout or until a fault ends it.

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
use super::listing::{ObjectFormat, OutgoingObject};
use super::store::Selector;
use super::{Fault, InitialEvents};

/// The selection and the start of a watch.
pub(crate) struct WatchStream {
    pub state: Arc<State>,
    pub format: ObjectFormat,
    pub selector: Selector,
    pub version: u64,
    pub seconds: u64,
    /// Whether initial events are requested, and in which way they are refused.
    pub initial: Option<Option<InitialEvents>>,
}

/// The body of a response in pieces.
pub(crate) struct ChannelBody(pub Receiver<io::Result<Frame<Bytes>>>);

impl HttpBody for ChannelBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context)
    }
}

/// Responds to a watch.
pub(crate) fn watch_response(watching: WatchStream) -> Response<Body> {
    let (sender, pieces) = channel(64);
    // Subscribe now, so that no fault is missed.
    let once = watching.state.once.subscribe();
    tokio::spawn(watching.run(sender, once));
    Response::new(ChannelBody(pieces).boxed())
}

/// The reader closed the connection, or the watch has ended.
struct WatchEnded;

impl WatchStream {
    async fn run(
        mut self,
        sender: Sender<io::Result<Frame<Bytes>>>,
        mut once: tokio::sync::broadcast::Receiver<Fault>,
    ) {
        let state = Arc::clone(&self.state);
        let mut happened = state.happened.subscribe();
        let end = Instant::now() + Duration::from_secs(self.seconds);
        loop {
            happened.mark_unchanged();
            if self.catch_up(&sender).await.is_err() {
                return;
            }
            let is_silent = state.lock().faults.silent;
            let result = tokio::select! {
                _ = happened.changed() => Ok(()),
                fault = once.recv() => match fault {
                    Ok(fault) => self.once(fault, &sender).await,
                    Err(_) => Err(WatchEnded),
                },
                () = sleep_until(end), if !is_silent => {
                    let _ = self.bookmark(&sender, Value::Null).await;
                    Err(WatchEnded)
                }
                () = sender.closed() => Err(WatchEnded),
            };
            if result.is_err() {
                return;
            }
        }
    }

    async fn send_change(
        &self,
        sender: &Sender<io::Result<Frame<Bytes>>>,
        kind: &str,
        object: &OutgoingObject,
    ) -> Result<(), WatchEnded> {
        let object = self.format.text(object, false);
        send_bytes(sender, format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into_bytes()).await
    }

    /// Sends all objects and the bookmark, or refuses in the requested way.
    async fn initial(
        &mut self,
        refused: Option<InitialEvents>,
        sender: &Sender<io::Result<Frame<Bytes>>>,
    ) -> Result<(), WatchEnded> {
        if let Some(InitialEvents::Error(code)) = refused {
            send_line(sender, &json!({"type": "ERROR", "object": status(code, "no initial events")})).await?;
            return Err(WatchEnded);
        }
        let (objects, version) = {
            let inner = self.state.lock();
            (inner.all(inner.store.version, self.format.kind, &self.selector), inner.store.version)
        };
        for object in &objects {
            self.send_change(sender, "ADDED", object).await?;
        }
        self.version = version;
        match refused {
            Some(InitialEvents::Ends) => Err(WatchEnded),
            // Like a server that does not support initial events.
            Some(InitialEvents::NoBookmark) => Ok(()),
            _ => self.bookmark(sender, json!({"k8s.io/initial-events-end": "true"})).await,
        }
    }

    /// Sends the changes since the last call, unless a fault prevents it.
    async fn catch_up(&mut self, sender: &Sender<io::Result<Frame<Bytes>>>) -> Result<(), WatchEnded> {
        if self.state.lock().faults.silent {
            return Ok(());
        }
        if let Some(refused) = self.initial.take() {
            return self.initial(refused, sender).await;
        }
        let (changes, version) = {
            let inner = self.state.lock();
            let is_known = inner.store.has_version(self.version);
            let is_held = inner.faults.held.is_some_and(|label| self.selector.labels.ends_with(label));
            if is_held && self.format.kind.name == "Service" {
                return Ok(());
            }
            let changes = is_known.then(|| inner.store.after(self.version, self.format.kind, &self.selector));
            (changes, inner.store.version)
        };
        let Some(changes) = changes else {
            send_line(sender, &expired()).await?;
            return Err(WatchEnded);
        };
        for change in changes {
            let kind = change["type"].as_str().expect("a change has a type");
            self.send_change(sender, kind, &OutgoingObject::Stored(change["object"].clone())).await?;
        }
        self.version = version;
        Ok(())
    }

    async fn once(
        &mut self,
        fault: Fault,
        sender: &Sender<io::Result<Frame<Bytes>>>,
    ) -> Result<(), WatchEnded> {
        match fault {
            Fault::EndWatches => Err(WatchEnded),
            Fault::CutWatches => {
                let _ = send_bytes(sender, b"{\"type\":\"MODIFIED\",\"object\":{\"meta".to_vec()).await;
                let _ = sender.send(Err(io::Error::other("cut"))).await;
                Err(WatchEnded)
            }
            Fault::Expire => {
                // Also if watches are silent.
                send_line(sender, &expired()).await?;
                Err(WatchEnded)
            }
            Fault::Bookmark => self.bookmark(sender, Value::Null).await,
            Fault::Line(resource, mut text) if resource == self.format.kind.resource => {
                text.push(b'\n');
                send_bytes(sender, text).await
            }
            _ => Ok(()),
        }
    }

    async fn bookmark(
        &self,
        sender: &Sender<io::Result<Frame<Bytes>>>,
        annotations: Value,
    ) -> Result<(), WatchEnded> {
        let metadata = json!({"resourceVersion": self.version.to_string(), "annotations": annotations});
        self.send_change(sender, "BOOKMARK", &OutgoingObject::Stored(json!({"metadata": metadata}))).await
    }
}

fn expired() -> Value {
    json!({"type": "ERROR", "object": status(410, "too old resource version")})
}

async fn send_line(sender: &Sender<io::Result<Frame<Bytes>>>, value: &Value) -> Result<(), WatchEnded> {
    send_bytes(sender, format!("{value}\n").into_bytes()).await
}

async fn send_bytes(sender: &Sender<io::Result<Frame<Bytes>>>, bytes: Vec<u8>) -> Result<(), WatchEnded> {
    sender.send(Ok(Frame::data(bytes.into()))).await.map_err(|_| WatchEnded)
}

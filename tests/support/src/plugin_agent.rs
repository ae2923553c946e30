//! `FakeAgent`: an agent that records its requests, and replies as the test determines.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use agent_ipc::{Connection, Listener, Reply, Request};
use netns_nft::Netns;

/// Returns the reply to a request and the network namespace that came with it.
pub type ReplyFn = dyn Fn(&Request, Option<&Netns>) -> Reply + Send + Sync;

#[derive(Clone, Default)]
pub struct FakeAgent(Arc<Mutex<Vec<Request>>>);

impl FakeAgent {
    /// Listens until the test program ends.
    pub fn start(
        socket: &Path,
        reply: impl Fn(&Request, Option<&Netns>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (agent, listener) = (Self::default(), Listener::bind(socket).expect("listen"));
        let (requests, reply) = (agent.0.clone(), Arc::new(reply));
        thread::spawn(move || {
            while let Ok(connection) = listener.accept() {
                let (requests, reply) = (requests.clone(), reply.clone());
                thread::spawn(move || serve(&connection, &requests, &*reply));
            }
        });
        agent
    }

    /// Returns the requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.0.lock().expect("no thread panics while it holds the lock").clone()
    }
}

fn serve(connection: &Connection, requests: &Mutex<Vec<Request>>, reply: &ReplyFn) {
    let Ok((message, netns)) = connection.receive(Duration::from_secs(10)) else { return };
    let netns = netns.map(|file| Netns::from_fd(file).expect("the network namespace of a pod"));
    requests.lock().expect("no thread panics while it holds the lock").push(message.body.clone());
    // A plugin that was killed takes no reply.
    let _ = connection.reply(&reply(&message.body, netns.as_ref()), None);
}

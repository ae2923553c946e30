//! `Agent`: one that writes down what it is asked, and answers as the test wants.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use agent_ipc::{Connection, Listener, Reply, Request};
use netns_nft::Netns;

/// A request, the network namespace that came along, and the reply.
pub type Answer = dyn Fn(&Request, Option<&Netns>) -> Reply + Send + Sync;

#[derive(Clone, Default)]
pub struct Agent(Arc<Mutex<Vec<Request>>>);

impl Agent {
    /// Listens until the test program ends.
    pub fn start(
        socket: &Path,
        answer: impl Fn(&Request, Option<&Netns>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (agent, listener) = (Self::default(), Listener::bind(socket).expect("listen"));
        let (requests, answer) = (agent.0.clone(), Arc::new(answer));
        thread::spawn(move || {
            while let Ok(connection) = listener.accept() {
                let (requests, answer) = (requests.clone(), answer.clone());
                thread::spawn(move || serve(&connection, &requests, &*answer));
            }
        });
        agent
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.0.lock().expect("nobody panics in between").clone()
    }
}

fn serve(connection: &Connection, requests: &Mutex<Vec<Request>>, answer: &Answer) {
    let Ok((message, netns)) = connection.receive(Duration::from_secs(10)) else { return };
    let netns = netns.map(|file| Netns::from_fd(file).expect("the network namespace of a pod"));
    requests.lock().expect("nobody panics in between").push(message.body.clone());
    // A plugin that was killed takes no reply.
    let _ = connection.reply(&answer(&message.body, netns.as_ref()), None);
}

//! Upgrade and failure of the agent under load: no connection through the node fails, and none breaks.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use test_support::agent::{Agent, TIMEOUT};
use test_support::backend_server::{REPLY_TIMEOUT, try_backend_of};
use test_support::namespace::run;

use crate::node_agent::{NODE_PORT, service, start, with_service};
use crate::node_faults::{count_broken, echo_service, open_connections, serve_echo};
use crate::node_network::{LOCAL_POD, NODE, REMOTE_POD};

/// The desired number of new connections per second; a busy machine achieves fewer.
const RATE: u32 = 2_000;
pub(crate) const THREADS: u32 = 4;
const LONG_CONNECTIONS: usize = 200;
/// The number of connections before and after each event.
const BETWEEN_EVENTS: usize = 2_000;

/// The load: new connections from outside, at a limited rate.
#[derive(Default)]
pub(crate) struct Load {
    is_over: AtomicBool,
    served: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Opens connections until the load is over.
    pub(crate) fn run(&self) {
        let portal = format!("{}:{NODE_PORT}", NODE[0]);
        let (start, mut count) = (Instant::now(), 0);
        while !self.is_over.load(Relaxed) {
            match try_backend_of(&portal, REPLY_TIMEOUT) {
                Ok(_) => drop(self.served.fetch_add(1, Relaxed)),
                Err(error) => self.failures().push(format!("after {:?}: {error}", start.elapsed())),
            }
            count += 1;
            thread::sleep((Duration::from_secs(1) * THREADS / RATE * count).saturating_sub(start.elapsed()));
        }
    }

    /// The number of served connections.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Relaxed)
    }

    pub(crate) fn failures(&self) -> MutexGuard<'_, Vec<String>> {
        self.failures.lock().expect("no client panics")
    }

    /// Waits until this number of further connections was served.
    pub(crate) fn advance(&self, count: usize) {
        let target = self.served.load(Relaxed) + count;
        let deadline = Instant::now() + 3 * TIMEOUT;
        while self.served.load(Relaxed) < target && self.failures().is_empty() {
            assert!(Instant::now() < deadline, "the clients make no progress");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Ends the load when it is dropped, also by a failed assertion.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a Load);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
    }
}

#[test]
fn upgrade_and_kill_of_the_agent_fail_and_break_no_connection() {
    with_service(|network, folder| {
        network.remote.within(|| serve_echo(REMOTE_POD[0], 9090));
        folder.write_manifest("echo.json", &echo_service());
        let old = start(folder, &["--take-over"]);
        let mut open = open_connections(network, LONG_CONNECTIONS);
        let load = Load::default();
        let start_time = Instant::now();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| network.outside.within(|| load.run()));
            }
            let running = StopOnDrop(&load);
            load.advance(BETWEEN_EVENTS);
            let new = start(folder, &["--take-over"]);
            new.wait_until("the new agent has taken over", |agent| agent.log().contains("takeover complete"));
            load.advance(BETWEEN_EVENTS);
            assert!(old.terminate().success());
            assert_eq!(count_broken(&mut open), 0);
            new.kill();
            load.advance(BETWEEN_EVENTS);
            let next = start(folder, &["--take-over"]);
            // The new agent applies changes under load.
            for endpoint in [(LOCAL_POD[0], "n1"), (REMOTE_POD[0], "n2")] {
                folder.write_manifest("web.json", &service(endpoint));
                load.advance(BETWEEN_EVENTS / 4);
            }
            next.kill();
            load.advance(BETWEEN_EVENTS);
            drop(running);
        });
        let served = load.served.load(Relaxed);
        let rate = served as f64 / start_time.elapsed().as_secs_f64();
        println!("{served} connections, {rate:.0} per second");
        assert_eq!(*load.failures(), [""; 0], "of {served} connections");
        assert_eq!(count_broken(&mut open), 0, "of {LONG_CONNECTIONS} connections");
    });
}

#[test]
fn agent_that_was_replaced_no_longer_maintains_the_node() {
    with_service(|network, folder| {
        let flags = ["--take-over", "--audit-interval", "1"];
        let old = start(folder, &flags);
        old.wait_until("the old agent holds the anchor table", |agent| {
            agent.status()["nodePortals"]["anchorError"].is_null()
                && run("nft", &["list", "tables"], "").contains("portico-anchor")
        });
        let new = start(folder, &flags);
        // The old process waits in reserve; it must have released what only one agent can own.
        let owns_anchor = |agent: &Agent| {
            let report = agent.status()["nodePortals"].clone();
            report["programmed"] == true && report["anchorError"].is_null()
        };
        new.wait_until("an audit took place", |agent| agent.log().contains("takeover complete"));
        new.wait_until("the new agent holds the anchor table", owns_anchor);
        new.wait_until("the new agent has the ports of kube-proxy", |agent| {
            agent.log().matches("serving a port of kube-proxy").count() >= 4
        });
        folder.write_manifest("web.json", &service((LOCAL_POD[0], "n1")));
        let portal = format!("{}:{NODE_PORT}", NODE[0]);
        new.wait_until("the new agent follows endpoints", |_| {
            network
                .outside
                .within(|| try_backend_of(&portal, REPLY_TIMEOUT))
                .is_ok_and(|reply| reply.starts_with("local"))
        });
        assert!(old.terminate().success());
    });
}

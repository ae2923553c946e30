//! `watch_table`: reports changes of the node's table by other processes, from notifications of the kernel.

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use netns_nft::{Error, Monitor, NODE_TABLE, Socket, TableChange};
use rustix::event::{PollFd, PollFlags, poll};

/// The time until another attempt after a failure; audits find changes meanwhile.
const RETRY: Duration = Duration::from_secs(10);

/// Starts a thread that calls `on_change` for each change that is not made with `writer`, until it returns false.
///
/// # Errors
/// If the kernel does not notify, or the thread cannot be started.
pub(crate) fn watch_table(
    writer: &Socket,
    on_change: impl Fn(TableChange) -> bool + Send + 'static,
) -> Result<(), Error> {
    let mut monitor = Monitor::open(NODE_TABLE, writer)?;
    let watch = move || {
        loop {
            match next_change(&mut monitor) {
                Ok(change) if !on_change(change) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "failed to read notifications of nf_tables; will retry");
                    thread::sleep(RETRY);
                }
            }
        }
    };
    let spawned = thread::Builder::new().name("node-table".to_owned()).spawn(watch);
    spawned.map(drop).map_err(Error::Open)
}

fn next_change(monitor: &mut Monitor) -> io::Result<TableChange> {
    let fd = monitor.as_fd();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], None)?;
    monitor.next_changes().map(|changes| changes.table).map_err(io::Error::other)
}

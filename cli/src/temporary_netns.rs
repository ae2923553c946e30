//! A network namespace that disappears with the program: checks try there what they must not try on the node.

use std::os::fd::OwnedFd;
use std::thread;

use netns_nft::{Netns, TableState, encode_fresh};
use nix::sched::{CloneFlags, unshare};
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::snapshot::Snapshot;

/// Creates a network namespace.
pub(crate) fn temporary_netns() -> anyhow::Result<Netns> {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok::<_, anyhow::Error>(OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net")?))
    });
    let created =
        thread.join().map_err(|_| anyhow::anyhow!("the thread that created a network namespace panicked"))?;
    let created = created.map_err(|error| error.context("failed to create network namespace"))?;
    Ok(Netns::from_fd(created)?)
}

/// Programs an empty ruleset in a new network namespace and reads it back. Returns the difference, if there is one. The
/// kernel loads the modules that rulesets need.
pub(crate) fn program_and_verify() -> anyhow::Result<Option<String>> {
    let socket = temporary_netns()?.socket()?;
    let no_portals = portals(&Snapshot::new(), &NodeContext::default());
    socket.apply(&encode_fresh(&Ruleset::new(&no_portals, Settings::default())))?;
    Ok(match socket.read_table()? {
        TableState::Intact(_) => None,
        TableState::Missing => Some("no table".to_owned()),
        TableState::Drifted(difference) => Some(difference),
    })
}

//! Checks of the process's capabilities, and whether the kernel accepts a ruleset.

use std::os::fd::OwnedFd;
use std::thread;

use netns_nft::{Netns, TableState, encode_fresh};
use nix::sched::{CloneFlags, unshare};
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::snapshot::Snapshot;

use crate::check::Finding::{self, Fail, Pass};

/// The capabilities that the agent needs: number (linux/capability.h), name, purpose.
const REQUIRED: [(u32, &str, &str); 2] =
    [(12, "CAP_NET_ADMIN", "programs rules"), (21, "CAP_SYS_ADMIN", "enters network namespaces")];

/// Checks that this process has the capabilities that the agent needs.
pub(super) fn capabilities() -> Finding {
    let remedy = "run as root, with these capabilities in the container's securityContext";
    let fail = |problem: String| Fail(problem, remedy.to_owned());
    let path = "/proc/self/status";
    let status = match std::fs::read_to_string(path) {
        Ok(status) => status,
        Err(error) => return fail(format!("failed to read {path}: {error}")),
    };
    let Some(effective) = effective_capabilities(&status) else {
        return fail(format!("no effective capabilities (CapEff) in {path}"));
    };
    let missing: Vec<String> = REQUIRED
        .iter()
        .filter(|(bit, ..)| effective & 1 << bit == 0)
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        Pass(REQUIRED.map(|(_, name, _)| name).join(", "))
    } else {
        fail(format!("missing: {}", missing.join(", ")))
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Checks that the kernel accepts a ruleset, in a temporary network namespace.
pub(super) fn ruleset() -> Finding {
    let remedy = "Linux 5.14 or newer with nf_tables, nft_ct, nft_fib_inet, nft_nat, nft_numgen, nft_redir, nft_reject_inet and nf_conntrack";
    match program_and_verify() {
        Ok(None) => Pass("programmed and read back in a temporary network namespace".to_owned()),
        Ok(Some(difference)) => Fail(
            format!("the table that was read back differs from the programmed one: {difference}"),
            remedy.to_owned(),
        ),
        Err(error) => Fail(format!("{error:#}"), remedy.to_owned()),
    }
}

/// Programs an empty ruleset in a new network namespace and reads it back. Returns the difference, if there is one.
fn program_and_verify() -> anyhow::Result<Option<String>> {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok::<_, anyhow::Error>(OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net")?))
    });
    let created =
        thread.join().map_err(|_| anyhow::anyhow!("the thread that created a network namespace panicked"))?;
    let created = created.map_err(|error| error.context("failed to create network namespace"))?;
    let netns = Netns::from_fd(created)?;
    let socket = netns.socket()?;
    let no_portals = portals(&Snapshot::new(), &NodeContext::default());
    socket.apply(&encode_fresh(&Ruleset::new(&no_portals, Settings::default())))?;
    Ok(match socket.read_table()? {
        TableState::Intact(_) => None,
        TableState::Missing => Some("no table".to_owned()),
        TableState::Drifted(difference) => Some(difference),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_parsed_from_proc_status() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000000201000\n"), Some(0x20_1000));
        assert_eq!(effective_capabilities("CapEff:\tx\n"), None);
    }
}

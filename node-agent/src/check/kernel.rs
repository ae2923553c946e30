//! What this process may do, and whether the kernel takes our rules.

use std::os::fd::OwnedFd;
use std::thread;

use netns_nft::{Found, Netns, encode_fresh};
use nix::sched::{CloneFlags, unshare};
use proxy_core::portal::{Standpoint, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::snapshot::Snapshot;

use crate::check::Finding::{self, Bad, Good};

/// Bits of the effective capabilities (linux/capability.h).
const NEEDED: [(u32, &str, &str); 2] =
    [(12, "CAP_NET_ADMIN", "programs rules"), (21, "CAP_SYS_ADMIN", "enters network namespaces")];

/// Whether this process may do what the agent does.
pub(super) fn capabilities() -> Finding {
    let to_do = "run as root, with these capabilities in the container's securityContext";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(effective) = effective(&status) else {
        return Bad("cannot be read from /proc/self/status".to_owned(), to_do.to_owned());
    };
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(bit, ..)| effective & 1 << bit == 0)
        .map(|(_, name, why)| format!("{name} ({why})"))
        .collect();
    if missing.is_empty() {
        Good(NEEDED.map(|(_, name, _)| name).join(", "))
    } else {
        Bad(format!("missing: {}", missing.join(", ")), to_do.to_owned())
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether the kernel takes our rules, in a network namespace made for this.
pub(super) fn rules() -> Finding {
    let to_do = "Linux 5.14 or newer with nf_tables, nft_nat, nft_numgen, nft_redir, nft_reject_inet and nf_conntrack";
    match tried() {
        Ok(None) => {
            Good("the kernel takes the table and shows it again, in a namespace made for this".to_owned())
        }
        Ok(Some(why)) => Bad(format!("the kernel shows another table than it took: {why}"), to_do.to_owned()),
        Err(error) => Bad(format!("{error:#}"), to_do.to_owned()),
    }
}

fn tried() -> anyhow::Result<Option<String>> {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok::<_, anyhow::Error>(OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net")?))
    });
    let made = made.join().map_err(|_| anyhow::anyhow!("the thread that made a namespace ended early"))?;
    let netns = Netns::from_fd(made.map_err(|error| error.context("make a network namespace"))?)?;
    let socket = netns.socket()?;
    let nothing = portals(&Snapshot::new(), &Standpoint::default());
    socket.apply(&encode_fresh(&Ruleset::new(&nothing, Settings::default())))?;
    Ok(match socket.find()? {
        Found::Table(_) => None,
        Found::Nothing => Some("nothing".to_owned()),
        Found::Other(why) => Some(why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effective_capabilities_are_read_from_the_status() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000201000\n"), Some(0x20_1000));
        assert_eq!(effective("CapEff:\tx\n"), None);
    }
}

//! `LocalPortOverlap`: node ports that the kernel also assigns to local sockets.
//!
//! The kernel assigns a socket without a port one from `ip_local_port_range`. If that is also a node port, clients of
//! the socket reach the service instead, and if it is a health-check port, the agent cannot listen there. The default
//! ranges do not overlap; `ip_local_reserved_ports` excludes ports without changing the range.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

/// The default of the API server's flag `--service-node-port-range`.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
const SYSCTL_DIR: &str = "/proc/sys/net/ipv4";

/// Node ports that the kernel assigns to local sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPortOverlap {
    /// The smallest range that contains all of them.
    pub ports: RangeInclusive<u16>,
}

impl LocalPortOverlap {
    /// Reads the settings of this network namespace. Returns `None` if no port overlaps, or if they cannot be read.
    #[must_use]
    pub fn of_this_node() -> Option<Self> {
        let read = |name: &str| fs::read_to_string(Path::new(SYSCTL_DIR).join(name)).ok();
        Self::new(&read("ip_local_port_range")?, &read("ip_local_reserved_ports").unwrap_or_default())
    }

    /// The overlap of these settings, in the format of the kernel.
    fn new(local: &str, reserved: &str) -> Option<Self> {
        let (first, last) = local.trim().split_once(char::is_whitespace)?;
        let local = first.parse::<u16>().ok()?..=last.trim().parse().ok()?;
        let reserved: Vec<_> = reserved.trim().split(',').filter_map(ports).collect();
        let is_local =
            |port: &u16| local.contains(port) && !reserved.iter().any(|range| range.contains(port));
        let mut overlap = NODE_PORTS.filter(is_local);
        let first = overlap.next()?;
        Some(Self { ports: first..=overlap.next_back().unwrap_or(first) })
    }
}

/// Parses `8080` or `30000-32767`.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(local: &str, reserved: &str) -> Option<RangeInclusive<u16>> {
        LocalPortOverlap::new(local, reserved).map(|overlap| overlap.ports)
    }

    #[test]
    fn default_ranges_do_not_overlap() {
        assert_eq!(overlap("32768\t60999\n", "\n"), None);
    }

    #[test]
    fn local_ports_that_are_node_ports_overlap_unless_they_are_reserved() {
        assert_eq!(overlap("1024\t65535\n", "\n"), Some(30_000..=32_767));
        assert_eq!(overlap("32000\t60999\n", "8080\n"), Some(32_000..=32_767));
        assert_eq!(overlap("1024\t65535\n", "8080,30000-32767\n"), None);
        assert_eq!(overlap("1024\t65535\n", "30000-31999,32767\n"), Some(32_000..=32_766));
    }

    #[test]
    fn unexpected_settings_have_no_overlap() {
        for local in ["", "1024", "a b", "1024 70000"] {
            assert_eq!(overlap(local, ""), None, "{local:?}");
        }
    }
}

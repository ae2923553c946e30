//! The memory limit of the agent's own cgroup: `memory.max` (version 2) or `memory.limit_in_bytes` (version 1).
//!
//! The kernel charges more to this limit than the process itself: the nf_tables objects of every pod that the agent
//! programs, and the sockets of the relay. Limits of parent cgroups apply as well, as far as they are visible.

use std::path::{Path, PathBuf};

/// Version 1 reports "no limit" as the largest multiple of the page size; no real limit is as large.
const UNLIMITED: u64 = 1 << 60;

/// The memory limit of this process in bytes. None: there is no limit, or it cannot be read.
pub(crate) fn memory_limit() -> Option<u64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let files = limit_files(&cgroups, &mounts);
    let read = |file: PathBuf| std::fs::read_to_string(file).ok();
    files.into_iter().filter_map(read).filter_map(|text| limit(&text)).min()
}

/// The files that contain the limits of this process: one for its cgroup, and one for each parent up to the mount
/// point.
fn limit_files(cgroups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for Mount { root, point, file, is_unified } in mounts.lines().filter_map(mount) {
        let Some(path) = cgroups.lines().find_map(|line| own_path(line, is_unified)) else { continue };
        // Without a cgroup namespace, the path starts at the root of the host, and the mount may contain only a part.
        let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        files.extend(below.ancestors().map(|part| Path::new(point).join(part).join(file)));
    }
    files
}

/// A mounted hierarchy that limits memory.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    file: &'static str,
    is_unified: bool,
}

/// One line of /proc/self/mountinfo: `id parent device root point options [optional ..] - type source options`.
fn mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let kind = after.next()?;
    let mut has_memory =
        || after.next_back().is_some_and(|options| options.split(',').any(|option| option == "memory"));
    match kind {
        "cgroup2" => Some(Mount { root, point, file: "memory.max", is_unified: true }),
        "cgroup" if has_memory() => {
            Some(Mount { root, point, file: "memory.limit_in_bytes", is_unified: false })
        }
        _ => None,
    }
}

/// The path of this process in one line of /proc/self/cgroup, `id:controllers:path`, if the line is for the unified
/// hierarchy, or for the hierarchy of version 1 that limits memory.
fn own_path(line: &str, is_unified: bool) -> Option<&str> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let is_match = if is_unified {
        controllers.is_empty()
    } else {
        controllers.split(',').any(|controller| controller == "memory")
    };
    is_match.then_some(path)
}

/// Parses a limit in the kernel's format. None: unlimited.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(cgroups: &str, mounts: &str) -> Vec<String> {
        limit_files(cgroups, mounts).iter().map(|file| file.display().to_string()).collect()
    }

    #[test]
    fn version_2_reads_memory_max_of_the_cgroup_and_its_parents() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
                      31 23 0:27 / /proc rw - proc proc rw\n";
        assert_eq!(
            files("0::/kubepods/pod1/c1\n", mounts),
            [
                "/sys/fs/cgroup/kubepods/pod1/c1/memory.max",
                "/sys/fs/cgroup/kubepods/pod1/memory.max",
                "/sys/fs/cgroup/kubepods/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(files("0::/\n", mounts), ["/sys/fs/cgroup/memory.max"]);
    }

    #[test]
    fn version_1_reads_the_hierarchy_with_the_memory_controller() {
        let cgroups = "9:cpu,cpuacct:/kubepods/a\n8:memory:/kubepods/a\n0::/system\n";
        let mounts = "40 39 0:33 /kubepods/a /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                      41 39 0:34 /kubepods/a /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
        assert_eq!(files(cgroups, mounts), ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]);
        let of_the_host = mounts.replace(" /kubepods/a /sys", " / /sys");
        assert_eq!(
            files(cgroups, &of_the_host),
            [
                "/sys/fs/cgroup/memory/kubepods/a/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/kubepods/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
    }

    #[test]
    fn path_outside_of_the_mount_gives_the_mount_point() {
        let mounts = "30 23 0:26 /a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(files("0::/b\n", mounts), ["/sys/fs/cgroup/memory.max"]);
    }

    #[test]
    fn unlimited_values_are_no_limit() {
        assert_eq!(limit("536870912\n"), Some(512 << 20));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("garbage"), None);
    }
}

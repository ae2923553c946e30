//! `MemoryLimit`: a memory cgroup for a running program, and the peak of its memory.
//!
//! It supports cgroup versions 1 and 2, and requires root. Without root, only the peak of the resident set is available.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A memory cgroup of a running program.
pub struct MemoryLimit {
    /// `None` if the user may not create a cgroup.
    dir: Option<PathBuf>,
    is_v2: bool,
    pid: u32,
}

impl MemoryLimit {
    /// Limits the memory of a running program.
    pub fn new(pid: u32, bytes: usize) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = if is_v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let dir = Path::new(root).join(format!("portico-webhook-{}-{number}", std::process::id()));
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let is_made = fs::create_dir(&dir).is_ok()
            && fs::write(dir.join(limit), bytes.to_string()).is_ok()
            && fs::write(dir.join("cgroup.procs"), pid.to_string()).is_ok();
        if !is_made {
            let _ = fs::remove_dir(&dir);
        }
        Self { dir: is_made.then_some(dir), is_v2, pid }
    }

    /// The peak of the program's memory in bytes, including kernel memory if there is a cgroup.
    pub fn peak(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("the program runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let resident: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
        let name = if self.is_v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        let charged = self.dir.as_ref().map(|dir| number(&dir.join(name)));
        charged.unwrap_or_default().max(resident * 1_024)
    }
}

fn number(path: &Path) -> usize {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    text.trim().parse().expect("a number")
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let Some(dir) = &self.dir else { return };
        // A cgroup that contains a process cannot be removed.
        let parent = dir.parent().expect("a cgroup has a parent");
        let _ = fs::write(parent.join("cgroup.procs"), self.pid.to_string());
        let _ = fs::remove_dir(dir);
    }
}

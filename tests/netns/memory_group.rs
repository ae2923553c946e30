//! `MemoryGroup`: a memory cgroup with a limit, of version 1 or 2, in which a test starts a program.
//!
//! What must not go in here: how much a program may take.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const VERSION_1: &str = "/sys/fs/cgroup/memory";
const VERSION_2: &str = "/sys/fs/cgroup";

/// A memory cgroup, removed with the value; what runs in it must have ended by then.
pub(crate) struct MemoryGroup {
    path: PathBuf,
    is_version_1: bool,
}

impl MemoryGroup {
    /// A cgroup whose processes may take this many bytes.
    pub(crate) fn new(limit: u64) -> Self {
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let is_version_1 = Path::new(VERSION_1).join("memory.limit_in_bytes").exists();
        let parent = Path::new(if is_version_1 { VERSION_1 } else { VERSION_2 });
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("portico-test-{}-{number}", std::process::id()));
        if !is_version_1 {
            // It may be on already, or be the work of whoever made this cgroup.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        fs::create_dir(&path).unwrap_or_else(|why| panic!("create {}: {why}", path.display()));
        let group = Self { path, is_version_1 };
        group.write(if is_version_1 { "memory.limit_in_bytes" } else { "memory.max" }, &limit.to_string());
        group
    }

    /// The words before a program that is to run in it.
    pub(crate) fn enter(&self) -> [String; 4] {
        let procs = self.path.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$@\"", procs.display());
        ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
    }

    /// The most that its processes have taken at once, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let file = if self.is_version_1 { "memory.max_usage_in_bytes" } else { "memory.peak" };
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|why| panic!("read {}: {why}", path.display()));
        text.trim().parse().expect("a number")
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path.join(file);
        fs::write(&path, text).unwrap_or_else(|why| panic!("write {}: {why}", path.display()));
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

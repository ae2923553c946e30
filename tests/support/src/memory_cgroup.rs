//! `MemoryCgroup`: a cgroup with a memory limit, in cgroup version 1 or 2. It requires root.
//!
//! The limit includes kernel memory. The sockets of TCP are included in version 2 only; see `count_tcp`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const V1_HIERARCHY: &str = "/sys/fs/cgroup/memory";
const V2_HIERARCHY: &str = "/sys/fs/cgroup";

/// A memory cgroup, which is removed when the value is dropped. Its processes are moved to its parent then.
#[derive(Debug)]
pub struct MemoryCgroup {
    dir: PathBuf,
    is_v2: bool,
}

impl MemoryCgroup {
    /// Creates a cgroup with this limit, in bytes.
    pub fn new(limit: u64) -> Self {
        Self::create(limit).expect("create a memory cgroup: this test needs root")
    }

    /// Like `new`, but returns the error, such as a missing permission.
    pub fn create(limit: u64) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let is_v2 = Path::new(V2_HIERARCHY).join("cgroup.controllers").exists();
        let root = if is_v2 { V2_HIERARCHY } else { V1_HIERARCHY };
        let dir = Path::new(root).join(format!("portico-{}-{number}", std::process::id()));
        fs::create_dir(&dir)?;
        let cgroup = Self { dir, is_v2 };
        let file = cgroup.by_version("memory.limit_in_bytes", "memory.max");
        fs::write(cgroup.dir.join(file), limit.to_string())?;
        Ok(cgroup)
    }

    /// Moves a running process into the cgroup. Memory that it already uses is not charged to the cgroup.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.procs"), pid.to_string())
    }

    /// A command that executes its last arguments in the cgroup.
    pub fn launcher(&self) -> [String; 4] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.dir.display());
        ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
    }

    /// The peak of the charged memory, in bytes.
    pub fn peak(&self) -> u64 {
        self.number(self.by_version("memory.max_usage_in_bytes", "memory.peak"))
    }

    /// The number of allocations that reached the limit.
    pub fn failures(&self) -> u64 {
        if !self.is_v2 {
            return self.number("memory.failcnt");
        }
        let events = self.read("memory.events");
        let count = events.lines().find_map(|line| line.strip_prefix("max "));
        count.expect("a counter").parse().expect("a number")
    }

    /// The charged memory, in bytes.
    pub fn charged(&self) -> u64 {
        self.number(self.by_version("memory.usage_in_bytes", "memory.current"))
    }

    /// Enables accounting of TCP sockets in version 1.
    pub fn count_tcp(&self) {
        if !self.is_v2 {
            let limit = (1_u64 << 40).to_string();
            fs::write(self.dir.join("memory.kmem.tcp.limit_in_bytes"), limit).expect("count TCP sockets");
        }
    }

    /// The charged memory including TCP sockets, in bytes; see `count_tcp`.
    pub fn charged_with_tcp(&self) -> u64 {
        let tcp = if self.is_v2 { 0 } else { self.number("memory.kmem.tcp.usage_in_bytes") };
        self.charged() + tcp
    }

    fn by_version<'a>(&self, v1: &'a str, v2: &'a str) -> &'a str {
        if self.is_v2 { v2 } else { v1 }
    }

    fn read(&self, file: &str) -> String {
        let path = self.dir.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
    }

    fn number(&self, file: &str) -> u64 {
        self.read(file).trim().parse().expect("a number")
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // A cgroup that contains a process cannot be removed.
        let parent = self.dir.parent().expect("a cgroup has a parent").join("cgroup.procs");
        for pid in fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(&parent, pid);
        }
        let _ = fs::remove_dir(&self.dir);
    }
}

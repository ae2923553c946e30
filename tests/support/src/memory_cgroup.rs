//! `MemoryCgroup`: runs a program with a memory limit that includes kernel memory (cgroup version 1).

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const HIERARCHY: &str = "/sys/fs/cgroup/memory";

/// A memory cgroup, which is removed when the value is dropped.
pub struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// Creates a cgroup with this limit, in bytes.
    pub fn new(limit: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(HIERARCHY).join(format!("portico-{}-{number}", std::process::id()));
        fs::create_dir(&dir).expect("create a memory cgroup: this test needs cgroup version 1 and root");
        let cgroup = Self(dir);
        fs::write(cgroup.0.join("memory.limit_in_bytes"), limit.to_string()).expect("set the limit");
        cgroup
    }

    /// A command that executes its last arguments in the cgroup.
    pub fn starter(&self) -> [String; 4] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
    }

    /// The peak of the charged memory, in bytes.
    pub fn peak(&self) -> u64 {
        self.number("memory.max_usage_in_bytes")
    }

    /// The number of allocations that exceeded the limit.
    pub fn failures(&self) -> u64 {
        self.number("memory.failcnt")
    }

    /// The charged memory, in bytes.
    pub fn charged(&self) -> u64 {
        self.number("memory.usage_in_bytes")
    }

    /// Enables accounting of TCP sockets, which the limit of version 1, unlike that of version 2, does not include.
    pub fn count_tcp(&self) {
        let limit = (1_u64 << 40).to_string();
        fs::write(self.0.join("memory.kmem.tcp.limit_in_bytes"), limit).expect("count TCP sockets");
    }

    /// The charged memory including TCP sockets, in bytes; see `count_tcp`.
    pub fn charged_with_tcp(&self) -> u64 {
        self.charged() + self.number("memory.kmem.tcp.usage_in_bytes")
    }

    fn number(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.0.join(file)).expect("read a counter of the memory cgroup");
        text.trim().parse().expect("a number")
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

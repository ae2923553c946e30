//! `MemoryCgroup`: a memory limit in which a program runs, kernel memory included (cgroup version 1).

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

const HIERARCHY: &str = "/sys/fs/cgroup/memory";

/// A memory cgroup of a test's own, removed with it.
pub struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// One with this limit.
    pub fn new(limit: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(HIERARCHY).join(format!("portico-{}-{number}", std::process::id()));
        fs::create_dir(&folder).expect("make a memory cgroup: this test needs cgroup version 1 and root");
        let cgroup = Self(folder);
        fs::write(cgroup.0.join("memory.limit_in_bytes"), limit.to_string()).expect("set the limit");
        cgroup
    }

    /// What starts a program in it: its arguments end where the program's path follows.
    pub fn starter(&self) -> [String; 4] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
    }

    /// The most that was ever charged to it, in bytes.
    pub fn most(&self) -> u64 {
        self.number("memory.max_usage_in_bytes")
    }

    /// How often something did not fit.
    pub fn failures(&self) -> u64 {
        self.number("memory.failcnt")
    }

    /// What is charged to it now, in bytes.
    pub fn charged(&self) -> u64 {
        self.number("memory.usage_in_bytes")
    }

    /// Has TCP sockets counted, which the limit of version 1 does not cover; that of version 2 does.
    pub fn count_tcp(&self) {
        let limit = (1_u64 << 40).to_string();
        fs::write(self.0.join("memory.kmem.tcp.limit_in_bytes"), limit).expect("count TCP sockets");
    }

    /// What is charged to it now, with what `count_tcp` counts, in bytes.
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

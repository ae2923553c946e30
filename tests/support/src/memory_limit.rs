//! `MemoryLimit`: limits the memory of a running program, and measures its peak.
//!
//! Without root there is no limit, and the peak is that of the resident set.

use crate::memory_cgroup::MemoryCgroup;
use crate::proc_memory::proc_memory_kb;

/// The memory limit of a running program.
pub struct MemoryLimit {
    /// `None` if the user may not create a cgroup.
    cgroup: Option<MemoryCgroup>,
    pid: u32,
}

impl MemoryLimit {
    /// Limits the memory of a running program.
    pub fn new(pid: u32, bytes: u64) -> Self {
        let cgroup = MemoryCgroup::create(bytes).ok().filter(|cgroup| cgroup.add(pid).is_ok());
        Self { cgroup, pid }
    }

    /// The peak of the program's memory in bytes, including kernel memory if there is a cgroup.
    pub fn peak(&self) -> u64 {
        let resident = proc_memory_kb(&format!("/proc/{}/status", self.pid), "VmHWM:") * 1_024.0;
        self.cgroup.as_ref().map_or(0, MemoryCgroup::peak).max(resident as u64)
    }
}

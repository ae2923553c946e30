//! The CPU time of a process, and the CPUs on which it may run.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The unit of times in `/proc/PID/stat` (USER_HZ, proc_pid_stat(5)), in us.
const TICK_US: f64 = 10_000.0;

/// The CPU time that a process has used, in us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuTime {
    pub(crate) user: f64,
    pub(crate) total: f64,
}

impl CpuTime {
    pub(crate) fn of(pid: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
        // The second field is a name in parentheses.
        let (_, fields) = text.rsplit_once(')').expect("a name");
        let field = |number: usize| {
            let text = fields.split_whitespace().nth(number - 3).expect("a field");
            text.parse::<f64>().expect("a number") * TICK_US
        };
        let (user, system) = (field(14), field(15));
        Self { user, total: user + system }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, total: self.total - before.total }
    }
}

/// The CPUs of this thread.
pub(crate) fn own_cpus() -> CpuSet {
    sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread")
}

/// The last of these CPUs.
pub(crate) fn last_of(cpus: &CpuSet) -> CpuSet {
    let last = (0..CpuSet::count()).rev().find(|cpu| cpus.is_set(*cpu).unwrap_or_default());
    let mut set = CpuSet::new();
    set.set(last.expect("a thread has a CPU")).expect("a CPU");
    set
}

/// Moves this thread to these CPUs.
pub(crate) fn pin_thread(cpus: &CpuSet) {
    sched_setaffinity(Pid::from_raw(0), cpus).expect("pin the thread");
}

/// Moves all threads of a process to these CPUs.
pub(crate) fn pin_process(pid: u32, cpus: &CpuSet) {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs") {
        let name = thread.expect("a thread").file_name();
        let id = name.to_str().and_then(|name| name.parse().ok()).expect("a thread ID");
        // The thread may have ended.
        let _ = sched_setaffinity(Pid::from_raw(id), cpus);
    }
}

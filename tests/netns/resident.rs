//! The memory of this process.
//!
//! What must not go in here: how much it may be.

/// What this process holds in memory, in KB.
pub(crate) fn resident_kb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

//! Reads the kernel's figures for the memory of a process or of the machine.

/// One line of `/proc/PID/status` or `/proc/meminfo`, such as `VmRSS:`, in KB.
pub fn proc_memory_kb(file: &str, key: &str) -> f64 {
    let text = std::fs::read_to_string(file).unwrap_or_else(|why| panic!("read {file}: {why}"));
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let line = line.unwrap_or_else(|| panic!("no {key} in {file}"));
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The resident memory of this process, in KB.
pub fn resident_kb() -> f64 {
    proc_memory_kb("/proc/self/status", "VmRSS:")
}

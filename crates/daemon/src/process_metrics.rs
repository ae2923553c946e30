//! `ProcessMetrics`: the values of the standard metrics `process_*` of Prometheus client libraries, from `/proc`.

use std::fs;

/// The unit of CPU times and of the start time in `/proc`, per second. `USER_HZ` is 100 on all architectures that Rust's
/// standard library supports on Linux.
const TICKS_PER_S: f64 = 100.0;

/// Values of this process. A value that cannot be read is absent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ProcessMetrics {
    /// User and system time.
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<f64>,
    /// In seconds since 1970.
    pub(crate) start_time_s: Option<f64>,
    pub(crate) open_fds: Option<f64>,
    /// The soft limit.
    pub(crate) max_fds: Option<f64>,
}

impl ProcessMetrics {
    /// Reads the values. These files are short, and reading them does not wait.
    pub(crate) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let (stat, status) = (text("/proc/self/stat"), text("/proc/self/status"));
        Self {
            cpu_seconds: cpu_seconds(&stat),
            resident_bytes: resident_bytes(&status),
            start_time_s: started_after_boot_s(&stat)
                .and_then(|after_boot| Some(boot_time_s(&text("/proc/stat"))? + after_boot)),
            open_fds: open_fds(),
            max_fds: max_fds(&text("/proc/self/limits")),
        }
    }
}

/// Returns a field of `/proc/self/stat` by its number in proc_pid_stat(5), from 3. The second one is the name in
/// parentheses, which can contain spaces.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_S)
}

fn started_after_boot_s(stat: &str) -> Option<f64> {
    Some(stat_field(stat, 22)? / TICKS_PER_S)
}

fn boot_time_s(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn resident_bytes(status: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024.0)
}

/// Returns the number of open descriptors. Since Linux 6.2 it is the size of the directory; the list of an agent with
/// thousands of relayed connections is long.
fn open_fds() -> Option<f64> {
    let directory = "/proc/self/fd";
    match fs::metadata(directory).ok()?.len() {
        // One entry is the descriptor that reads the directory.
        0 => Some(fs::read_dir(directory).ok()?.count().saturating_sub(1) as f64),
        count => Some(count as f64),
    }
}

fn max_fds(limits: &str) -> Option<f64> {
    let values = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match values.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        soft => soft.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_files_are_found() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 9 0 1234 5 6 7";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(started_after_boot_s(stat), Some(12.34));
        assert_eq!(boot_time_s("cpu 1 2\nbtime 1700000000\nprocesses 7\n"), Some(1_700_000_000.0));
        assert_eq!(resident_bytes("Name:\ta\nVmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(max_fds(limits), Some(1_024.0));
        assert_eq!(max_fds(&limits.replace("1024  ", "unlimited")), Some(f64::INFINITY));
    }

    #[test]
    fn malformed_files_have_no_values() {
        assert_eq!(cpu_seconds("42 (a"), None);
        assert_eq!(resident_bytes("VmRSS: many kB"), None);
        assert_eq!(max_fds(""), None);
    }
}

//! `KernelMemory`: measures the growth of the kernel's memory when network namespaces are programmed.

use test_support::pod::Pod;
use test_support::proc_memory::proc_memory_kb;

/// The measured network namespaces. They are kept until the end, since their deletion in the kernel would disturb the
/// measurement.
#[derive(Default)]
pub(crate) struct KernelMemory(Vec<Pod>);

impl KernelMemory {
    /// Programs this number of network namespaces, and returns the growth of the kernel's memory for each, in KB.
    pub(crate) fn growth_kb(&mut self, namespaces: u16, program: impl Fn(&Pod)) -> f64 {
        let pods: Vec<Pod> = (0..namespaces).map(|_| Pod::new()).collect();
        let before = unreclaimable_kb();
        pods.iter().for_each(program);
        let growth = (unreclaimable_kb() - before) / f64::from(namespaces);
        self.0.extend(pods);
        growth
    }
}

/// The kernel memory that cannot be reclaimed, in KB.
fn unreclaimable_kb() -> f64 {
    ["SUnreclaim:", "Percpu:"].map(|key| proc_memory_kb("/proc/meminfo", key)).iter().sum()
}

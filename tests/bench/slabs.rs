//! `Grown`: measures the growth of the kernel's memory when network namespaces are programmed.

use test_support::kilobytes::kilobytes;
use test_support::pod::Pod;

/// The measured network namespaces. They are kept until the end, since their deletion in the kernel would disturb the
/// measurement.
#[derive(Default)]
pub(crate) struct Grown(Vec<Pod>);

impl Grown {
    /// Programs this number of network namespaces, and returns the growth of the kernel's memory for each, in KB.
    pub(crate) fn by(&mut self, namespaces: u16, program: impl Fn(&Pod)) -> f64 {
        let pods: Vec<Pod> = (0..namespaces).map(|_| Pod::new()).collect();
        let before = slabs();
        pods.iter().for_each(program);
        let grown = (slabs() - before) / f64::from(namespaces);
        self.0.extend(pods);
        grown
    }
}

/// The kernel memory that cannot be reclaimed, in KB.
fn slabs() -> f64 {
    ["SUnreclaim:", "Percpu:"].map(|key| kilobytes("/proc/meminfo", key)).iter().sum()
}

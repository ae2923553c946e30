//! `Grown`: what the kernel's memory grows by when network namespaces are programmed.

use test_support::kilobytes::kilobytes;
use test_support::pod::Pod;

/// Network namespaces that were measured. None goes before the end: the kernel takes namespaces apart beside
/// us, and that would be measured.
#[derive(Default)]
pub(crate) struct Grown(Vec<Pod>);

impl Grown {
    /// Programs so many network namespaces, and says by how much the kernel grew for each, in KB.
    pub(crate) fn by(&mut self, namespaces: u16, program: impl Fn(&Pod)) -> f64 {
        let pods: Vec<Pod> = (0..namespaces).map(|_| Pod::new()).collect();
        let before = slabs();
        pods.iter().for_each(program);
        let grown = (slabs() - before) / f64::from(namespaces);
        self.0.extend(pods);
        grown
    }
}

/// What the kernel holds that it cannot give back, in KB.
fn slabs() -> f64 {
    ["SUnreclaim:", "Percpu:"].map(|key| kilobytes("/proc/meminfo", key)).iter().sum()
}

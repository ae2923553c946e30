//! The cost of DNS in pods: CPU and latency of a name of the cluster, an external name, a change, and memory.
//!
//! The agent is the real program. The peers are CoreDNS, if the environment variable `COREDNS` is the path of the program
//! and `KUBEBUILDER_ASSETS` the directory of etcd and kube-apiserver, Unbound and dnsmasq. They are in a pod of their
//! own, and clients reach them through portals. Servers take turns in each round.

mod change;
mod external;
mod latency;
mod load;
mod memory;
mod node;
mod peers;
mod process;
mod queries;

use bench_report::{Sheet, is_quick};
use test_support::namespace::{in_new_netns, run};

pub(crate) fn bench() {
    let sheet = Sheet::open("dns_speed");
    let in_node = |body: &(dyn Fn() + Sync)| {
        in_new_netns(|| {
            run("ip", &["link", "set", "lo", "up"], "");
            body();
        });
    };
    let (services, rounds, exchanges) = if is_quick() { (1_000, 1, 300) } else { (10_000, 7, 3_000) };
    in_node(&|| {
        let servers = node::Servers::start(services);
        load::measure(&sheet, &servers, rounds);
        latency::measure(&sheet, &servers, rounds, exchanges);
    });
    let walks = if is_quick() { 20 } else { 300 };
    in_node(&|| external::measure(&sheet, walks));
    let (pods, changes) = if is_quick() { (10, 10) } else { (100, 100) };
    in_node(&|| change::measure(&sheet, services, pods, changes));
    in_node(&|| memory::measure_agent(&sheet, services, if is_quick() { 1 } else { 3 }));
    let (pods, rounds) = if is_quick() { (5, 1) } else { (100, 5) };
    in_node(&|| memory::measure_kernel(&sheet, pods, rounds));
}

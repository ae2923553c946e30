//! The benchmarks that need a network namespace: `scripts/bench` starts each in its own process and namespace.
//!
//! usage: cargo bench -p system-tests --features netns --bench bench -- NAME

mod agent_speed;
mod cluster_objects;
mod demand_speed;
mod dns_speed;
mod first_packet;
mod haproxy;
mod http_status;
mod kernel_memory;
mod kube_proxy;
mod kube_proxy_process;
mod node_agent;
mod node_path;
mod node_speed;
mod path;
mod plugin_speed;
mod relay_speed;
mod routed_pod;
mod scaling;

/// The benchmarks by name.
const BENCHMARKS: [(&str, fn()); 10] = [
    ("agent_speed", agent_speed::bench),
    ("demand_speed", demand_speed::bench),
    ("dns_speed", dns_speed::bench),
    ("first_packet", first_packet::bench),
    ("node_path", node_path::bench),
    ("node_speed", node_speed::bench),
    ("path", path::bench),
    ("plugin_speed", plugin_speed::bench),
    ("relay_speed", relay_speed::bench),
    ("scaling", scaling::bench),
];

fn main() {
    // Cargo adds `--bench`.
    let names: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    for name in &names {
        let benchmark = BENCHMARKS.iter().find(|(known, _)| known == name);
        let (_, bench) = benchmark.unwrap_or_else(|| panic!("no benchmark {name}"));
        bench();
    }
    assert!(!names.is_empty(), "name a benchmark: {}", BENCHMARKS.map(|(name, _)| name).join(", "));
}

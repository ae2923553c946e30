//! The memory of DNS: in the agent for the names of a large cluster, and in the kernel for the sockets of a pod.

use std::cell::Cell;

use bench_report::{Sheet, Spread, Verdict};
use serde_json::{Value, json};
use test_support::agent::AgentDir;
use test_support::agent_dns::wait_until_armed;
use test_support::apiserver::ApiServer;
use test_support::pod::Pod;

use super::node::{Dns, add_routes, attach, kube_dns, start_agent};
use crate::agent_speed::memory_mb;
use crate::cluster_objects::{node_port_cluster_ip, service, slice};
use crate::kernel_memory::KernelMemory;

/// The endpoints of a headless service; others have three.
const HEADLESS_ENDPOINTS: usize = 7;

pub(crate) fn measure_agent(sheet: &Sheet, services: usize, rounds: usize) {
    let api = ApiServer::double();
    api.put(kube_dns());
    for index in 0..services {
        if index % 2 == 0 {
            let mut service = service(index);
            service["spec"]["clusterIP"] = json!(node_port_cluster_ip(index));
            api.put(service);
            api.put(slice(index, 0));
        } else {
            api.put(headless_service(index));
            api.put(headless_slice(index));
        }
    }
    let resident = |args: &&[&str]| {
        let dir = AgentDir::new();
        let agent = start_agent(&dir, &api, args);
        if args.contains(&"--dns") {
            let pod = Pod::new();
            add_routes(&pod);
            attach(&agent, "a", &pod, Dns::On);
            wait_until_armed(&agent, 1);
        }
        memory_mb(agent.pid(), "VmRSS:").median
    };
    let arguments: [&[&str]; 2] = [&[], &["--dns"]];
    let took = Spread::in_turns(rounds, &arguments, resident);
    let endpoints = services / 2 * (HEADLESS_ENDPOINTS + 3);
    let title = format!(
        "resident memory of the agent, {services} services, half of them headless, {endpoints} endpoints"
    );
    let table = sheet.rows("memory", &title, "MB");
    table.put("without --dns, which needs no headless services", &took[0], &[]);
    let more = took[1].median - took[0].median;
    table.put("with --dns", &took[1], &[Verdict::at_most("MB more", more, 8.0)]);
}

pub(crate) fn measure_kernel(sheet: &Sheet, pods: u16, rounds: usize) {
    let api = ApiServer::double();
    api.put(kube_dns());
    let dir = AgentDir::new();
    let agent = start_agent(&dir, &api, &["--dns"]);
    let (mut memory, attached, mut served) = (KernelMemory::default(), Cell::new(0), 0);
    let took = Spread::in_turns(rounds, &[Dns::Off, Dns::On], |dns| {
        let end = attached.get() + pods;
        served += if *dns == Dns::On { usize::from(pods) } else { 0 };
        memory.growth_kb(pods, |pod| {
            attached.set(attached.get() + 1);
            add_routes(pod);
            attach(&agent, &format!("p{}", attached.get()), pod, *dns);
            if attached.get() == end {
                wait_until_armed(&agent, served);
            }
        })
    });
    let table =
        sheet.rows("kernel", "the kernel's memory of a pod with two DNS addresses, one of each family", "KB");
    table.put("attached, with portico.dev/dns: off", &took[0], &[]);
    let more = took[1].median - took[0].median;
    table.put("attached", &took[1], &[Verdict::at_most("KB more", more, 20.0)]);
}

fn headless_service(index: usize) -> Value {
    json!({"kind": "Service", "metadata": {"name": format!("s{index}"), "namespace": format!("n{}", index % 100)},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
}

/// The endpoints of a headless service, as of a StatefulSet.
fn headless_slice(index: usize) -> Value {
    let endpoint = |number: usize| {
        json!({"addresses": [format!("10.{}.{}.{}", 128 + number, index / 250, index % 250 + 1)],
            "hostname": format!("s{index}-{number}"), "nodeName": format!("node-{}", (index + number) % 1_000),
            "conditions": {"ready": true}})
    };
    let endpoints: Vec<Value> = (0..HEADLESS_ENDPOINTS).map(endpoint).collect();
    let labels =
        json!({"kubernetes.io/service-name": format!("s{index}"), "service.kubernetes.io/headless": ""});
    json!({"kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": format!("s{index}-a"), "namespace": format!("n{}", index % 100), "labels": labels},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

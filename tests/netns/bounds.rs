//! Limits of the portals that tenants can cause in every pod, with the real agent under a memory limit that includes
//! the kernel's memory.

use std::fmt::Write;

use agent_ipc::{Reply, Request};
use serde_json::Value;
use test_support::agent::{Agent, AgentDir, attachment};
use test_support::backend_server::{backend_of, serve};
use test_support::memory_cgroup::MemoryCgroup;
use test_support::namespace::{in_new_netns, run};
use test_support::pod::Pod;

const RANGE: [&str; 2] = ["--service-cidr", "10.96.0.0/16"];

/// A service of 64 ports and 63 external addresses with 10 endpoints: 4,096 portals and 40,960 backends.
fn large_service(number: usize) -> String {
    let join = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(",");
    let ports = join(&mut (0..64).map(|port| format!(r#"{{"name":"p{port}","port":{}}}"#, 8_000 + port)));
    let addresses = join(&mut (1..64).map(|address| format!(r#""203.0.{number}.{address}""#)));
    let endpoints =
        join(&mut (1..=10).map(|address| format!(r#"{{"addresses":["10.2.{number}.{address}"]}}"#)));
    let namespace = number % 10;
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"hog-{number}","namespace":"tenant-{namespace}"}},
            "spec":{{"clusterIP":"10.96.1.{number}","ports":[{ports}],"externalIPs":[{addresses}]}}}},
           {{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
            "metadata":{{"name":"hog-{number}-1","namespace":"tenant-{namespace}",
              "labels":{{"kubernetes.io/service-name":"hog-{number}"}}}},
            "ports":[{ports}],"endpoints":[{endpoints}]}}"#
    )
}

const HONEST: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"honest"},
      "spec":{"clusterIP":"10.96.0.1","ports":[{"name":"t","port":80}],"externalIPs":["192.0.2.1"]}},
    {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
      "metadata":{"name":"web-1","namespace":"honest","labels":{"kubernetes.io/service-name":"web"}},
      "ports":[{"name":"t","port":8080}],"endpoints":[{"addresses":["10.1.0.1"]}]}"#;

fn manifest_list(items: &[String]) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, items.join(","))
}

/// A pod with the backend of the honest service and a default route.
fn pod_with_backend() -> Pod {
    let pod = Pod::new();
    pod.within(|| serve("honest", "10.1.0.1:8080"));
    pod.ip(&["route", "add", "default", "dev", "lo", "src", "10.1.0.1"]);
    pod
}

fn attach(agent: &Agent, number: usize, pod: &Pod) {
    let reply = agent.request(&Request::Attach(attachment(&format!("pod-{number}"), pod)), Some(pod));
    assert_eq!(reply, Reply::Done, "pod {number} is rejected for lack of memory\n{}", agent.log());
}

/// Returns the numbers of pods in the status that are on demand, and that have full tables.
fn on_demand_and_full_counts(status: &Value) -> (usize, usize) {
    let all = status["attachments"].as_array().expect("a list");
    let on_demand = all.iter().filter(|attachment| attachment["portals"] == "on-demand").count();
    (on_demand, all.len() - on_demand)
}

/// Runs an agent with a hundred large services under a memory limit, and attaches pods. The agent must stay below 90%
/// of the limit and name the rejected portals, and the pods must reach the honest service.
fn attach_under_memory_limit(limit: u64, pods: usize, args: &[&str]) -> Value {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        let hogs: Vec<String> = (1..=100).map(large_service).collect();
        dir.write_manifest("hogs.json", &manifest_list(&hogs));
        dir.write_manifest("honest.json", &manifest_list(&[HONEST.to_owned()]));
        let cgroup = MemoryCgroup::new(limit);
        let manifests = dir.manifests();
        let own = ["--manifests", manifests.to_str().expect("a path"), "--external-addresses", "all"];
        let starter = cgroup.launcher();
        let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
        let agent = Agent::start_through(&dir, &starter, &[&own[..], args].concat());
        agent.wait_until("the agent is synced", |agent| agent.status()["synced"] == true);
        let mut log = format!("without pods: {} MB", cgroup.charged() >> 20);
        let pods: Vec<Pod> = (0..pods).map(|_| pod_with_backend()).collect();
        for (number, pod) in pods.iter().enumerate() {
            attach(&agent, number, pod);
            if (number + 1) % 10 == 0 {
                let _ = write!(log, ", {} pods: {} MB", number + 1, cgroup.charged() >> 20);
            }
        }
        let status = agent.status();
        let most = cgroup.peak();
        let counted = status["memory"]["tables"].as_u64().expect("a number");
        assert!(most < limit / 10 * 9, "{log}; at most {most} of {limit}; tables modelled {counted}");
        assert_eq!(cgroup.failures(), 0, "{log}");
        for pod in [&pods[0], &pods[pods.len() - 1]] {
            for portal in ["10.96.0.1:80", "192.0.2.1:80", "10.96.0.1:80", "192.0.2.1:80"] {
                assert_eq!(pod.within(|| backend_of(portal)), "honest", "{portal}");
            }
        }
        assert!(agent.log().contains("hog-1") && agent.log().contains("service-portals"), "{}", agent.log());
        status
    })
}

#[test]
fn memory_limit_of_the_chart_suffices_for_110_pods_with_100_large_services() {
    let status = attach_under_memory_limit(512 << 20, 110, &RANGE);
    assert_eq!(
        on_demand_and_full_counts(&status),
        (110, 0),
        "a view of more than 2,000 portals is on demand"
    );
    for reason in ["service-portals", "namespace-elements"] {
        assert!(status["refused"][reason].as_u64().expect("a number") > 0, "{reason}: {}", status["refused"]);
    }
}

#[test]
fn pods_over_the_budget_are_on_demand_and_admitted_without_service_ranges() {
    let status = attach_under_memory_limit(256 << 20, 55, &["--portals", "all"]);
    let (on_demand, full) = on_demand_and_full_counts(&status);
    assert!(on_demand > 0 && full > 0, "{on_demand} on demand, {full} with full tables");
    assert!(status["refused"]["table-elements"].as_u64().expect("a number") > 0);
}

#[test]
fn pods_with_full_tables_become_on_demand_when_services_grow() {
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let dir = AgentDir::new();
        dir.write_manifest("honest.json", &manifest_list(&[HONEST.to_owned()]));
        let limit = 192 << 20;
        let cgroup = MemoryCgroup::new(limit);
        let manifests = dir.manifests();
        let own = ["--manifests", manifests.to_str().expect("a path"), "--external-addresses", "all"];
        let starter = cgroup.launcher();
        let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
        let agent = Agent::start_through(&dir, &starter, &[&own[..], &RANGE, &["--portals", "all"]].concat());
        agent.wait_until("the agent is synced", |agent| agent.status()["synced"] == true);
        let pods: Vec<Pod> = (0..32).map(|_| pod_with_backend()).collect();
        pods.iter().enumerate().for_each(|(number, pod)| attach(&agent, number, pod));
        assert_eq!(on_demand_and_full_counts(&agent.status()), (0, 32));
        dir.write_manifest("hogs.json", &manifest_list(&(1..=10).map(large_service).collect::<Vec<_>>()));
        agent.wait_until("some pods are on demand", |agent| on_demand_and_full_counts(&agent.status()).0 > 0);
        agent.wait_until_converged(2);
        assert!(cgroup.peak() < limit / 10 * 9, "{} of {limit}", cgroup.peak());
        for pod in &pods {
            assert_eq!(pod.within(|| backend_of("10.96.0.1:80")), "honest");
        }
    });
}

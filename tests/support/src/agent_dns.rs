//! Pods whose DNS queries a real agent answers: their attachments, and whether they are served.

use agent_ipc::{Attachment, PodDns, PodName};

use crate::agent::{Agent, attachment};
use crate::pod::Pod;

/// An attachment whose DNS configuration is that of dnsPolicy ClusterFirst, with these nameservers.
pub fn dns_attachment(name: &str, pod: &Pod, servers: &[&str]) -> Attachment {
    Attachment {
        pod: Some(PodName { namespace: "default".to_owned(), name: name.to_owned(), uid: String::new() }),
        dns: Some(PodDns {
            servers: servers.iter().map(|server| server.parse().expect("an address")).collect(),
            searches: ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
                .map(str::to_owned)
                .to_vec(),
            options: vec!["ndots:5".to_owned()],
        }),
        ..attachment(name, pod)
    }
}

/// The number of pods whose queries reach the agent.
pub fn armed(agent: &Agent) -> usize {
    let status = agent.status();
    let pods = status["dns"]["pods"].as_array().cloned().unwrap_or_default();
    pods.iter().filter(|pod| pod["armed"] == true && pod["error"].is_null()).count()
}

pub fn wait_until_armed(agent: &Agent, pods: usize) {
    agent.wait_until("the agent answers the pods", |agent| armed(agent) == pods);
}

//! `Recording`: the outcomes of kube-proxy for some snapshots, as a compact text.
//!
//! ```text
//! snapshot 100 default 3f21...                 its number, the profile, and a digest of its objects
//! default/s0                                   a service
//! 10.96.0.1/TCP/80 203.0.113.1/TCP/80          destinations with the same outcomes
//! : outside other-node = 10.1.0.2:8080*        clients, and the outcome
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use proxy_core::digest::digest;
use proxy_core::portal::PortalKey;

use super::node_profile::{NodeProfile, PROFILES};
use super::outcome::PacketOutcome;
use super::probe::{Destinations, Probe, destinations};
use super::random_cluster::RandomCluster;

/// The number of the first recorded snapshot. Each profile has one.
const FIRST_SNAPSHOT: u16 = 100;
/// The number of services in a recorded snapshot.
pub const RECORDED_SERVICES: usize = 12;

/// The recorded outcomes of kube-proxy.
pub struct Recording {
    digests: HashMap<u16, String>,
    outcomes: HashMap<(u16, String), PacketOutcome>,
}

/// Returns the recorded snapshots with their profiles.
pub fn recorded_snapshots() -> impl Iterator<Item = (u16, &'static NodeProfile)> {
    (FIRST_SNAPSHOT..).zip(&PROFILES)
}

/// Returns the part of a recording with the outcomes of a snapshot.
pub fn record(
    snapshot: u16,
    profile: &NodeProfile,
    cluster: &RandomCluster,
    outcome: impl Fn(&Probe) -> PacketOutcome,
) -> String {
    let mut text = format!("snapshot {snapshot} {} {}\n", profile.name, digest_of(cluster));
    for Destinations { service, keys } in destinations(cluster) {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for key in keys {
            groups.entry(outcomes(key, &outcome)).or_default().push(key.to_string());
        }
        writeln!(text, "{service}").expect("write to a text");
        for (outcomes, keys) in groups {
            write!(text, "{}\n{outcomes}", keys.join(" ")).expect("write to a text");
        }
    }
    text
}

/// Returns the outcomes for all clients of a destination.
fn outcomes(key: PortalKey, outcome: &impl Fn(&Probe) -> PacketOutcome) -> String {
    let mut clients: Vec<(String, Vec<&str>)> = Vec::new();
    for probe in Probe::all(key) {
        let outcome = outcome(&probe).to_string();
        match clients.iter_mut().find(|(known, _)| *known == outcome) {
            Some((_, names)) => names.push(probe.client.name),
            None => clients.push((outcome, vec![probe.client.name])),
        }
    }
    clients.into_iter().map(|(outcome, names)| format!(": {} = {outcome}\n", names.join(" "))).collect()
}

fn digest_of(cluster: &RandomCluster) -> String {
    let objects: String = cluster.objects().map(ToString::to_string).collect();
    format!("{:016x}", digest(objects))
}

/// Returns the name of a probe in a recording.
fn name(destination: &str, client: &str) -> String {
    format!("{destination} {client}")
}

impl Recording {
    /// Parses a recording.
    pub fn parse(text: &str) -> Self {
        let mut recording = Self { digests: HashMap::new(), outcomes: HashMap::new() };
        let (mut snapshot, mut destinations): (u16, Vec<&str>) = (0, Vec::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("snapshot ") {
                let parts: Vec<&str> = rest.split(' ').collect();
                snapshot = parts[0].parse().expect("a number");
                recording.digests.insert(snapshot, parts[2].to_owned());
            } else if let Some(rest) = line.strip_prefix(": ") {
                let (clients, outcome) = rest.split_once(" = ").expect("clients and an outcome");
                let outcome =
                    PacketOutcome::parse(outcome).unwrap_or_else(|| panic!("no outcome: {outcome}"));
                for client in clients.split(' ') {
                    for destination in &destinations {
                        recording.outcomes.insert((snapshot, name(destination, client)), outcome.clone());
                    }
                }
            } else {
                destinations = line.split(' ').collect();
            }
        }
        recording
    }

    /// Whether the recording is of the same objects.
    pub fn is_of(&self, snapshot: u16, cluster: &RandomCluster) -> bool {
        self.digests.get(&snapshot) == Some(&digest_of(cluster))
    }

    /// Returns the outcome of a probe.
    pub fn outcome(&self, snapshot: u16, probe: &Probe) -> PacketOutcome {
        let name = name(&probe.destination.to_string(), probe.client.name);
        let outcome = self.outcomes.get(&(snapshot, name));
        outcome.unwrap_or_else(|| panic!("snapshot {snapshot}, {probe}: not recorded")).clone()
    }
}

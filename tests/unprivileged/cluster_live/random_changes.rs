//! Random changes and faults: finally the consumer has the state of the server.
//!
//! The seed is in the message of a failure, so that the run can be repeated.

use std::collections::BTreeMap;

use super::observed_cluster::ObservedCluster;
use test_support::apiserver::{ApiServer, Fault};
use test_support::objects::{OTHER_PROXY, service, slice, with_label};

/// Pseudo-random numbers (xorshift).
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

const NAMES: u64 = 12;

/// The state of the server: for each service its port and whether it has portals, and the endpoints of each slice.
#[derive(Debug, Default, PartialEq)]
struct ServerState {
    services: BTreeMap<String, (u16, bool)>,
    slices: BTreeMap<String, usize>,
}

impl ServerState {
    /// Makes a random change.
    fn change(&mut self, api: &ApiServer, rng: &mut Rng) {
        let number = rng.below(NAMES);
        let (name, port) = (format!("random-{number}"), 1 + rng.below(1000) as u16);
        match rng.below(5) {
            0 => {
                api.delete("Service", "default", &name);
                self.services.remove(&name);
            }
            1 | 2 => {
                let is_own = rng.below(3) > 0;
                let object = service(&name, 6000 + number as u16, port);
                api.put(if is_own { object } else { with_label(object, OTHER_PROXY) });
                self.services.insert(name, (port, is_own));
            }
            3 => {
                api.delete("EndpointSlice", "default", &name);
                self.slices.remove(&name);
            }
            _ => {
                let count = rng.below(4) as usize;
                let addresses = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];
                api.put(slice(&name, &name, &addresses[..count]));
                self.slices.insert(name, count);
            }
        }
    }

    fn observed_by(cluster: &ObservedCluster) -> Self {
        let is_random = |name: &str| name.strip_prefix("random-").is_some();
        let services = cluster.snapshot.services().filter(|service| is_random(&service.key.name));
        let services = services
            .map(|service| (service.key.name.to_string(), (service.ports[0].port, service.has_portals)));
        let names = (0..NAMES).map(|number| format!("random-{number}"));
        let slices = names.filter_map(|name| {
            let key = proxy_core::service::ServiceKey::new("default", name.as_str());
            let slice = cluster.snapshot.slices_of(&key).next()?.endpoints.len();
            Some((name, slice))
        });
        Self { services: services.collect(), slices: slices.collect() }
    }
}

fn random_fault(rng: &mut Rng) -> Fault {
    match rng.below(12) {
        0 => Fault::CutWatches,
        1 => Fault::EndWatches,
        2 => Fault::Expire,
        3 => Fault::Line("services", b"garbage".to_vec()),
        4 => Fault::Line("endpointslices", b"{\"type\":\"ERROR\",\"object\":{\"code\":500}}".to_vec()),
        5 => Fault::Bookmark,
        6 => Fault::Down,
        7 => Fault::Answer(503, None),
        8 => Fault::Deny("services"),
        9 => Fault::GarbageList("endpointslices", "{"),
        10 => Fault::HoldWatches("service.kubernetes.io/service-proxy-name"),
        _ => Fault::SilentWatches,
    }
}

/// Makes random changes without faults, which works with any API server.
pub(crate) fn without_faults(api: &ApiServer) {
    let (mut rng, mut state) = (Rng(7), ServerState::default());
    let mut cluster = ObservedCluster::synced(api);
    for _ in 0..20 {
        for _ in 0..10 {
            state.change(api, &mut rng);
        }
        cluster.until(|cluster| ServerState::observed_by(cluster) == state);
    }
    assert_eq!(cluster.outages, [""; 0]);
}

#[test]
fn random_faults_leave_the_state_of_the_server() {
    for seed in 1..=12 {
        let mut rng = Rng(0x9e37_79b9_7f4a_7c15 ^ (seed << 20));
        let (api, mut state) = (ApiServer::double(), ServerState::default());
        for _ in 0..20 {
            state.change(&api, &mut rng);
        }
        let mut cluster = ObservedCluster::synced(&api);
        for round in 0..15_u16 {
            for _ in 0..rng.below(4) {
                api.fault(random_fault(&mut rng));
                state.change(&api, &mut rng);
            }
            for _ in 0..rng.below(10) {
                state.change(&api, &mut rng);
            }
            api.fault(Fault::Cleared);
            // End silent watches, as their timeout would.
            api.fault(Fault::EndWatches);
            if round % 3 == 0 {
                cluster.until(|cluster| ServerState::observed_by(cluster) == state);
            }
        }
        let probe = service("probe", 99, 7);
        api.put(probe);
        cluster
            .until(|cluster| cluster.port("probe") == Some(7) && ServerState::observed_by(cluster) == state);
        assert!(cluster.recoveries <= cluster.outages.len(), "seed {seed}");
    }
}

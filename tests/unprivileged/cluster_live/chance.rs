//! Random changes and faults: finally the consumer has the state of the server.
//!
//! The seed is in the message of a failure, so that the run can be repeated.

use std::collections::BTreeMap;

use super::seen::Seen;
use test_support::apiserver::{Api, Fault};
use test_support::objects::{OTHER_PROXY, labelled, service, slice};

/// Pseudo-random numbers (xorshift).
struct Chance(u64);

impl Chance {
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
struct World {
    services: BTreeMap<String, (u16, bool)>,
    slices: BTreeMap<String, usize>,
}

impl World {
    /// Makes a random change.
    fn change(&mut self, api: &Api, chance: &mut Chance) {
        let number = chance.below(NAMES);
        let (name, port) = (format!("chance-{number}"), 1 + chance.below(1000) as u16);
        match chance.below(5) {
            0 => {
                api.delete("Service", "default", &name);
                self.services.remove(&name);
            }
            1 | 2 => {
                let is_own = chance.below(3) > 0;
                let object = service(&name, 6000 + number as u16, port);
                api.put(if is_own { object } else { labelled(object, OTHER_PROXY) });
                self.services.insert(name, (port, is_own));
            }
            3 => {
                api.delete("EndpointSlice", "default", &name);
                self.slices.remove(&name);
            }
            _ => {
                let count = chance.below(4) as usize;
                let addresses = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];
                api.put(slice(&name, &name, &addresses[..count]));
                self.slices.insert(name, count);
            }
        }
    }

    fn of(seen: &Seen) -> Self {
        let of_chance = |name: &str| name.strip_prefix("chance-").is_some();
        let services = seen.snapshot.services().filter(|service| of_chance(&service.key.name));
        let services = services
            .map(|service| (service.key.name.to_string(), (service.ports[0].port, service.has_portals)));
        let names = (0..NAMES).map(|number| format!("chance-{number}"));
        let slices = names.filter_map(|name| {
            let key = proxy_core::service::ServiceKey::new("default", name.as_str());
            let slice = seen.snapshot.slices_of(&key).next()?.endpoints.len();
            Some((name, slice))
        });
        Self { services: services.collect(), slices: slices.collect() }
    }
}

fn fault(chance: &mut Chance) -> Fault {
    match chance.below(12) {
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
pub(crate) fn calm(api: &Api) {
    let (mut chance, mut world) = (Chance(7), World::default());
    let mut seen = Seen::synced(api);
    for _ in 0..20 {
        for _ in 0..10 {
            world.change(api, &mut chance);
        }
        seen.until(|seen| World::of(seen) == world);
    }
    assert_eq!(seen.outages, [""; 0]);
}

#[test]
fn random_faults_leave_the_state_of_the_server() {
    for seed in 1..=12 {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15 ^ (seed << 20));
        let (api, mut world) = (Api::double(), World::default());
        for _ in 0..20 {
            world.change(&api, &mut chance);
        }
        let mut seen = Seen::synced(&api);
        for round in 0..15_u16 {
            for _ in 0..chance.below(4) {
                api.fault(fault(&mut chance));
                world.change(&api, &mut chance);
            }
            for _ in 0..chance.below(10) {
                world.change(&api, &mut chance);
            }
            api.fault(Fault::Cleared);
            // End silent watches, as their timeout would.
            api.fault(Fault::EndWatches);
            if round % 3 == 0 {
                seen.until(|seen| World::of(seen) == world);
            }
        }
        let probe = service("probe", 99, 7);
        api.put(probe);
        seen.until(|seen| seen.port("probe") == Some(7) && World::of(seen) == world);
        assert!(seen.recoveries <= seen.outages.len(), "seed {seed}");
    }
}

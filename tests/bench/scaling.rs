//! The growth of the cost of a network namespace with the number of services: the time to program it and to change one
//! endpoint, and the kernel's memory.
//!
//! Services have three endpoints each. The peer is kube-proxy's shape, a chain and an anonymous map for each service,
//! loaded with `nft -f` like kube-proxy, up to 10,000 services since its time grows faster than linearly. Portico's flat
//! maps through `nft -f` separate the effect of the layout from that of the loader. Rounds take turns.

use std::time::Instant;

use crate::kernel_memory::KernelMemory;
use crate::kube_proxy::{kube_proxy_change, kube_proxy_shape};
use bench_report::{Sheet, Spread, Verdict, is_quick};
use netns_nft::{Socket, encode};
use proxy_core::plan::{plan, plan_changed};
use proxy_core::portal::{NodeContext, Portals, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{cluster, cluster_ip, cluster_slice};
use proxy_core::snapshot::{Change, Snapshot};
use test_support::namespace::{in_new_netns, in_routed_netns, load, run};

const ENDPOINTS: u32 = 3;
/// The number of services of the targets; the targets for memory use `FEW`.
const MANY: u32 = 10_000;
const FEW: u32 = 1_000;
const OURS: &str = "portico";
const OURS_AS_TEXT: &str = "portico's maps through nft -f";
const ON_DEMAND: &str = "portico on demand, 20 used";
const PEER: &str = "kube-proxy's shape";

pub(crate) fn bench() {
    let sizes: &[u32] = if is_quick() { &[100, FEW] } else { &[100, FEW, MANY, 50_000] };
    let sheet = Sheet::open("scaling");
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        let clusters: Vec<ScaledCluster> =
            sizes.iter().map(|services| ScaledCluster::new(*services)).collect();
        measure_programming(&sheet, &clusters);
        measure_change(&sheet, &clusters);
        measure_memory(&sheet, &clusters);
    });
}

/// A cluster, and the rules of a pod with all its services.
struct ScaledCluster {
    services: u32,
    snapshot: Snapshot,
    portals: Portals,
    ruleset: Ruleset,
    on_demand: Ruleset,
    peer: String,
}

impl ScaledCluster {
    fn new(services: u32) -> Self {
        let range = Change::ServiceRanges(vec!["10.96.0.0/12".parse().expect("a network")]);
        let snapshot: Snapshot = cluster(services, ENDPOINTS).chain([range]).collect();
        let portals = portals(&snapshot, &NodeContext::default());
        let mut on_demand = Ruleset::new(&portals, Settings { on_demand: true, ..Settings::default() });
        (0..20).for_each(|number| drop(on_demand.activate(&portals, cluster_ip(number * services / 20))));
        let ruleset = Ruleset::new(&portals, Settings::default());
        Self { services, peer: kube_proxy_shape(&portals), snapshot, portals, ruleset, on_demand }
    }

    /// The number of rounds of slow measurements; the peer with many services takes ten seconds per round.
    fn rounds(&self) -> usize {
        match self.services {
            _ if is_quick() => 2,
            MANY => 3,
            _ => 7,
        }
    }

    fn has_peer(&self) -> bool {
        self.services <= MANY
    }

    fn batch(&self) -> netns_nft::Batch {
        encode(&plan(&Ruleset::empty(), &self.ruleset))
    }
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e3
}

fn measure_programming(sheet: &Sheet, clusters: &[ScaledCluster]) {
    let table = sheet.scale("program", "Programming an empty network namespace", "ms", "services");
    for cluster in clusters {
        let (mut netlink, mut text, mut chains) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..cluster.rounds() {
            let apply = || Socket::open().and_then(|socket| socket.apply(&cluster.batch())).expect("apply");
            netlink.push(in_routed_netns(|| milliseconds(apply)));
            text.push(in_routed_netns(|| milliseconds(|| load(&cluster.ruleset.to_string()))));
            if cluster.has_peer() {
                chains.push(in_routed_netns(|| milliseconds(|| load(&cluster.peer))));
            }
        }
        let [netlink, text] = [netlink, text].map(Spread::of);
        let chains = cluster.has_peer().then(|| Spread::of(chains));
        let targets = chains.filter(|_| cluster.services == MANY).map(|chains| {
            [
                Verdict::at_most("ms at 10,000", netlink.median, 120.0),
                Verdict::at_least("times faster than kube-proxy's shape", chains.times(&netlink), 60.0),
            ]
        });
        table.put(OURS, cluster.services, &netlink, targets.as_ref().map_or(&[], |targets| targets));
        table.put(OURS_AS_TEXT, cluster.services, &text, &[]);
        if let Some(chains) = chains {
            table.put(PEER, cluster.services, &chains, &[]);
        }
    }
}

fn measure_change(sheet: &Sheet, clusters: &[ScaledCluster]) {
    let title = "One changed endpoint, from the change to the commit";
    let table = sheet.scale("change", title, "ms", "services");
    for cluster in clusters {
        let netlink = in_routed_netns(|| endpoint_change_times(cluster, if is_quick() { 50 } else { 500 }));
        let target = [Verdict::at_most("ms at 10,000", netlink.median, 1.0)];
        table.put(OURS, cluster.services, &netlink, if cluster.services == MANY { &target } else { &[] });
        if cluster.has_peer() {
            let chains = in_routed_netns(|| {
                load(&cluster.peer);
                let one = |round| milliseconds(|| load(&kube_proxy_change(&cluster.portals, round)));
                Spread::of((0..7).map(one).collect())
            });
            table.put(PEER, cluster.services, &chains, &[]);
        }
    }
}

fn endpoint_change_times(cluster: &ScaledCluster, changes: u32) -> Spread {
    let ScaledCluster { services, snapshot, portals, ruleset, .. } = cluster;
    let socket = Socket::open().expect("open a netfilter socket");
    socket.apply(&cluster.batch()).expect("apply");
    let (mut snapshot, mut portals, mut applied) = (snapshot.clone(), portals.clone(), ruleset.clone());
    let one = |number: u32| {
        // A service that is changed for the second time gets another endpoint.
        let change =
            Change::Slice(cluster_slice(number * 7_919 % services, ENDPOINTS, 1 + number / services % 2));
        milliseconds(|| {
            let changed = snapshot.apply(change);
            let touched = portals.refresh(&snapshot, &NodeContext::default(), &changed);
            let mut desired = applied.clone();
            desired.refresh(&portals, &touched);
            socket.apply(&encode(&plan_changed(&applied, &desired, &touched))).expect("apply");
            applied = desired;
        })
    };
    Spread::of((0..changes).map(one).collect())
}

fn measure_memory(sheet: &Sheet, clusters: &[ScaledCluster]) {
    let table = sheet.scale("memory", "The kernel's memory of one network namespace", "KB", "services");
    let mut kernel_memory = KernelMemory::default();
    for cluster in clusters {
        let (mut ours, mut on_demand, mut peer) = (Vec::new(), Vec::new(), Vec::new());
        let namespaces = if cluster.services <= FEW { 10 } else { 1 };
        for _ in 0..cluster.rounds() {
            ours.push(
                kernel_memory.growth_kb(namespaces, |pod| pod.change(&Ruleset::empty(), &cluster.ruleset)),
            );
            on_demand
                .push(kernel_memory.growth_kb(10, |pod| pod.change(&Ruleset::empty(), &cluster.on_demand)));
            if cluster.has_peer() {
                peer.push(kernel_memory.growth_kb(namespaces, |pod| pod.within(|| load(&cluster.peer))));
            }
        }
        let [ours, on_demand] = [ours, on_demand].map(Spread::of);
        let target = [Verdict::at_most("KB at 1,000", ours.median, 400.0)];
        table.put(OURS, cluster.services, &ours, if cluster.services == FEW { &target } else { &[] });
        table.put(ON_DEMAND, cluster.services, &on_demand, &[]);
        if cluster.has_peer() {
            table.put(PEER, cluster.services, &Spread::of(peer), &[]);
        }
    }
}

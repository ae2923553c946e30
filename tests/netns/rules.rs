//! Rules in a real kernel, with both loaders: a plan produces the same table as a fresh load, and an applied ruleset is
//! read back unchanged.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use netns_nft::{BatchOp, Error, Netns, Socket, TableState, encode};
use proxy_core::address::Family;
use proxy_core::endpoint::EndpointSlice;
use proxy_core::guest::InterfacePattern;
use proxy_core::iptables::Iptables;
use proxy_core::kernel_model::Table;
use proxy_core::plan::{Op, plan};
use proxy_core::portal::{NodeContext, Place, Portals, portals};
use proxy_core::ruleset::node::{NodeEnvironment, NodeRuleset, NodeSettings, PodDetection, node_plan};
use proxy_core::ruleset::{Element, Ruleset, Settings};
use proxy_core::sample::{cluster, cluster_slice, ip, node_context, slice, snapshot, svc};
use proxy_core::service::{Mode, Protocol, Scheduler};
use proxy_core::snapshot::Change;
use test_support::namespace;
use test_support::namespace::{in_routed_netns, listing, load};
use test_support::ruleset_loader::{RulesetLoader, current_table, portals_of, ruleset_of, table_of};

/// Rulesets that differ in everything that a plan can change.
fn sample_rulesets() -> Vec<Ruleset> {
    let many =
        |n: u32, version| cluster(n, 3).chain((0..n).map(move |i| cluster_slice(i, 3, version).into()));
    let range = |net: &str| Change::ServiceRanges(vec![net.parse().expect("a network")]);
    let backends =
        |n: u8| (1..=n).fold(slice("w").tcp("", 80).udp("u", 53), |s, i| s.at(&format!("10.1.0.{i}")));
    let both = |made: EndpointSlice| made.at("10.1.0.9").at("2001:db8:1::1");
    let web = || svc("w").ip("10.99.0.1").ip("2001:db8:96::1").tcp("", 80).udp("u", 53);
    let guarded = |net: &str| web().balanced("192.0.2.1").balanced("2001:db8:2::1").only_from(net);
    let on_demand = |wanted: &[&str], counters| {
        let ranges = ["10.96.0.0/12", "2001:db8:96::/64"].map(|net| net.parse().expect("a network"));
        let portals =
            portals_of([web().into(), both(backends(2)).into(), Change::ServiceRanges(ranges.into())]);
        let settings = Settings { on_demand: true, counters, ..Settings::default() };
        let mut ruleset = Ruleset::new(&portals, settings);
        wanted.iter().for_each(|address| drop(ruleset.activate(&portals, ip(address))));
        ruleset
    };
    let counting = |changes: [Change; 3]| {
        Ruleset::new(&portals_of(changes), Settings { counters: true, ..Settings::default() })
    };
    vec![
        Ruleset::empty(),
        ruleset_of([]),
        ruleset_of([web().into()]),
        ruleset_of([web().into(), backends(3).into()]),
        ruleset_of([web().into(), backends(5).into(), range("10.96.0.0/12")]),
        ruleset_of([web().sticky(60).into(), both(backends(2)).into(), range("2001:db8:96::/64")]),
        ruleset_of([web().sticky(60).into(), both(slice("w").tcp("", 80)).at("10.1.0.2").into()]),
        ruleset_of([guarded("10.0.0.0/8").only_from("192.168.0.0/16").into(), backends(3).into()]),
        ruleset_of([guarded("10.1.0.0/16").only_from("2001:db8::/32").into(), backends(1).into()]),
        ruleset_of([web().mode(Mode::Relay).port(Protocol::Sctp, "s", 9).into(), backends(4).into()]),
        ruleset_of([web().internal_local().into(), backends(3).into()]),
        ruleset_of([guarded("10.0.0.0/8").scheduler(Scheduler::RoundRobin).into(), backends(3).into()]),
        ruleset_of([guarded("10.0.0.0/8").scheduler(Scheduler::RoundRobin).into(), backends(2).into()]),
        ruleset_of(many(30, 0)),
        ruleset_of(many(40, 1)),
        on_demand(&[], false),
        on_demand(&["10.99.0.1", "2001:db8:96::1"], false),
        on_demand(&["10.99.0.1"], false),
        on_demand(&["10.99.0.1", "2001:db8:96::1"], true),
        counting([web().sticky(60).into(), both(backends(2)).into(), range("2001:db8:96::/64")]),
        counting([guarded("10.0.0.0/8").into(), backends(3).into(), range("10.96.0.0/12")]),
        Ruleset::new(&portals_of(many(30, 0)), Settings { nat_priority: -101, ..Settings::default() }),
    ]
}

#[test]
fn plan_produces_the_same_table_as_a_fresh_load() {
    let worlds = sample_rulesets();
    // The kernel sets the size of the affinity map when a rule first adds an element, and keeps it.
    let listing = || {
        let mut entries = listing();
        entries.retain(|entry| !(entry.starts_with("map clients") && entry.ends_with(": size 65535")));
        entries
    };
    let fresh: Vec<_> = worlds
        .iter()
        .map(|world| {
            in_routed_netns(|| {
                load(&world.to_string());
                listing()
            })
        })
        .collect();
    for (from, before) in worlds.iter().enumerate() {
        for (to, after) in worlds.iter().enumerate() {
            let planned = in_routed_netns(|| {
                load(&before.to_string());
                load(&plan(before, after).to_string());
                listing()
            });
            assert_eq!(planned, fresh[to], "from ruleset {from} to ruleset {to}:\n{}", plan(before, after));
        }
    }
}

/// Settings, environments and portals of a node that differ in everything that a plan can change.
fn sample_node_rulesets() -> Vec<(NodeSettings, NodeEnvironment, Portals)> {
    let environment = |addresses: &[&str]| NodeEnvironment {
        addresses: Arc::new(addresses.iter().copied().map(ip).collect()),
        pod_ranges: Arc::new(
            ["10.1.0.0/16", "2001:db8:1::/64"].map(|net| net.parse().expect("a network")).into(),
        ),
        pod_interfaces: Arc::new(
            ["cni0", "veth*"].map(|i| InterfacePattern::parse(i).expect("a name")).into(),
        ),
    };
    let world = |settings, addresses: &[&str], changes: Vec<Change>| {
        let context = NodeContext { place: Place::Node, ..node_context() };
        (settings, environment(addresses), portals(&snapshot(changes), &context))
    };
    let web = || {
        let addressed = svc("w").ip("10.99.0.1").ip("2001:db8:96::1");
        addressed.tcp("", 80).node_port(30080).udp("u", 53).node_port(30053)
    };
    let endpoints = |n: u8| {
        let made = slice("w").tcp("", 80).udp("u", 53).at("2001:db8:1::1").on("n1");
        (1..=n).fold(made, |made, i| made.at(&format!("10.1.0.{i}")).on(if i == 1 { "n1" } else { "n2" }))
    };
    let guarded = || web().balanced("192.0.2.1").balanced("2001:db8:2::1").only_from("10.0.0.0/8");
    let plain = NodeSettings::default();
    let detecting = NodeSettings { loopback_port: 9478, detects_pods: PodDetection::BOTH, ..plain };
    let keeping = NodeSettings { keep_client_address: true, ..detecting };
    let ranges = ["10.99.0.0/16", "2001:db8:96::/64"].map(|net| net.parse().expect("a network"));
    let local = || vec![guarded().external_local().into(), endpoints(4).into()];
    vec![
        world(plain, &[], vec![]),
        world(plain, &["10.240.0.5"], vec![web().into(), endpoints(3).into()]),
        world(plain, &["10.240.0.5", "2001:db8:f::5"], vec![web().sticky(60).into(), endpoints(2).into()]),
        world(plain, &["10.240.0.6"], vec![web().sticky(90).into(), endpoints(3).into()]),
        world(plain, &["10.240.0.5"], [local(), vec![Change::ServiceRanges(ranges.into())]].concat()),
        world(detecting, &["10.240.0.5"], local()),
        world(keeping, &[], vec![web().scheduler(Scheduler::RoundRobin).into(), endpoints(3).into()]),
        world(NodeSettings { masquerade_all: true, ..plain }, &[], vec![web().internal_local().into()]),
    ]
}

#[test]
fn nft_loads_the_table_of_the_node_and_a_plan_produces_the_same_table_as_a_fresh_load() {
    let worlds = sample_node_rulesets();
    for (from, (settings, environment, portals)) in worlds.iter().enumerate() {
        let before = NodeRuleset::new(portals, *settings, environment.clone());
        for (to, (settings, environment, portals)) in worlds.iter().enumerate() {
            let mut after = before.clone();
            let changes = after.refresh_all(portals, environment.clone());
            after.set_settings(*settings);
            let plan = node_plan(&before, &after, &changes);
            let listing_after = |texts: &[String]| {
                in_routed_netns(|| {
                    texts.iter().for_each(|text| load(text));
                    listing()
                })
            };
            let planned = listing_after(&[before.to_string(), plan.to_string()]);
            let fresh = listing_after(&[after.to_string()]);
            assert!(!fresh.is_empty(), "table {to}");
            assert_eq!(planned, fresh, "from table {from} to table {to}:\n{plan}");
        }
    }
}

#[test]
fn applied_ruleset_is_read_back_unchanged() {
    for world in &sample_rulesets() {
        in_routed_netns(|| {
            RulesetLoader::Netlink.program(world);
            assert_eq!(current_table(), Table::from(world));
        });
    }
}

#[test]
fn thousand_services_are_one_transaction_without_privileges() {
    // Without a privilege for its buffer, a socket sends up to about 400 KB at once; this batch is smaller.
    let world = ruleset_of(cluster(1_000, 3));
    in_routed_netns(|| {
        RulesetLoader::Netlink.program(&world);
        assert_eq!(current_table(), Table::from(&world));
    });
}

#[test]
fn socket_belongs_to_the_netns_in_which_it_was_opened() {
    let worlds = sample_rulesets();
    // The file descriptor keeps the other namespace alive after its thread has ended.
    let other = in_routed_netns(|| File::open("/proc/thread-self/ns/net").expect("open the namespace"));
    in_routed_netns(|| {
        let here = Socket::open().expect("open a socket here");
        let other = Netns::from_fd(other.into()).expect("another namespace");
        let there = other.socket().expect("open a socket there");
        there.apply(&encode(&plan(&Ruleset::empty(), &worlds[3]))).expect("apply there");
        assert_eq!(table_of(there.read_table().expect("read the other table")), Table::from(&worlds[3]));
        assert_eq!(here.read_table().expect("read the table here"), TableState::Missing);
        assert!(listing().is_empty());
    });
}

#[test]
fn file_that_is_not_a_netns_is_rejected() {
    let refusal = |path: &str| Netns::open(Path::new(path)).expect_err("no other network namespace");
    assert!(matches!(refusal("/dev/null"), Error::NotNetns));
    assert!(matches!(refusal("/proc/thread-self/ns/mnt"), Error::NotNetns));
    assert!(matches!(refusal("/var/run/netns/missing"), Error::Enter(_)));
}

#[test]
fn netns_of_this_process_is_rejected() {
    let refusal =
        |path: &str| Netns::open(Path::new(path)).expect_err("the network namespace of this process");
    assert!(matches!(refusal("/proc/thread-self/ns/net"), Error::OwnNetns));
    in_routed_netns(|| assert!(matches!(refusal("/proc/thread-self/ns/net"), Error::OwnNetns)));
}

#[test]
fn netns_has_a_unique_identity() {
    let open = || File::open("/proc/thread-self/ns/net").expect("open the namespace").into();
    let [one, other]: [OwnedFd; 2] = [in_routed_netns(open), in_routed_netns(open)];
    let again = one.try_clone().expect("a second descriptor");
    let [one, other, again] = [one, other, again].map(|fd| Netns::from_fd(fd).expect("a namespace").id());
    assert_eq!(one, again);
    assert_ne!(one.cookie, other.cookie);
}

#[test]
fn netlink_and_nft_write_the_same_elements() {
    let elements = |loader: RulesetLoader, world: &Ruleset| {
        in_routed_netns(|| {
            loader.program(world);
            let mut entries = listing();
            entries.retain(|entry| ["map", "set"].iter().any(|kind| entry.starts_with(kind)));
            entries
        })
    };
    for world in &sample_rulesets()[2..] {
        assert_eq!(elements(RulesetLoader::Netlink, world), elements(RulesetLoader::Text, world));
    }
}

#[test]
fn netlink_plan_leads_from_any_ruleset_to_any_other() {
    let worlds = sample_rulesets();
    for before in &worlds {
        for after in &worlds {
            in_routed_netns(|| {
                RulesetLoader::Netlink.program(before);
                RulesetLoader::Netlink.change(before, after);
                assert_eq!(current_table(), Table::from(after), "{}", plan(before, after));
            });
        }
    }
}

#[test]
fn failed_transaction_changes_nothing_and_names_the_operation() {
    let worlds = sample_rulesets();
    let (before, after) = (&worlds[3], &worlds[4]);
    in_routed_netns(|| {
        RulesetLoader::Netlink.program(before);
        let socket = Socket::open().expect("open a netfilter socket");
        let error =
            socket.apply(&encode(&plan(after, before))).expect_err("the plan deletes missing elements");
        assert!(matches!(error, Error::Rejected { op: Some(_), .. }), "{error:?}");
        assert_eq!(current_table(), Table::from(before));
    });
}

#[test]
fn rejection_of_a_large_message_names_the_operation() {
    let world = ruleset_of(cluster(2_000, 3));
    in_routed_netns(|| {
        RulesetLoader::Netlink.program(&world);
        let socket = Socket::open().expect("open a netfilter socket");
        let other = encode(&plan(&ruleset_of([]), &ruleset_of(cluster(2_000, 2))));
        let error = socket.apply(&other).expect_err("the portals exist with another dispatch key");
        assert!(
            matches!(error, Error::Rejected { op: Some(BatchOp::Pod(Op::Add(Element::Portal(..)))), .. }),
            "{error:?}"
        );
        // No reply is left in the socket for the next request.
        assert_eq!(table_of(socket.read_table().expect("read the table")), Table::from(&world));
    });
}

#[test]
fn ruleset_loaded_twice_is_one_table() {
    let world = &sample_rulesets()[6];
    in_routed_netns(|| {
        load(&world.to_string());
        let once = listing();
        load(&world.to_string());
        assert_eq!(listing(), once);
    });
}

#[test]
fn iptables_restore_accepts_the_classic_form() {
    let portals = portals_of([
        svc("w").ip("10.96.0.1").ip("2001:db8:96::1").tcp("", 80).udp("u", 53).external("192.0.2.9").into(),
        slice("w").tcp("", 80).udp("u", 53).at("10.1.0.1").at("10.1.0.2").at("2001:db8:1::1").into(),
        svc("none").ip("10.96.0.2").tcp("", 80).udp("u", 53).into(),
        svc("near").ip("10.96.0.3").tcp("", 80).internal_local().into(),
        slice("near").tcp("", 80).at("10.1.0.1").on("n2").into(),
        svc("lb").ip("10.96.0.4").tcp("", 80).balanced("192.0.2.4").only_from("10.9.0.0/16").into(),
        slice("lb").tcp("", 80).at("10.1.0.1").into(),
        svc("sticky").ip("10.96.0.5").tcp("", 80).sticky(60).into(),
        slice("sticky").tcp("", 80).at("10.1.0.1").at("10.1.0.2").into(),
        svc("relayed").ip("10.96.0.6").tcp("", 80).udp("u", 53).mode(Mode::Relay).into(),
        slice("relayed").tcp("", 80).udp("u", 53).at("10.1.0.1").into(),
    ]);
    in_routed_netns(|| {
        for (family, program) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
            namespace::run(program, &["--test"], &Iptables { portals: &portals, family }.to_string());
        }
    });
}

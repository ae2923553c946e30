//! The complete text of rulesets and plans.
//!
//! System tests load it with a real `nft`, and compare packets in the kernel with `trace`.

use expect_test::expect;

use super::*;
use crate::model::endpoint::EndpointSlice;
use crate::model::service::{Mode, Scheduler, Service};
use crate::model::snapshot::Change;
use crate::routing::portal::portals;
use crate::ruleset::plan::plan;
use crate::sample::{node_context, slice, snapshot, svc};

fn ruleset(changes: impl IntoIterator<Item = Change>) -> Ruleset {
    Ruleset::new(&portals(&snapshot(changes), &node_context()), Settings::default())
}

fn service() -> Service {
    svc("s").ip("10.96.0.1").tcp("", 80)
}

fn endpoints(octets: &[u8]) -> EndpointSlice {
    let slice = slice("s").tcp("", 8080);
    octets.iter().fold(slice, |slice, octet| slice.at(&format!("10.1.0.{octet}")))
}

/// A portal of each action (forward, guarded, with affinity, round robin, reject, drop, relay), and one of IPv6.
fn every_action() -> Vec<Change> {
    let named = |name: &str, address: &str| svc(name).ip(address).tcp("", 80);
    let endpoint = |name: &str| slice(name).tcp("", 8080).at("10.1.0.1").on("n2");
    vec![
        Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap(), "fd00::/112".parse().unwrap()]),
        named("forward", "10.96.0.1").ip("fd00::1").udp("dns", 53).into(),
        slice("forward").tcp("", 8080).at("10.1.0.1").at("10.1.0.2").at("fd01::1").into(),
        named("guarded", "10.96.0.2").balanced("192.0.2.2").only_from("10.2.0.0/16").into(),
        endpoint("guarded").into(),
        named("sticky", "10.96.0.3").sticky(10_800).into(),
        endpoint("sticky").at("10.1.0.2").into(),
        named("drop", "10.96.0.4").internal_local().into(),
        endpoint("drop").into(),
        named("relay", "10.96.0.5").mode(Mode::Relay).into(),
        endpoint("relay").into(),
        named("turn", "10.96.0.6").scheduler(Scheduler::RoundRobin).into(),
        endpoint("turn").at("10.1.0.2").into(),
    ]
}

#[test]
#[allow(clippy::too_many_lines)] // the lines are the text's
fn ruleset_is_rendered_with_a_chain_per_dispatch_key_and_an_element_per_portal() {
    expect![[r#"
        # Replaces the whole table in one transaction.
        table inet portico
        delete table inet portico

        table inet portico {
        	map portals4 {
        		type ipv4_addr . inet_proto . inet_service : mark
        	}

        	map backends4 {
        		type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service
        	}

        	map ids4 {
        		type ipv4_addr . inet_proto . inet_service . mark : mark
        	}

        	map clients4 {
        		type inet_proto . inet_service . ipv4_addr : mark
        		flags dynamic,timeout
        	}

        	set addresses4 {
        		type ipv4_addr
        	}

        	set sources4 {
        		type ipv4_addr . inet_proto . inet_service . ipv4_addr
        		flags interval
        	}

        	set ranges4 {
        		type ipv4_addr
        		flags interval
        	}

        	map portals6 {
        		type ipv6_addr . inet_proto . inet_service : mark
        	}

        	map backends6 {
        		type ipv6_addr . inet_proto . inet_service . mark : ipv6_addr . inet_service
        	}

        	map ids6 {
        		type ipv6_addr . inet_proto . inet_service . mark : mark
        	}

        	map clients6 {
        		type inet_proto . inet_service . ipv6_addr : mark
        		flags dynamic,timeout
        	}

        	set addresses6 {
        		type ipv6_addr
        	}

        	set sources6 {
        		type ipv6_addr . inet_proto . inet_service . ipv6_addr
        		flags interval
        	}

        	set ranges6 {
        		type ipv6_addr
        		flags interval
        	}

        	map current {
        		type nf_proto : verdict
        		elements = { ipv4 : goto refuse-current, ipv6 : goto refuse-current }
        	}

        	map picks {
        		type mark : verdict
        	}

        	set guests {
        		type ifname
        		flags interval
        	}

        	chain anchor {
        		ip daddr 0.0.0.0 tcp dport 1 redirect
        	}

        	chain refuse {
        		meta nfproto vmap @current
        		drop
        	}

        	chain refuse-current {
        		meta l4proto tcp reject with tcp reset
        		reject
        	}

        	chain relay {
        		meta l4proto { tcp, udp } redirect to :15999
        		drop
        	}

        	chain send {
        		meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport . meta mark map @backends4
        		meta l4proto { tcp, udp, sctp } dnat ip6 to ip6 daddr . meta l4proto . th dport . meta mark map @backends6
        	}

        	chain portals {
        		tcp flags & (fin | syn | rst | ack) != syn return
        		meta l4proto { tcp, udp, sctp } meta mark set ip daddr . meta l4proto . th dport map @portals4 meta mark vmap @picks
        		meta l4proto { tcp, udp, sctp } meta mark set ip6 daddr . meta l4proto . th dport map @portals6 meta mark vmap @picks
        		ip daddr @addresses4 goto refuse
        		ip daddr @ranges4 drop
        		ip6 daddr @addresses6 goto refuse
        		ip6 daddr @ranges6 drop
        	}

        	chain output {
        		type nat hook output priority -99; policy accept;
        		oif != lo goto portals
        		tcp dport 15999 fib daddr type local goto refuse
        		udp dport 15999 fib daddr type local goto refuse
        		fib daddr type local return
        		jump portals
        	}

        	chain prerouting {
        		type nat hook prerouting priority -99; policy accept;
        		iifname != @guests return
        		fib daddr type local return
        		jump portals
        	}

        	chain input {
        		type nat hook input priority 100; policy accept;
        		tcp dport 15999 ct status & dnat == 0 drop
        		udp dport 15999 ct status & dnat == 0 drop
        	}
        }

        table inet portico {
        	chain pick-reject {
        		goto refuse
        	}
        }
        add element inet portico picks { 0 : jump pick-reject }

        table inet portico {
        	chain pick-1 {
        		meta mark set numgen random mod 1 goto send
        	}
        }
        add element inet portico picks { 1 : jump pick-1 }

        table inet portico {
        	chain guarded-1 {
        		ip daddr . meta l4proto . th dport . ip saddr != @sources4 drop
        		ip6 daddr . meta l4proto . th dport . ip6 saddr != @sources6 drop
        		meta mark set numgen random mod 1 goto send
        	}
        }
        add element inet portico picks { 16385 : jump guarded-1 }

        table inet portico {
        	chain pick-2 {
        		meta mark set numgen random mod 2 goto send
        	}
        }
        add element inet portico picks { 2 : jump pick-2 }

        table inet portico {
        	chain pick-2-sticky-10800s {
        		meta l4proto { tcp, udp, sctp } meta mark set meta l4proto . th dport . ip daddr map @clients4 update @clients4 { meta l4proto . th dport . ip daddr timeout 10800s : meta mark } jump send
        		meta l4proto { tcp, udp, sctp } delete @clients4 { meta l4proto . th dport . ip daddr : 0 }
        		meta l4proto { tcp, udp, sctp } meta mark set numgen random mod 2 meta mark set ip daddr . meta l4proto . th dport . meta mark map @ids4 update @clients4 { meta l4proto . th dport . ip daddr timeout 10800s : meta mark } goto send
        		meta l4proto { tcp, udp, sctp } meta mark set meta l4proto . th dport . ip6 daddr map @clients6 update @clients6 { meta l4proto . th dport . ip6 daddr timeout 10800s : meta mark } jump send
        		meta l4proto { tcp, udp, sctp } delete @clients6 { meta l4proto . th dport . ip6 daddr : 0 }
        		meta l4proto { tcp, udp, sctp } meta mark set numgen random mod 2 meta mark set ip6 daddr . meta l4proto . th dport . meta mark map @ids6 update @clients6 { meta l4proto . th dport . ip6 daddr timeout 10800s : meta mark } goto send
        	}
        }
        add element inet portico picks { 353894402 : jump pick-2-sticky-10800s }

        table inet portico {
        	chain pick-2-turn-24032 {
        		meta mark set numgen inc mod 2 goto send
        	}
        }
        add element inet portico picks { 3618668546 : jump pick-2-turn-24032 }

        table inet portico {
        	chain pick-relay {
        		goto relay
        	}
        }
        add element inet portico picks { 4294901760 : jump pick-relay }

        table inet portico {
        	chain pick-drop {
        		drop
        	}
        }
        add element inet portico picks { 4294934528 : jump pick-drop }

        add element inet portico portals4 {
        	10.96.0.1 . tcp . 80 : 2,
        	10.96.0.1 . udp . 53 : 0,
        	10.96.0.2 . tcp . 80 : 1,
        	10.96.0.3 . tcp . 80 : 353894402,
        	10.96.0.4 . tcp . 80 : 4294934528,
        	10.96.0.5 . tcp . 80 : 4294901760,
        	10.96.0.6 . tcp . 80 : 3618668546,
        	192.0.2.2 . tcp . 80 : 16385
        }
        add element inet portico portals6 {
        	fd00::1 . tcp . 80 : 1,
        	fd00::1 . udp . 53 : 0
        }
        add element inet portico backends4 {
        	10.96.0.1 . tcp . 80 . 0 : 10.1.0.1 . 8080,
        	10.96.0.1 . tcp . 80 . 1 : 10.1.0.2 . 8080,
        	10.96.0.2 . tcp . 80 . 0 : 10.1.0.1 . 8080,
        	10.96.0.3 . tcp . 80 . 803885521 : 10.1.0.1 . 8080,
        	10.96.0.3 . tcp . 80 . 2314341835 : 10.1.0.2 . 8080,
        	10.96.0.6 . tcp . 80 . 0 : 10.1.0.1 . 8080,
        	10.96.0.6 . tcp . 80 . 1 : 10.1.0.2 . 8080,
        	192.0.2.2 . tcp . 80 . 0 : 10.1.0.1 . 8080
        }
        add element inet portico backends6 {
        	fd00::1 . tcp . 80 . 0 : fd01::1 . 8080
        }
        add element inet portico ids4 {
        	10.96.0.3 . tcp . 80 . 0 : 803885521,
        	10.96.0.3 . tcp . 80 . 1 : 2314341835
        }
        add element inet portico addresses4 {
        	10.96.0.1,
        	10.96.0.2,
        	10.96.0.3,
        	10.96.0.4,
        	10.96.0.5,
        	10.96.0.6
        }
        add element inet portico addresses6 {
        	fd00::1
        }
        add element inet portico sources4 {
        	192.0.2.2 . tcp . 80 . 10.2.0.0/16
        }
        add element inet portico ranges4 {
        	10.96.0.0/16
        }
        add element inet portico ranges6 {
        	fd00::/112
        }
    "#]].assert_eq(&ruleset(every_action()).to_string());
}

#[test]
fn empty_ruleset_is_rendered_as_a_comment() {
    expect![[r#"
        # no table
    "#]]
    .assert_eq(&Ruleset::empty().to_string());
}

#[test]
fn on_demand_table_counts_portals_and_relays_unmatched_addresses() {
    let text = |on_demand| {
        let settings = Settings { on_demand, ..Settings::default() };
        Ruleset::new(&portals(&snapshot([]), &node_context()), settings).to_string()
    };
    let (full, on_demand) = (text(false), text(true));
    let words = ["type ipv4_addr . inet_proto . inet_service : mark\n\t\tcounter\n", "@ranges6 goto relay"];
    for words in words {
        assert!(on_demand.contains(words) && !full.contains(words), "{words}: {on_demand}");
    }
    assert!(full.contains("@ranges6 drop"), "{full}");
}

#[test]
fn counters_are_only_on_portals_and_backends() {
    for on_demand in [false, true] {
        let settings = Settings { on_demand, counters: true, ..Settings::default() };
        let text = Ruleset::new(&portals(&snapshot([]), &node_context()), settings).to_string();
        for address in ["ipv4_addr", "ipv6_addr"] {
            let portal = format!("type {address} . inet_proto . inet_service");
            assert!(text.contains(&format!("{portal} : mark\n\t\tcounter\n")), "{text}");
            let backend = format!("{portal} . mark : {address} . inet_service\n\t\tcounter\n");
            assert!(text.contains(&backend), "{text}");
        }
        assert_eq!(text.matches("counter").count(), 4, "{text}");
    }
}

#[test]
fn rendered_table_contains_the_settings() {
    let settings = Settings { nat_priority: -150, relay_port: 12_345, on_demand: false, counters: false };
    let text = Ruleset::new(&portals(&snapshot([]), &node_context()), settings).to_string();
    assert!(text.contains("type nat hook output priority -150; policy accept;"), "{text}");
    assert!(text.contains("redirect to :12345"), "{text}");
}

#[test]
fn changed_endpoint_is_rendered_as_two_commands() {
    let (before, after) = ([service().into(), endpoints(&[1, 2, 3]).into()], endpoints(&[1, 3, 9]));
    let mut snapshot = snapshot(before);
    let mut portals = portals(&snapshot, &node_context());
    let applied = Ruleset::new(&portals, Settings::default());
    let mut desired = applied.clone();
    let changed = snapshot.apply(after.into());
    let touched = portals.refresh(&snapshot, &node_context(), &changed);
    desired.refresh(&portals, &touched);
    expect![[r#"
        delete element inet portico backends4 {
        	10.96.0.1 . tcp . 80 . 1 : 10.1.0.2 . 8080
        }
        add element inet portico backends4 {
        	10.96.0.1 . tcp . 80 . 1 : 10.1.0.9 . 8080
        }
    "#]]
    .assert_eq(&plan(&applied, &desired).to_string());
}

#[test]
fn new_backend_count_is_rendered_as_a_new_chain() {
    let applied = ruleset([service().into(), endpoints(&[1]).into()]);
    let desired = ruleset([service().into(), endpoints(&[1, 2]).into()]);
    expect![[r#"
        table inet portico {
        	chain pick-2 {
        		meta mark set numgen random mod 2 goto send
        	}
        }
        add element inet portico picks { 2 : jump pick-2 }

        delete element inet portico portals4 {
        	10.96.0.1 . tcp . 80 : 1
        }
        add element inet portico portals4 {
        	10.96.0.1 . tcp . 80 : 2
        }
        add element inet portico backends4 {
        	10.96.0.1 . tcp . 80 . 1 : 10.1.0.2 . 8080
        }
        delete element inet portico picks { 1 : jump pick-1 }
        delete chain inet portico pick-1
    "#]]
    .assert_eq(&plan(&applied, &desired).to_string());
}

#[test]
fn last_portal_is_deleted_with_its_chain_but_not_the_table() {
    let applied = ruleset([service().ip("fd00::1").into(), endpoints(&[1]).into()]);
    expect![[r#"
        delete element inet portico portals4 {
        	10.96.0.1 . tcp . 80 : 1
        }
        delete element inet portico portals6 {
        	fd00::1 . tcp . 80 : 0
        }
        delete element inet portico backends4 {
        	10.96.0.1 . tcp . 80 . 0 : 10.1.0.1 . 8080
        }
        delete element inet portico addresses4 {
        	10.96.0.1
        }
        delete element inet portico addresses6 {
        	fd00::1
        }
        delete element inet portico picks { 0 : jump pick-reject }
        delete chain inet portico pick-reject
        delete element inet portico picks { 1 : jump pick-1 }
        delete chain inet portico pick-1
    "#]]
    .assert_eq(&plan(&applied, &ruleset([])).to_string());
}

#[test]
fn deletion_of_the_table_is_rendered_as_one_command() {
    expect![[r#"
        delete table inet portico
    "#]]
    .assert_eq(&plan(&ruleset([service().into()]), &Ruleset::empty()).to_string());
}

#[test]
fn changed_sources_and_ranges_are_rendered_in_their_sets() {
    let guarded = |range| service().balanced("192.0.2.2").only_from(range);
    let ranges = |text: &str| Change::ServiceRanges(vec![text.parse().unwrap()]);
    let applied = ruleset([ranges("10.96.0.0/16"), guarded("10.2.0.0/16").into()]);
    let desired = ruleset([ranges("10.96.0.0/12"), guarded("10.2.0.0/24").into()]);
    expect![[r#"
        delete element inet portico sources4 {
        	192.0.2.2 . tcp . 80 . 10.2.0.0/16
        }
        delete element inet portico ranges4 {
        	10.96.0.0/16
        }
        add element inet portico sources4 {
        	192.0.2.2 . tcp . 80 . 10.2.0.0/24
        }
        add element inet portico ranges4 {
        	10.96.0.0/12
        }
    "#]]
    .assert_eq(&plan(&applied, &desired).to_string());
}

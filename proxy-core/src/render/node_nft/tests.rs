//! The complete text of a node's table, and of a plan.
//!
//! System tests load it with a real `nft`.

use std::sync::Arc;

use expect_test::expect;

use super::*;
use crate::model::guest::InterfacePattern;
use crate::model::service::{Scheduler, Service};
use crate::model::snapshot::Change;
use crate::routing::portal::{NodeContext, Place, portals};
use crate::ruleset::node::NodeEnvironment;
use crate::sample::{ip, node_context, slice, snapshot, svc};

const EVERYTHING: NodeSettings = NodeSettings {
    nat_priority: -101,
    loopback_port: 9478,
    detects_pods: PodDetection::BOTH,
    masquerade_all: false,
    keep_client_address: true,
};

fn environment() -> NodeEnvironment {
    NodeEnvironment {
        addresses: Arc::new([ip("10.240.0.5"), ip("2001:db8:f::5")].into()),
        pod_ranges: Arc::new(["10.1.0.0/16".parse().expect("a CIDR")].into()),
        pod_interfaces: Arc::new([InterfacePattern::parse("veth*").expect("a pattern")].into()),
    }
}

fn ruleset(changes: impl IntoIterator<Item = Change>, settings: NodeSettings) -> NodeRuleset {
    let context = NodeContext { place: Place::Node, ..node_context() };
    NodeRuleset::new(&portals(&snapshot(changes), &context), settings, environment())
}

fn web() -> Service {
    svc("web").ip("10.96.0.1").tcp("", 80).node_port(30080)
}

/// A frontend of each action, with an address of each kind, and one of IPv6.
fn every_action() -> Vec<Change> {
    let endpoint = |name: &str| slice(name).tcp("", 8080).at("10.1.0.1").on("n1");
    vec![
        Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a CIDR")]),
        web().ip("fd00::1").balanced("192.0.2.1").only_from("198.51.100.0/24").external_local().into(),
        endpoint("web").at("10.1.0.2").at("fd01::1").into(),
        svc("empty").ip("10.96.0.2").tcp("", 80).into(),
        svc("drop").ip("10.96.0.3").tcp("", 80).internal_local().into(),
        slice("drop").tcp("", 8080).at("10.1.0.2").on("n2").into(),
        svc("sticky").ip("10.96.0.4").tcp("", 80).sticky(10_800).into(),
        endpoint("sticky").into(),
        svc("turn").ip("10.96.0.5").tcp("", 80).scheduler(Scheduler::RoundRobin).into(),
        endpoint("turn").at("10.1.0.2").into(),
    ]
}

#[test]
#[allow(clippy::too_many_lines)] // the lines are the text's
fn table_of_the_node_is_rendered_with_flat_maps_and_a_chain_per_number_of_backends() {
    expect![[r##"
        # Replaces the whole table in one transaction.
        table inet portico-node
        delete table inet portico-node

        table inet portico-node {
        	map services4 {
        		type ipv4_addr . inet_proto . inet_service : mark
        	}

        	map short4 {
        		type ipv4_addr . inet_proto . inet_service : mark
        	}

        	map nodeports4 {
        		type inet_proto . inet_service : mark
        	}

        	map shortports4 {
        		type inet_proto . inet_service : mark
        	}

        	map backends4 {
        		type mark . classid : ipv4_addr . inet_service
        	}

        	map ids4 {
        		type mark . classid : classid
        	}

        	set sources4 {
        		type ipv4_addr . inet_proto . inet_service . ipv4_addr
        		flags interval
        	}

        	set addresses4 {
        		type ipv4_addr
        	}

        	set node-addresses4 {
        		type ipv4_addr
        	}

        	set local-endpoints4 {
        		type ipv4_addr
        	}

        	set ranges4 {
        		type ipv4_addr
        		flags interval
        	}

        	set pods4 {
        		type ipv4_addr
        		flags interval
        	}

        	set hairpin4 {
        		type ipv4_addr . ipv4_addr
        	}

        	map services6 {
        		type ipv6_addr . inet_proto . inet_service : mark
        	}

        	map short6 {
        		type ipv6_addr . inet_proto . inet_service : mark
        	}

        	map nodeports6 {
        		type inet_proto . inet_service : mark
        	}

        	map shortports6 {
        		type inet_proto . inet_service : mark
        	}

        	map backends6 {
        		type mark . classid : ipv6_addr . inet_service
        	}

        	map ids6 {
        		type mark . classid : classid
        	}

        	set sources6 {
        		type ipv6_addr . inet_proto . inet_service . ipv6_addr
        		flags interval
        	}

        	set addresses6 {
        		type ipv6_addr
        	}

        	set node-addresses6 {
        		type ipv6_addr
        	}

        	set local-endpoints6 {
        		type ipv6_addr
        	}

        	set ranges6 {
        		type ipv6_addr
        		flags interval
        	}

        	set pods6 {
        		type ipv6_addr
        		flags interval
        	}

        	set hairpin6 {
        		type ipv6_addr . ipv6_addr
        	}

        	map current {
        		type nf_proto : verdict
        		elements = { ipv4 : goto refuse-current, ipv6 : goto refuse-current }
        	}

        	map picks {
        		type mark : verdict
        		elements = {
        			0x0 : goto refuse,
        			0xffe : goto own,
        			0xfff : drop,
        		}
        	}

        	map codes {
        		type mark : verdict
        		elements = {
        			0x0 : goto refuse,
        			0x1000 : goto flagged,
        			0x2000 : goto flagged,
        			0x3000 : goto flagged,
        			0xffe : goto own,
        			0x1ffe : goto flagged,
        			0x2ffe : goto flagged,
        			0x3ffe : goto flagged,
        			0xfff : drop,
        			0x1fff : goto flagged,
        			0x2fff : goto flagged,
        			0x3fff : goto flagged,
        		}
        	}

        	map own {
        		type mark : verdict
        	}

        	set pod-interfaces {
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

        	chain send {
        		meta l4proto { tcp, udp, sctp } dnat ip to meta mark . meta priority map @backends4
        		meta l4proto { tcp, udp, sctp } dnat ip6 to meta mark . meta priority map @backends6
        	}

        	chain own {
        		meta mark set meta mark and 0xffffc000 meta mark vmap @own
        	}

        	chain short {
        		meta l4proto { tcp, udp, sctp } meta mark set ip daddr . meta l4proto . th dport map @short4 meta mark and 0x00000fff vmap @picks
        		meta l4proto { tcp, udp, sctp } meta nfproto ipv4 meta mark set meta l4proto . th dport map @shortports4 meta mark and 0x00000fff vmap @picks
        		meta l4proto { tcp, udp, sctp } meta mark set ip6 daddr . meta l4proto . th dport map @short6 meta mark and 0x00000fff vmap @picks
        		meta l4proto { tcp, udp, sctp } meta nfproto ipv6 meta mark set meta l4proto . th dport map @shortports6 meta mark and 0x00000fff vmap @picks
        	}

        	chain by-client {
        		iif 0 goto short
        		ip saddr @pods4 goto short
        		ip6 saddr @pods6 goto short
        		iifname @pod-interfaces goto short
        	}

        	chain flagged {
        		meta mark & 0x00002000 != 0 ip daddr . meta l4proto . th dport . ip saddr != @sources4 drop
        		meta mark & 0x00002000 != 0 ip6 daddr . meta l4proto . th dport . ip6 saddr != @sources6 drop
        		meta mark & 0x00001000 != 0 jump by-client
        		meta mark and 0x00000fff vmap @picks
        	}

        	chain services {
        		meta l4proto { tcp, udp, sctp } meta mark set ip daddr . meta l4proto . th dport map @services4 meta mark and 0x00003fff vmap @codes
        		meta l4proto { tcp, udp, sctp } ip daddr @node-addresses4 meta mark set meta l4proto . th dport map @nodeports4 meta mark and 0x00003fff vmap @codes
        		ip daddr @addresses4 goto refuse
        		ip daddr @ranges4 drop
        		meta l4proto { tcp, udp, sctp } meta mark set ip6 daddr . meta l4proto . th dport map @services6 meta mark and 0x00003fff vmap @codes
        		meta l4proto { tcp, udp, sctp } ip6 daddr @node-addresses6 meta mark set meta l4proto . th dport map @nodeports6 meta mark and 0x00003fff vmap @codes
        		ip6 daddr @addresses6 goto refuse
        		ip6 daddr @ranges6 drop
        	}

        	chain prerouting {
        		type nat hook prerouting priority -101; policy accept;
        		jump services
        	}

        	chain output {
        		type nat hook output priority -101; policy accept;
        		jump services
        		meta l4proto tcp ip daddr 127.0.0.0/8 meta l4proto . th dport @nodeports4 redirect to :9478
        		meta l4proto tcp ip6 daddr ::1 meta l4proto . th dport @nodeports6 redirect to :9478
        	}

        	chain internal {
        		meta mark set 0 meta priority set none
        		ip saddr . ip daddr @hairpin4 masquerade fully-random
        		ip6 saddr . ip6 daddr @hairpin6 masquerade fully-random
        		ip saddr @pods4 return
        		ip6 saddr @pods6 return
        		iifname @pod-interfaces return
        		meta nfproto ipv4 masquerade fully-random
        		meta nfproto ipv6 masquerade fully-random
        	}

        	chain local-policy {
        		meta mark set 0 meta priority set none
        		ip saddr . ip daddr @hairpin4 masquerade fully-random
        		ip6 saddr . ip6 daddr @hairpin6 masquerade fully-random
        		ip saddr @pods4 return
        		ip6 saddr @pods6 return
        		iifname @pod-interfaces return
        		fib saddr type local masquerade fully-random
        	}

        	chain external {
        		meta mark & 0x00001000 != 0 goto local-policy
        		meta mark set 0 meta priority set none
        		ip saddr . ip daddr @hairpin4 masquerade fully-random
        		ip6 saddr . ip6 daddr @hairpin6 masquerade fully-random
        		ip daddr @local-endpoints4 return
        		ip6 daddr @local-endpoints6 return
        		masquerade fully-random
        	}

        	chain at-address {
        		ct original ip daddr @addresses4 goto internal
        		ct original ip6 daddr @addresses6 goto internal
        		goto external
        	}

        	chain postrouting {
        		type nat hook postrouting priority 99; policy accept;
        		ct status & dnat == 0 return
        		oif lo return
        		meta l4proto { tcp, udp, sctp } meta mark set ct original ip daddr . meta l4proto . ct original proto-dst map @services4 goto at-address
        		meta l4proto { tcp, udp, sctp } ct original ip daddr @node-addresses4 meta mark set meta l4proto . ct original proto-dst map @nodeports4 goto external
        		meta l4proto { tcp, udp, sctp } meta mark set ct original ip6 daddr . meta l4proto . ct original proto-dst map @services6 goto at-address
        		meta l4proto { tcp, udp, sctp } ct original ip6 daddr @node-addresses6 meta mark set meta l4proto . ct original proto-dst map @nodeports6 goto external
        	}
        }

        table inet portico-node {
        	map clients4-17611 {
        		typeof ip saddr : meta priority
        		flags dynamic,timeout
        	}
        }

        table inet portico-node {
        	chain pick-1 {
        		meta mark set meta mark and 0xffffc000 meta priority set numgen random mod 1 goto send
        	}
        }

        table inet portico-node {
        	chain pick-2 {
        		meta mark set meta mark and 0xffffc000 meta priority set numgen random mod 2 goto send
        	}
        }

        table inet portico-node {
        	chain own4-17611-1-sticky-10800s {
        		meta priority set ip saddr map @clients4-17611 update @clients4-17611 { ip saddr timeout 10800s : meta priority } jump send
        		delete @clients4-17611 { ip saddr : none }
        		meta priority set numgen random mod 1 meta priority set meta mark . meta priority map @ids4
        		update @clients4-17611 { ip saddr timeout 10800s : meta priority }
        		goto send
        	}
        }

        table inet portico-node {
        	chain own4-252259-2-turn {
        		meta priority set numgen inc mod 2 goto send
        	}
        }

        add element inet portico-node picks {
        	0x1 : goto pick-1,
        	0x2 : goto pick-2
        }
        add element inet portico-node codes {
        	0x1 : goto pick-1,
        	0x2 : goto pick-2,
        	0x1001 : goto flagged,
        	0x1002 : goto flagged,
        	0x2001 : goto flagged,
        	0x2002 : goto flagged,
        	0x3001 : goto flagged,
        	0x3002 : goto flagged
        }
        add element inet portico-node own {
        	0x1132c000 : goto own4-17611-1-sticky-10800s,
        	0xf658c000 : goto own4-252259-2-turn
        }
        add element inet portico-node nodeports4 {
        	tcp . 30080 : 0xb8159001
        }
        add element inet portico-node services4 {
        	10.96.0.1 . tcp . 80 : 0xd17d8002,
        	10.96.0.2 . tcp . 80 : 0x00000000,
        	10.96.0.3 . tcp . 80 : 0x00000fff,
        	10.96.0.4 . tcp . 80 : 0x1132cffe,
        	10.96.0.5 . tcp . 80 : 0xf658cffe,
        	192.0.2.1 . tcp . 80 : 0xb815b001
        }
        add element inet portico-node nodeports6 {
        	tcp . 30080 : 0x00001fff
        }
        add element inet portico-node services6 {
        	fd00::1 . tcp . 80 : 0x77038001
        }
        add element inet portico-node shortports4 {
        	tcp . 30080 : 0xd17d8002
        }
        add element inet portico-node short4 {
        	192.0.2.1 . tcp . 80 : 0xd17d8002
        }
        add element inet portico-node shortports6 {
        	tcp . 30080 : 0x77038001
        }
        add element inet portico-node backends4 {
        	0x1132c000 . 0x2fea51d1 : 10.1.0.1 . 8080
        }
        add element inet portico-node backends6 {
        	0x77038000 . 0x0 : fd01::1 . 8080
        }
        add element inet portico-node backends4 {
        	0xb8158000 . 0x0 : 10.1.0.1 . 8080,
        	0xd17d8000 . 0x0 : 10.1.0.1 . 8080,
        	0xd17d8000 . 0x1 : 10.1.0.2 . 8080,
        	0xf658c000 . 0x0 : 10.1.0.1 . 8080,
        	0xf658c000 . 0x1 : 10.1.0.2 . 8080
        }
        add element inet portico-node ids4 {
        	0x1132c000 . 0x0 : 0x2fea51d1
        }
        add element inet portico-node addresses4 {
        	10.96.0.1,
        	10.96.0.2,
        	10.96.0.3,
        	10.96.0.4,
        	10.96.0.5
        }
        add element inet portico-node addresses6 {
        	fd00::1
        }
        add element inet portico-node ranges4 {
        	10.96.0.0/16
        }
        add element inet portico-node sources4 {
        	192.0.2.1 . tcp . 80 . 198.51.100.0/24
        }
        add element inet portico-node node-addresses4 {
        	10.240.0.5
        }
        add element inet portico-node node-addresses6 {
        	2001:db8:f::5
        }
        add element inet portico-node pods4 {
        	10.1.0.0/16
        }
        add element inet portico-node pod-interfaces {
        	"veth*"
        }
        add element inet portico-node hairpin4 {
        	10.1.0.1 . 10.1.0.1
        }
        add element inet portico-node local-endpoints4 {
        	10.1.0.1
        }
    "##]].assert_eq(&ruleset(every_action(), EVERYTHING).to_string());
}

#[test]
fn settings_change_the_base_chains_and_the_masquerade_only() {
    let lines = |settings| -> Vec<String> {
        ruleset([web().into()], settings).to_string().lines().map(str::to_owned).collect()
    };
    let everything = lines(EVERYTHING);
    let plain = lines(NodeSettings::default());
    let missing: Vec<&String> = everything.iter().filter(|line| !plain.contains(line)).collect();
    expect![[r#"
        [
            "\t\tip saddr @pods4 goto short",
            "\t\tip6 saddr @pods6 goto short",
            "\t\tiifname @pod-interfaces goto short",
            "\t\tmeta l4proto tcp ip daddr 127.0.0.0/8 meta l4proto . th dport @nodeports4 redirect to :9478",
            "\t\tmeta l4proto tcp ip6 daddr ::1 meta l4proto . th dport @nodeports6 redirect to :9478",
            "\t\tip saddr @pods4 return",
            "\t\tip6 saddr @pods6 return",
            "\t\tiifname @pod-interfaces return",
            "\t\tmeta nfproto ipv4 masquerade fully-random",
            "\t\tmeta nfproto ipv6 masquerade fully-random",
            "\t\tip saddr @pods4 return",
            "\t\tip6 saddr @pods6 return",
            "\t\tiifname @pod-interfaces return",
            "\t\tip daddr @local-endpoints4 return",
            "\t\tip6 daddr @local-endpoints6 return",
        ]
    "#]]
    .assert_debug_eq(&missing);
    let all = lines(NodeSettings { masquerade_all: true, ..NodeSettings::default() });
    assert_eq!(all.iter().filter(|line| line.trim() == MASQUERADE).count(), 2);
}

#[test]
fn absent_table_is_a_comment() {
    assert_eq!(NodeRuleset::empty().to_string(), "# no table\n");
}

#[test]
#[allow(clippy::too_many_lines)] // the lines are the text's
fn plan_deletes_before_it_adds_and_deletes_chains_last() {
    let before = ruleset(every_action(), EVERYTHING);
    let snapshot = snapshot(every_action().into_iter().chain([
        slice("web").tcp("", 8080).at("10.1.0.1").on("n1").into(),
        svc("sticky").ip("10.96.0.4").tcp("", 80).into(),
    ]));
    let context = NodeContext { place: Place::Node, ..node_context() };
    let mut after = before.clone();
    let changes = after.refresh_all(&portals(&snapshot, &context), environment());
    expect![[r#"
        delete element inet portico-node picks {
        	0x2 : goto pick-2
        }
        delete element inet portico-node codes {
        	0x2 : goto pick-2,
        	0x1002 : goto flagged,
        	0x2002 : goto flagged,
        	0x3002 : goto flagged
        }
        delete element inet portico-node own {
        	0x1132c000 : goto own4-17611-1-sticky-10800s
        }
        delete element inet portico-node services4 {
        	10.96.0.1 . tcp . 80 : 0xd17d8002,
        	10.96.0.4 . tcp . 80 : 0x1132cffe
        }
        delete element inet portico-node nodeports6 {
        	tcp . 30080 : 0x00001fff
        }
        delete element inet portico-node services6 {
        	fd00::1 . tcp . 80 : 0x77038001
        }
        delete element inet portico-node shortports4 {
        	tcp . 30080 : 0xd17d8002
        }
        delete element inet portico-node short4 {
        	192.0.2.1 . tcp . 80 : 0xd17d8002
        }
        delete element inet portico-node shortports6 {
        	tcp . 30080 : 0x77038001
        }
        delete element inet portico-node backends4 {
        	0x1132c000 . 0x2fea51d1 : 10.1.0.1 . 8080
        }
        delete element inet portico-node backends6 {
        	0x77038000 . 0x0 : fd01::1 . 8080
        }
        delete element inet portico-node backends4 {
        	0xd17d8000 . 0x1 : 10.1.0.2 . 8080
        }
        delete element inet portico-node ids4 {
        	0x1132c000 . 0x0 : 0x2fea51d1
        }
        add element inet portico-node services4 {
        	10.96.0.1 . tcp . 80 : 0xd17d8001,
        	10.96.0.4 . tcp . 80 : 0x1132c001
        }
        add element inet portico-node nodeports6 {
        	tcp . 30080 : 0x00001000
        }
        add element inet portico-node services6 {
        	fd00::1 . tcp . 80 : 0x00000000
        }
        add element inet portico-node shortports4 {
        	tcp . 30080 : 0xd17d8001
        }
        add element inet portico-node short4 {
        	192.0.2.1 . tcp . 80 : 0xd17d8001
        }
        add element inet portico-node shortports6 {
        	tcp . 30080 : 0x00000000
        }
        add element inet portico-node backends4 {
        	0x1132c000 . 0x0 : 10.1.0.1 . 8080
        }
        delete chain inet portico-node pick-2
        delete chain inet portico-node own4-17611-1-sticky-10800s
        delete map inet portico-node clients4-17611
    "#]]
    .assert_eq(&node_plan(&before, &after, &changes).to_string());
}

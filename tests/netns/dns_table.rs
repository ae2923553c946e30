//! The DNS table: queries of a pod reach the agent's sockets in the pod, without conntrack entries, while the table is
//! armed; otherwise the ordinary portal.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use netns_nft::{DNS_ARMED_TIME, DNS_BYPASS_PRIORITY, DnsRedirect, add_service_routes, ranges_of_others};
use test_support::backend_server::{DROP_TIMEOUT, REPLY_TIMEOUT};
use test_support::dns_pod::{
    AGENT, DNS, DnsClient, POD_ADDRESSES, PORTAL, QueryWay, agent_redirects, arm, assert_reaches,
    create_with, in_dns_pod, respond, respond_as_agent,
};
use test_support::namespace::{load, run};
use test_support::pod::Pod;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// Sets a sysctl of the pod.
fn set_sysctl(pod: &Pod, name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    pod.within(|| fs::write(&path, value)).unwrap_or_else(|why| panic!("{path}: {why}"));
}

/// The number of conntrack entries of the pod.
fn conntrack_entries(pod: &Pod) -> u32 {
    let text = pod.within(|| fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"));
    text.expect("the number of entries").trim().parse().expect("a number")
}

#[test]
fn queries_reach_the_agent_only_while_the_table_is_armed() {
    in_dns_pod(|pod| {
        assert_reaches(pod, PORTAL);
        let table = create_with(pod, &agent_redirects(pod), DNS_ARMED_TIME);
        assert_reaches(pod, PORTAL);
        table.arm().expect("arm");
        assert_reaches(pod, AGENT);
        table.disarm().expect("disarm");
        assert_reaches(pod, PORTAL);
        table.disarm().expect("disarm again");
        table.arm().expect("arm again");
        table.arm().expect("renew");
        assert_reaches(pod, AGENT);
        table.remove().expect("remove");
        assert_reaches(pod, PORTAL);
    });
}

#[test]
fn no_query_is_lost_while_the_table_is_armed_and_disarmed() {
    in_dns_pod(|pod| {
        let table = create_with(pod, &agent_redirects(pod), DNS_ARMED_TIME);
        thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for _ in 0..3_000 {
                    table.arm().expect("arm");
                    table.disarm().expect("disarm");
                }
            });
            while !changes.is_finished() {
                for dns in DNS {
                    let name = pod.within(|| QueryWay::UnconnectedUdp.ask(dns)).expect("a response");
                    assert!([AGENT, PORTAL].contains(&&*name), "{name}");
                }
            }
        });
    });
}

#[test]
fn queries_reach_the_agent_with_each_rp_filter() {
    in_dns_pod(|pod| {
        let _table = arm(pod);
        for value in ["0", "1", "2"] {
            for interface in ["all", "default", "lo", "eth0"] {
                set_sysctl(pod, &format!("ipv4/conf/{interface}/rp_filter"), value);
            }
            assert_reaches(pod, AGENT);
        }
    });
}

#[test]
fn agent_sees_the_address_of_the_pod() {
    in_dns_pod(|pod| {
        let _table = arm(pod);
        for (dns, own) in DNS.into_iter().zip(POD_ADDRESSES) {
            for way in QueryWay::ALL {
                let response = pod.within(|| {
                    DnsClient::new(way, address(dns), 0, REPLY_TIMEOUT)
                        .and_then(|mut client| client.exchange("q"))
                });
                assert_eq!(response.expect("a response").peer.to_string(), own, "{way:?}");
            }
        }
    });
}

#[test]
fn udp_queries_leave_no_conntrack_entry() {
    const QUERIES: usize = 10_000;
    const CLIENTS: usize = 100;
    in_dns_pod(|pod| {
        let _table = arm(pod);
        for number in 0..CLIENTS {
            let way = QueryWay::ALL[number % 2];
            pod.within(|| {
                let dns = address(DNS[number / 2 % 2]);
                let mut client = DnsClient::new(way, dns, 0, REPLY_TIMEOUT).expect("a client");
                for _ in 0..QUERIES / CLIENTS {
                    assert_eq!(client.exchange("query").expect("a response").name, AGENT);
                }
            });
        }
        assert_eq!(conntrack_entries(pod), 0);
        // The count is not simply always 0.
        pod.within(|| QueryWay::Tcp.ask(DNS[0])).expect("a response");
        assert_eq!(conntrack_entries(pod), 1);
    });
}

#[test]
fn server_of_the_pod_at_port_53_keeps_its_own_queries() {
    in_dns_pod(|pod| {
        let _table = arm(pod);
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
        pod.within(|| respond("own", any, any));
        for own in ["127.0.0.1:53", "10.240.0.2:53"] {
            for way in QueryWay::ALL {
                assert_eq!(pod.within(|| way.ask(own)).expect("a response"), "own", "{way:?} to {own}");
            }
        }
        assert_reaches(pod, AGENT);
    });
}

#[test]
fn port_53_of_other_addresses_and_other_ports_are_not_redirected() {
    in_dns_pod(|pod| {
        let _table = arm(pod);
        for other in ["10.240.0.1:53", "[2001:db8:240::1]:53"] {
            respond("other", address(other), address(other));
            for way in QueryWay::ALL {
                assert_eq!(pod.within(|| way.ask(other)).expect("a response"), "other", "{way:?} to {other}");
            }
        }
        let refused = pod.within(|| QueryWay::Tcp.ask("10.96.0.10:54")).expect_err("no portal");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn responses_come_from_the_address_that_was_asked() {
    const DNS_ADDRESSES: [(&str, &str); 3] =
        [("a", "10.96.0.10:53"), ("b", "10.96.0.11:53"), ("local", "169.254.20.10:53")];
    in_dns_pod(|pod| {
        let redirects: Vec<DnsRedirect> =
            pod.within(|| DNS_ADDRESSES.map(|(name, dns)| respond_as_agent(name, dns)).into());
        create_with(pod, &redirects, DNS_ARMED_TIME).arm().expect("arm");
        let table = create_with(pod, &redirects, DNS_ARMED_TIME);
        table.arm().expect("arm");
        pod.within(|| {
            let client = UdpSocket::bind("0.0.0.0:0").expect("a client");
            client.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a timeout");
            for (_, dns) in DNS_ADDRESSES {
                client.send_to(b"query", dns).expect("send");
            }
            let mut buffer = [0; 64];
            let mut responses: Vec<(String, String)> = DNS_ADDRESSES
                .map(|_| {
                    let (length, from) = client.recv_from(&mut buffer).expect("a response");
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    (text.split(' ').next().expect("a name").to_owned(), from.to_string())
                })
                .into();
            responses.sort();
            assert_eq!(responses, DNS_ADDRESSES.map(|(name, dns)| (name.to_owned(), dns.to_owned())));
        });
    });
}

#[test]
fn large_messages_pass_in_both_directions() {
    in_dns_pod(|pod| {
        let _table = arm(pod);
        let message = "x".repeat(6_000);
        for dns in DNS {
            for way in [QueryWay::ConnectedUdp, QueryWay::UnconnectedUdp] {
                let response = pod.within(|| {
                    let mut client = DnsClient::new(way, address(dns), 0, REPLY_TIMEOUT)?;
                    client.exchange(&message)
                });
                assert_eq!(response.expect("a response").name, AGENT, "{way:?} to {dns}");
            }
        }
    });
}

#[test]
fn sockets_with_the_bypass_priority_reach_the_portal() {
    in_dns_pod(|pod| {
        let _table = arm(pod);
        for dns in DNS {
            for way in QueryWay::ALL {
                let ask = |priority| pod.within(|| way.ask_with(dns, priority, REPLY_TIMEOUT));
                assert_eq!(ask(DNS_BYPASS_PRIORITY).expect("a response"), PORTAL, "{way:?} to {dns}");
                assert_eq!(ask(6).expect("a response"), AGENT, "another priority, {way:?} to {dns}");
            }
        }
    });
}

#[test]
fn pod_without_ipv6_is_served_in_ipv4() {
    in_dns_pod(|pod| {
        for interface in ["all", "default", "lo", "eth0"] {
            set_sysctl(pod, &format!("ipv6/conf/{interface}/disable_ipv6"), "1");
        }
        let redirect = pod.within(|| respond_as_agent(AGENT, DNS[0]));
        let table = create_with(pod, &[redirect], DNS_ARMED_TIME);
        table.arm().expect("arm");
        for way in QueryWay::ALL {
            assert_eq!(pod.within(|| way.ask(DNS[0])).expect("a response"), AGENT, "{way:?}");
        }
    });
}

#[test]
fn pod_without_a_default_route_reaches_a_dns_address_outside_the_service_ranges() {
    const LOCAL: [&str; 2] = ["169.254.20.10:53", "[fd00::10]:53"];
    in_dns_pod(|pod| {
        pod.ip(&["route", "del", "default"]);
        pod.ip(&["-6", "route", "del", "default"]);
        let redirects: Vec<DnsRedirect> = pod.within(|| LOCAL.map(|dns| respond_as_agent(AGENT, dns)).into());
        let table = create_with(pod, &redirects, DNS_ARMED_TIME);
        table.arm().expect("arm");
        assert!(pod.within(|| QueryWay::UnconnectedUdp.ask(LOCAL[0])).is_err(), "without a route");
        let own = POD_ADDRESSES.map(|address| address.parse().expect("an address"));
        let routes = ranges_of_others(&LOCAL.map(|dns| address(dns).ip()), &[]);
        let added = add_service_routes(&pod.netns, "eth0", &own, &routes).expect("add routes");
        assert_eq!(added, routes);
        for dns in LOCAL {
            for way in QueryWay::ALL {
                assert_eq!(pod.within(|| way.ask(dns)).expect("a response"), AGENT, "{way:?} to {dns}");
            }
        }
    });
}

#[test]
fn open_tcp_connection_stays_with_the_agent_after_disarming() {
    in_dns_pod(|pod| {
        let table = arm(pod);
        for dns in DNS {
            table.arm().expect("arm");
            let mut client = pod
                .within(|| DnsClient::new(QueryWay::Tcp, address(dns), 0, REPLY_TIMEOUT))
                .expect("a connection");
            assert_eq!(client.exchange("first").expect("a response").name, AGENT);
            table.disarm().expect("disarm");
            assert_eq!(client.exchange("second").expect("a response").name, AGENT);
            assert_eq!(pod.within(|| QueryWay::Tcp.ask(dns)).expect("a response"), PORTAL, "a new one");
        }
    });
}

#[test]
fn packets_from_other_interfaces_do_not_reach_the_sockets_of_the_agent() {
    // The node sends to an address behind the pod; the packet leaves with the pod's loopback address instead.
    const BEHIND: &str = "10.99.0.1";
    const REWRITE: &str = "table ip rewrite {
      chain leaving { type filter hook postrouting priority 0;
        ip daddr 10.99.0.1 ip daddr set 127.0.0.1
      }
    }";
    in_dns_pod(|pod| {
        for interface in ["all", "eth0"] {
            set_sysctl(pod, &format!("ipv4/conf/{interface}/route_localnet"), "1");
        }
        run("ip", &["route", "add", BEHIND, "via", POD_ADDRESSES[0]], "");
        load(REWRITE);
        let behind = |port| SocketAddr::new(BEHIND.parse().expect("an address"), port);
        // Whether a datagram and a SYN arrive at new sockets.
        let arrive = |has_table: bool| {
            let (socket, listener) = pod.within(|| {
                (
                    UdpSocket::bind("127.0.0.1:0").expect("bind"),
                    TcpListener::bind("127.0.0.1:0").expect("listen"),
                )
            });
            socket.set_read_timeout(Some(DROP_TIMEOUT)).expect("set a timeout");
            let port = |address: std::io::Result<SocketAddr>| address.expect("an address").port();
            let (udp_port, tcp_port) = (port(socket.local_addr()), port(listener.local_addr()));
            let redirect = DnsRedirect { address: address(DNS[0]).ip(), udp_port, tcp_port };
            let _table = has_table.then(|| create_with(pod, &[redirect], DNS_ARMED_TIME));
            let outside = UdpSocket::bind("0.0.0.0:0").expect("bind");
            outside.send_to(b"query", behind(udp_port)).expect("send");
            let is_received = socket.recv(&mut [0; 16]).is_ok();
            // The reply to a SYN cannot leave the pod, so the connection stays half open.
            assert!(DnsClient::new(QueryWay::Tcp, behind(tcp_port), 0, DROP_TIMEOUT).is_err());
            let half_open = pod.within(|| run("ss", &["-Htan", "state", "syn-recv"], ""));
            (is_received, half_open.contains(&format!(":{tcp_port} ")))
        };
        assert_eq!(arrive(false), (true, true), "without the table");
        assert_eq!(arrive(true), (false, false), "with the table");
    });
}

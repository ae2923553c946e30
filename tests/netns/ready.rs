//! Prerequisites of the other tests: the network namespace is new and empty, and the kernel and the tools have the
//! required features.
//!
//! A failure here has its cause in the machine, not in Portico. Each test that changes a table runs in its own network
//! namespace (`unshare -n`), so that tests can run in parallel.

use test_support::namespace::run;

#[test]
fn test_netns_is_empty_and_not_that_of_the_machine() {
    let links = run("ip", &["-o", "link"], "");
    assert_eq!(links.lines().count(), 1, "start these tests with scripts/netns-test; links here:\n{links}");
    assert_eq!(run("nft", &["list", "ruleset"], ""), "");
}

#[test]
fn nft_loads_the_flat_map_layout() {
    let table = "table inet portico_ready {
        map backends4 { typeof ip daddr . ip protocol . th dport . numgen random mod 4096 : ip daddr . th dport; }
        chain output {
            type nat hook output priority -99;
            dnat ip to ip daddr . ip protocol . th dport . numgen random mod 3 map @backends4
        }
    }
    add element inet portico_ready backends4 { 10.11.0.1 . tcp . 80 . 0 : 10.244.1.1 . 8080 }";
    let script = "nft -f - && nft list ruleset";
    let listed = run("unshare", &["-n", "sh", "-c", script], table);
    assert!(listed.contains("10.244.1.1 . 8080"), "{listed}");
}

#[test]
fn iptables_restore_accepts_redirects_with_comments() {
    let rules = "*nat\n-A OUTPUT -d 10.11.0.1/32 -p tcp -m comment --comment apache-service \
                 -m tcp --dport 12345 -j REDIRECT --to-ports 33945\nCOMMIT\n";
    run("unshare", &["-n", "iptables-restore", "--test"], rules);
}

//! A pod that is connected to this node by a veth pair, for benchmarks of connections.

use test_support::pod::Pod;

/// Creates a pod with the address 10.1.NUMBER.2; this node has 10.1.NUMBER.1.
pub(crate) fn routed_pod(number: u8) -> Pod {
    Pod::routed(&format!("w{number}"), &format!("10.1.{number}"), &format!("2001:db8:{number}:"))
}

//! The addresses of a node and of its neighbours in both families, as tests of node portals use them.
//!
//! ```text
//! outside 192.0.2.2 ── 192.0.2.1 node 10.240.0.5 ── 10.1.0.2 local pod, 10.1.3.2 client pod
//!                                      └── 198.51.100.2 other node, 10.1.1.2 its pod
//! ```

/// The node.
pub const NODE: [&str; 2] = ["10.240.0.5", "2001:db8:f::5"];
/// A host outside the cluster.
pub const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8:2::2"];
/// A pod on the node that is an endpoint.
pub const LOCAL_POD: [&str; 2] = ["10.1.0.2", "2001:db8:10::2"];
/// A pod on the node that is no endpoint.
pub const CLIENT_POD: [&str; 2] = ["10.1.3.2", "2001:db8:10:1::2"];
/// A pod on the other node.
pub const REMOTE_POD: [&str; 2] = ["10.1.1.2", "2001:db8:11::2"];
/// The other node.
pub const OTHER_NODE: [&str; 2] = ["198.51.100.2", "2001:db8:51::2"];
/// The addresses of the node on the link to the other node: what masqueraded clients of its pod have.
pub const NODE_ON_LINK: [&str; 2] = ["198.51.100.1", "2001:db8:51::1"];
/// The addresses of the node on the link to the local pod.
pub const GATEWAY: [&str; 2] = ["10.1.0.1", "2001:db8:10::1"];
/// The addresses of the node on the link to the client pod.
pub const CLIENT_GATEWAY: [&str; 2] = ["10.1.3.1", "2001:db8:10:1::1"];
/// The addresses of the node on the link to the host outside.
pub const NODE_OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8:2::1"];

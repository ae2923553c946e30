//! `ReadOptions`: the settings for reading manifests.
//!
//! Both the manifest reader and `resolve` depend on it.

use ipnet::IpNet;

/// The default portal net.
const PORTAL_NET_DEFAULT: &str = "10.11.0.0/16";

/// Settings for reading manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// The portal nets, in order of preference. Services without a cluster IP get an address from them.
    pub portal_nets: Vec<IpNet>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { portal_nets: vec![PORTAL_NET_DEFAULT.parse().expect("the default portal net is a CIDR")] }
    }
}

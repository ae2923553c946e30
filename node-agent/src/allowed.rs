//! `AllowedArgs`: flags that limit what services can add to pods: which external addresses become portals, and how many
//! portals and table elements there are.
//!
//! The agent and the offline commands share these flags, so that both give the same result.

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use proxy_core::portal::{ExternalKinds, ExternalPolicy, PortalLimits};

/// Limits of what services can add to pods.
#[derive(Debug, Clone, Args)]
pub struct AllowedArgs {
    /// External addresses of services that become portals: none, those that load balancers published in the status of
    /// services, or also those in spec.externalIPs, which any user with write access to services can choose
    /// (CVE-2020-8554).
    #[arg(long, value_enum, default_value_t = ExternalArg::LoadBalancer)]
    pub external_addresses: ExternalArg,
    /// Comma-separated CIDRs that external addresses must be in (default: any).
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub external_cidrs: Vec<IpNet>,
    /// Maximum number of portals per service; in order of precedence: cluster IPs, load-balancer IPs, external IPs,
    /// node ports.
    #[arg(long, value_name = "NUMBER", default_value_t = PortalLimits::STANDARD.service_portals)]
    pub service_portals_max: usize,
    /// Maximum number of table elements for the services of a namespace: portals, backends, and what they need. Older
    /// services take precedence.
    #[arg(long, value_name = "NUMBER", default_value_t = PortalLimits::STANDARD.namespace_elements)]
    pub namespace_elements_max: usize,
    /// Maximum number of elements in the table of a pod; if it does not suffice, each namespace gets a fair share.
    #[arg(long, value_name = "NUMBER", default_value_t = PortalLimits::STANDARD.table_elements)]
    pub table_elements_max: usize,
}

/// The external addresses that become portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExternalArg {
    /// No external addresses.
    None,
    /// Addresses in the status of services.
    LoadBalancer,
    /// Addresses in the status and in the spec of services.
    All,
}

impl AllowedArgs {
    /// The rule that selects external addresses.
    pub fn external_policy(&self) -> ExternalPolicy {
        let kinds = match self.external_addresses {
            ExternalArg::None => ExternalKinds::None,
            ExternalArg::LoadBalancer => ExternalKinds::LoadBalancer,
            ExternalArg::All => ExternalKinds::All,
        };
        ExternalPolicy { kinds, cidrs: self.external_cidrs.as_slice().into() }
    }

    /// The limits of portals and table elements.
    pub fn portal_limits(&self) -> PortalLimits {
        PortalLimits {
            service_portals: self.service_portals_max,
            namespace_elements: self.namespace_elements_max,
            table_elements: self.table_elements_max,
            unused_elements: self.table_elements_max,
        }
    }
}

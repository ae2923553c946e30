//! What services may put into pods: which external addresses become portals, and how much of everything.
//!
//! The agent and the commands that answer from files have these flags in common, so that both say the same. What must
//! not go in here: what is done with what is refused.

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use proxy_core::portal::{Bounds, Outside, OutsideKinds};

/// What services may put into pods.
#[derive(Debug, Clone, Args)]
pub(crate) struct AllowedArgs {
    /// Which external addresses of services become portals: none, those that load balancers published in the status of
    /// services, or also those in spec.externalIPs, which anybody who may write a Service chooses (CVE-2020-8554).
    #[arg(long, value_enum, default_value_t = ExternalArg::LoadBalancer)]
    pub(crate) external_addresses: ExternalArg,
    /// The networks in which external addresses may be, separated by commas; empty: any.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) external_cidrs: Vec<IpNet>,
    /// How many portals one service has at most: cluster addresses come first, then load balancers, external addresses
    /// and node ports.
    #[arg(long, value_name = "NUMBER", default_value_t = Bounds::STANDARD.service_portals)]
    pub(crate) service_portals_max: usize,
    /// How many elements of tables the services of one namespace make at most: portals, backends, and what else they
    /// need. Services that were created first come first.
    #[arg(long, value_name = "NUMBER", default_value_t = Bounds::STANDARD.namespace_elements)]
    pub(crate) namespace_elements_max: usize,
    /// How many elements the table of one pod has at most; where that is too few, each namespace has a fair share.
    #[arg(long, value_name = "NUMBER", default_value_t = Bounds::STANDARD.table_elements)]
    pub(crate) table_elements_max: usize,
}

/// Which external addresses become portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExternalArg {
    /// None.
    None,
    /// Those in the status of services.
    LoadBalancer,
    /// Those in the status and in the specification of services.
    All,
}

impl AllowedArgs {
    /// Which external addresses become portals.
    pub(crate) fn outside(&self) -> Outside {
        let kinds = match self.external_addresses {
            ExternalArg::None => OutsideKinds::None,
            ExternalArg::LoadBalancer => OutsideKinds::LoadBalancer,
            ExternalArg::All => OutsideKinds::All,
        };
        Outside { kinds, nets: self.external_cidrs.as_slice().into() }
    }

    /// How much services may put into tables.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            service_portals: self.service_portals_max,
            namespace_elements: self.namespace_elements_max,
            table_elements: self.table_elements_max,
            unused_elements: self.table_elements_max,
        }
    }
}

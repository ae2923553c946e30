//! The flags of node portals. The doc comment of a flag is its help text.

use std::time::Duration;

use clap::Args;
use proxy_core::portal::{NodeContext, Place, PortalLimits};
use proxy_core::ruleset::node::{NodeSettings, PodDetection};

use crate::node_portals::detect_local::DetectLocalArgs;
use crate::node_portals::node_addresses::AddressSelector;
use crate::node_portals::service_proxy::NodePortalsMode;
use crate::node_portals::state::NodeOptions;

/// The node's table exists once, so it can have this many times the elements of a pod's.
const NODE_LIMIT_FACTOR: usize = 10;

/// Flags of node portals.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Node portals")]
pub(crate) struct NodePortalsArgs {
    /// Serve node ports, external addresses and the node's own connections, in place of kube-proxy: always, or on nodes
    /// whose label portico.dev/service-proxy is both or portico.
    #[arg(long, value_name = "MODE", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "always")]
    pub(crate) node_portals: Option<NodePortalsMode>,
    /// Addresses that serve node ports: CIDRs, primary (the first address of each family in the node object), all, or
    /// localhost (in addition 127.0.0.1 and ::1, TCP only). Comma-separated.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', default_value = "primary")]
    pub(crate) nodeport_addresses: Vec<AddressSelector>,
    #[command(flatten)]
    pub(crate) detect_local: DetectLocalArgs,
    /// Masquerade pods, too, as clients of cluster addresses.
    #[arg(long)]
    pub(crate) masquerade_all: bool,
    /// Keep the client's address if the endpoint of a connection from outside is on this node. kube-proxy masquerades
    /// such connections unless externalTrafficPolicy is Local.
    #[arg(long)]
    pub(crate) keep_client_address: bool,
    /// After the last endpoint on this node of a service with externalTrafficPolicy Local was removed, serve clients
    /// outside the cluster by other endpoints for this many seconds, masqueraded. kube-proxy drops them at once (0).
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) external_policy_grace: u32,
    /// Priority of the node's NAT chains: -101 runs before kube-proxy's.
    #[arg(long, value_name = "NUMBER", default_value_t = -101, allow_negative_numbers = true)]
    pub(crate) node_nat_priority: i32,
    /// Do not create the anchor table, which keeps translated connections alive if another program flushes the ruleset
    /// of the node. nft cannot load a listing with such a table.
    #[arg(long)]
    pub(crate) no_anchor_table: bool,
}

impl NodePortalsArgs {
    /// The options of the state, with the context of the pods' portals.
    ///
    /// # Errors
    /// If flags contradict each other.
    pub(crate) fn options(&self, pods: NodeContext) -> Result<NodeOptions, &'static str> {
        let limits = PortalLimits {
            table_elements: pods.limits.table_elements.saturating_mul(NODE_LIMIT_FACTOR),
            ..pods.limits
        };
        if pods.node.name.is_empty() {
            return Err("--node-portals needs --node, the name of the node");
        }
        Ok(NodeOptions {
            context: NodeContext { place: Place::Node, limits, ..pods },
            settings: NodeSettings {
                nat_priority: self.node_nat_priority,
                // Set as soon as the relay listens.
                loopback_port: 0,
                // Follows from `detect_local`.
                detects_pods: PodDetection::NONE,
                masquerade_all: self.masquerade_all,
                keep_client_address: self.keep_client_address,
            },
            addresses: self.nodeport_addresses.iter().copied().collect(),
            detect_local: self.detect_local.detect_local()?,
            grace: Duration::from_secs(u64::from(self.external_policy_grace)),
        })
    }
}

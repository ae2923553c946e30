//! `DetectLocal`: how connections of pods are distinguished from others, as kube-proxy's `--detect-local-mode`.
//!
//! Connections to cluster addresses from other clients are masqueraded, because their replies would otherwise not come
//! back through this node.

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use proxy_core::guest::InterfacePattern;
use proxy_core::node::Node;

/// The flags.
#[derive(Debug, Clone, Args)]
pub(crate) struct DetectLocalArgs {
    /// How connections of pods are detected, as for kube-proxy. Connections to cluster addresses from other clients are
    /// masqueraded.
    #[arg(long, value_enum, default_value_t = DetectLocalMode::ClusterCidr)]
    detect_local_mode: DetectLocalMode,
    /// Comma-separated CIDRs of pods. Without any, cluster-cidr detects no pod, and masquerades nothing.
    #[arg(long = "cluster-cidr", value_name = "CIDR", value_delimiter = ',')]
    cluster_cidrs: Vec<IpNet>,
    /// Bridge to which pods are connected, for bridge-interface.
    #[arg(long, value_name = "NAME", value_parser = interface)]
    pod_bridge_interface: Option<InterfacePattern>,
    /// Prefix of the names of the interfaces of pods, for interface-name-prefix.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pod_interface_name_prefix: Option<InterfacePattern>,
}

/// How connections of pods are detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DetectLocalMode {
    /// By source addresses in --cluster-cidr.
    ClusterCidr,
    /// By source addresses in the pod CIDRs of the node object.
    NodeCidr,
    /// By the interface --pod-bridge-interface.
    BridgeInterface,
    /// By interfaces with --pod-interface-name-prefix.
    InterfaceNamePrefix,
}

fn interface(text: &str) -> Result<InterfacePattern, String> {
    InterfacePattern::parse(text).map_err(|why| format!("interface name {why}"))
}

fn prefix(text: &str) -> Result<InterfacePattern, String> {
    interface(&format!("{text}*"))
}

/// How connections of pods are detected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DetectLocal {
    /// By source addresses; none: pods are not detected.
    Ranges(Vec<IpNet>),
    /// By source addresses in the pod CIDRs of the node object.
    NodeCidr,
    /// By their interfaces.
    Interface(InterfacePattern),
}

impl DetectLocalArgs {
    /// The mode with its value.
    ///
    /// # Errors
    /// If the value of the mode is missing.
    pub(crate) fn detect_local(&self) -> Result<DetectLocal, &'static str> {
        match self.detect_local_mode {
            DetectLocalMode::ClusterCidr => Ok(DetectLocal::Ranges(self.cluster_cidrs.clone())),
            DetectLocalMode::NodeCidr => Ok(DetectLocal::NodeCidr),
            DetectLocalMode::BridgeInterface => self
                .pod_bridge_interface
                .map(DetectLocal::Interface)
                .ok_or("--detect-local-mode bridge-interface needs --pod-bridge-interface"),
            DetectLocalMode::InterfaceNamePrefix => self
                .pod_interface_name_prefix
                .map(DetectLocal::Interface)
                .ok_or("--detect-local-mode interface-name-prefix needs --pod-interface-name-prefix"),
        }
    }
}

impl DetectLocal {
    /// Returns the ranges of pod addresses.
    pub(crate) fn pod_ranges(&self, node: &Node) -> Vec<IpNet> {
        match self {
            Self::Ranges(ranges) => ranges.clone(),
            Self::NodeCidr => node.pod_cidrs.clone(),
            Self::Interface(_) => Vec::new(),
        }
    }

    /// Returns the interfaces of pods.
    pub(crate) fn pod_interfaces(&self) -> impl Iterator<Item = InterfacePattern> {
        match self {
            Self::Interface(pattern) => Some(*pattern),
            Self::Ranges(_) | Self::NodeCidr => None,
        }
        .into_iter()
    }
}

//! Rulesets and plans as text, for people and for command-line tools.

pub mod iptables;
pub mod nft;
pub mod node_nft;

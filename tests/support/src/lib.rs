//! Helpers for the tests of several crates: network namespaces and pods, the real programs, and an API server.
//!
//! A helper that only one test program uses is a module of that program instead, where rustc reports it if it is
//! unused. Assertions about Portico belong in the tests.

// Helpers whose names are clear need no documentation. A new pod or directory is not a default value.
#![allow(missing_docs, clippy::new_without_default)]

pub mod agent;
pub mod agent_dns;
pub mod apiserver;
pub mod backend_pod;
pub mod backend_server;
pub mod caller;
pub mod child_guard;
pub mod cni_node;
pub mod command;
pub mod coredns;
pub mod differential;
pub mod dns;
pub mod dns_pod;
pub mod eventually;
pub mod helm;
pub mod http2;
pub mod kube_proxy;
pub mod manifest;
pub mod memory_cgroup;
pub mod memory_limit;
pub mod namespace;
pub mod node_places;
pub mod objects;
pub mod own_process;
pub mod plugin;
pub mod plugin_agent;
pub mod pod;
pub mod proc_memory;
pub mod program;
pub mod relay_fixture;
pub mod review;
pub mod ruleset_loader;
pub mod webhook;
pub mod webhook_cluster;

pub use support::temp_dir;

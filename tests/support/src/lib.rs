//! Helpers for the tests of several crates: network namespaces and pods, the real programs, and an API server.
//!
//! A helper that only one test program uses is a module of that program instead, where rustc reports it if it is
//! unused. Assertions about Portico belong in the tests.

// Helpers whose names are clear need no documentation. A new pod or directory is not a default value.
#![allow(missing_docs, clippy::new_without_default)]

pub mod agent;
pub mod apiserver;
pub mod caller;
pub mod cni_node;
pub mod command;
pub mod conversation;
pub mod eventually;
pub mod helm;
pub mod http2;
pub mod kilobytes;
pub mod manifest;
pub mod memory_cgroup;
pub mod memory_limit;
pub mod namespace;
pub mod objects;
pub mod own_process;
pub mod plugin;
pub mod plugin_agent;
pub mod pod;
pub mod program;
pub mod relayed;
pub mod replica;
pub mod review;
pub mod served;
pub mod temp_dir;
pub mod way;
pub mod webhook;

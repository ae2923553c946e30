//! Real container runtimes and the demo, as root: behind the feature `containers`.
//!
//! `scripts/container-test` creates the namespaces around all of them.

mod agent;
mod backend;
mod containerd;
mod demo;
mod dns;
mod images;
mod manifest;
mod network;
mod node;
mod podman;
mod process;
mod runtime;
mod runtimes;

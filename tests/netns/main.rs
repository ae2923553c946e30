//! The real plugin, agent and relay in real network namespaces, as root: behind the feature `netns`.
//!
//! `scripts/netns-test` starts them in a network namespace of their own, and `scripts/netns-test relay_stream::` those
//! of one module. All tests share the process, so a test that changes the process itself (its limits, descriptors or
//! mounts) starts a child for that.

mod agent;
mod agent_attack;
mod agent_node;
mod anchor;
mod bounds;
mod capabilities;
mod churn;
mod cluster;
mod connections;
mod conntrack;
mod demand;
mod differential;
mod dns_agent;
mod dns_check;
mod dns_command;
mod dns_table;
mod dns_table_owner;
mod forward;
mod guest;
mod health_check;
mod hits;
mod install;
mod memory;
mod migration;
mod migration_command;
mod migration_peer;
mod migration_real;
mod monitor;
mod neighbour;
mod node_addresses;
mod node_agent;
mod node_case;
mod node_check;
mod node_faults;
mod node_network;
mod node_portals;
mod node_portals_addresses;
mod node_portals_affinity;
mod node_portals_masquerade;
mod node_portals_policies;
mod node_udp;
mod node_upgrade;
mod plugin;
mod ready;
mod relay_agent;
mod relay_backend;
mod relay_datagram;
mod relay_dial;
mod relay_end;
mod relay_limit;
mod relay_memory;
mod relay_node;
mod relay_schedule;
mod relay_stream;
mod relay_unmatched;
mod repair;
mod routes;
mod rules;
mod unserved;
mod upgrade;
mod watch;
mod wired_pod;

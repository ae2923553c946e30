//! What needs neither root nor a network namespace: the rules of the repository, its pages, and API servers.

mod cluster_live;
mod reference;
mod release;
mod tidy;

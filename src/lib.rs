//! nodens: a DNS caching resolver for the nodes of a Kubernetes CI cluster.
//!
//! To come: the map.

pub mod config;
pub mod upstream;
pub mod wire;

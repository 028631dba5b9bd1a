//! nodens: a DNS caching resolver for the nodes of a Kubernetes CI cluster.
//!
//! The life of a query, and the modules in the order that it meets them:
//!
//! ```text
//! client ──► server ──► admission ──► local ──► cache ──► coalesce ──► upstream ──► kube-dns, VPC, public
//!            bytes in    may it ask?   ours?    known?    in flight?   whom to ask
//!            ◄─────────────────── wire::fit ◄─────────────┘
//! ```
//!
//! Bytes know nothing, knowledge knows bytes, the answer knows knowledge, sockets know the answer.

pub mod config;
pub mod wire;

pub mod admission;
pub mod cache;
pub mod local;
pub mod rebinding;
pub mod route;

pub mod answer;
pub mod coalesce;
pub mod fetch;
pub mod snapshot;

pub mod server;
pub mod upstream;

pub mod admin;
pub mod metrics;

pub mod app;
pub mod cli;
pub mod lab;

//! End-to-end tests of the built program: a nodens process, real sockets, scripted upstreams.

#[path = "../support/addresses.rs"]
mod addresses;
mod support;

mod abuse_descriptors;
mod abuse_memory;
mod admin;
mod api;
mod bench;
mod bench_failover;
mod check;
mod clients;
mod deploy;
mod encrypted;
mod failover;
mod forgery;
mod handover;
mod hints;
mod jobs;
mod life;
mod log;
mod names;
mod node;
mod node_addresses;
mod node_cache;
mod node_firewall;
mod node_start;
mod peers;
mod pods;
mod query_log;
mod reload;
mod report;
mod runners;
mod search;
mod serve;
mod soak;
mod startup_taint;
mod stubs;
mod supervisor;
mod tcp;
mod texts;
mod upstream_tcp;
mod views;
mod warm_up;

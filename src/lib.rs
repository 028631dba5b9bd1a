//! nodens: a DNS caching resolver for the nodes of a Kubernetes CI cluster.
//!
//! The path of a query through the modules:
//!
//! ```text
//!                                    ┌──────────────── answer: respond, inline ─────────────────┐
//! client ──► server ──► wire::query ─┤ admission ──► cache ──► wire::fit ──────────────────────►├──► server ──► client
//!            udp, tcp   parse        │ allowed?      hit?      id, letter case, TTLs, OPT, size │    send
//!                                    │                └─► local: static, special-use, ANY, CH ─►│
//!                                    └───────────────────────────────┬──────────────────────────┘
//!                                    ┌──────────────── answer: finish, in a task ───────────────┐
//!                                    │ coalesce ──► forward ──► route ──► upstream ──► UDP, TCP, TLS
//!                                    │ in flight?               group?    race, health, sockets │
//!                                    │ rebinding, CNAMEs into other routes, cache, wire::fit ──►├──► server ──► client
//!                                    └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Fast path: `respond` runs in the socket's receive loop, for a whole batch of queries, without allocation, await or
//! formatting. All other work is an owned value in a task of its own, where the code is optimized for clarity.
//!
//! | layer | modules | may import | may not use |
//! |---|---|---|---|
//! | 0 bytes | [`wire`], [`clock`], [`metrics`] and its events | | a clock, tokio |
//! | 1 configuration | [`config`], [`cause`] | 0 | sockets, tasks |
//! | 2 state | [`admission`], [`cache`], [`clients`], [`epoch`], [`governor`], heartbeat, [`local`], [`route`], [`rebinding`], [`upstream`]'s question, transport, failure, race, race events, budget, capability, evidence, rate limiter, health, latency window, server status, message, local fault, server and group | 0, 1 | sockets; time is an argument |
//! | 3 answer | [`snapshot`], [`effective_view`], [`answer`], [`coalesce`], [`forward`], [`jobs`], [`mod@log`], [`query_log`], task, [`mod@warm_up`] | 0 to 2; upstreams through one trait | sockets |
//! | 4 sockets | [`server`], [`clients`]'s api and watch, [`upstream`]'s connections, sender, sockets, source ports, udp, tcp, tls, probe and bootstrap, [`admin`], [`node`] | 0 to 3 | each other |
//! | 5 process | [`app`], [`mod@bench`], [`cli`], [`handover`], [`lab`], [`supervisor`] | all | |
//!
//! A module imports its own submodules and modules of lower layers; within layer 3 and within layer 5, modules import one
//! another. `tests/repository/layers.rs` enforces these rules.

// The map names private modules too: `cargo doc --document-private-items` resolves these links.
#![allow(rustdoc::private_intra_doc_links)]

// Configuration.
pub mod config;

// Listeners.
pub(crate) mod server;

// Path of a query.
pub mod answer;
pub(crate) mod coalesce;
pub mod effective_view;
pub mod forward;
pub mod snapshot;

// State.
pub(crate) mod admission;
pub mod cache;
pub mod clients;
pub mod governor;
pub(crate) mod heartbeat;
pub(crate) mod local;
pub(crate) mod rebinding;
pub(crate) mod route;

// Wire format and time.
pub mod clock;
pub(crate) mod epoch;
pub mod wire;

// Causes of failures.
pub mod cause;

// Upstreams.
pub mod upstream;
pub(crate) mod warm_up;

// Observability.
pub(crate) mod admin;
pub mod jobs;
pub(crate) mod log;
pub mod metrics;
pub mod query_log;

// Addresses and firewall of the node.
pub(crate) mod node;

// Handover and supervision.
pub mod handover;
pub(crate) mod supervisor;

// Tasks whose futures are in boxes.
pub(crate) mod task;

// The process, its commands, a network for experiments, and benchmarks.
pub mod app;
pub mod bench;
pub mod cli;
pub mod lab;

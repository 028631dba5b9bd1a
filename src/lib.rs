//! nodens: a DNS caching resolver for the nodes of a Kubernetes CI cluster.
//!
//! The life of a query, and the modules in the order that it meets them:
//!
//! ```text
//!                                    ┌──────────────── answer: respond, at once ────────────────┐
//! client ──► server ──► wire::query ─┤ admission ──► cache ──► wire::fit ──────────────────────►├──► server ──► client
//!            udp, tcp   read it      │ may it ask?   known?    id, letter case, TTLs, OPT, size │    send it
//!                                    │                └─► local: static, special-use, ANY, CH ─►│
//!                                    └───────────────────────────────┬──────────────────────────┘
//!                                    ┌──────────────── answer: finish, in a task ───────────────┐
//!                                    │ coalesce ──► fetch ──► route ──► upstream ──► UDP, TCP, TLS
//!                                    │ in flight?             whose?    race, health, links     │
//!                                    │ rebinding, CNAMEs into other routes, cache, wire::fit ──►├──► server ──► client
//!                                    └──────────────────────────────────────────────────────────┘
//! ```
//!
//! Hot and cold: what happens at once runs in the socket's own loop, for a whole batch of packets, without allocation,
//! await or formatting. Everything else is an owned value in a task of its own, where clarity alone decides.
//!
//! | floor | modules | may import | may not |
//! |---|---|---|---|
//! | 0 bytes | [`wire`], [`clock`], [`metrics`] and its events | | a clock, tokio |
//! | 1 wishes | [`config`], [`cause`] | 0 | sockets, tasks |
//! | 2 knowledge | [`admission`], [`cache`], [`clients`], [`epoch`], [`governor`], [`local`], [`route`], [`rebinding`], [`upstream`]'s question, transport, failure, race, race events, budget, rate limiter, health, latency window, server status, message, local, server and group | 0, 1 | sockets; time is an argument |
//! | 3 answer | [`snapshot`], [`horizon`], [`answer`], [`coalesce`], [`fetch`], [`jobs`], [`mod@log`], [`query_log`], [`mod@warm_up`] | 0 to 2; upstreams through one trait | sockets |
//! | 4 sockets | [`server`], [`clients`]'s api and watch, [`upstream`]'s links, send context, sockets, udp, tcp, encrypted, probe and names, [`admin`], [`node`] | 0 to 3 | each other |
//! | 5 whole | [`app`], [`mod@bench`], [`cli`], [`handover`], [`lab`], [`supervisor`] | all | |
//!
//! Bytes know nothing. Knowledge knows bytes. The answer knows knowledge. Sockets know the answer. Only the whole knows
//! everyone. `tests/repository/layers.rs` holds the code to this.

// What was asked for.
pub mod config;

// Bytes in, bytes out.
pub mod server;

// The way of a query.
pub mod answer;
pub mod coalesce;
pub mod fetch;
pub mod horizon;
pub mod snapshot;

// What is known without asking.
pub mod admission;
pub mod cache;
pub mod clients;
pub mod governor;
pub mod local;
pub mod rebinding;
pub mod route;

// DNS as bytes, moments as numbers.
pub mod clock;
pub mod epoch;
pub mod wire;

// Why there is no answer.
pub mod cause;

// Asking others.
pub mod upstream;
pub mod warm_up;

// Watching.
pub mod admin;
pub mod jobs;
pub mod log;
pub mod metrics;
pub mod query_log;

// The node that it runs on.
pub mod node;

// One process after the other, on the same sockets.
pub mod handover;
pub mod supervisor;

// The whole, the commands, a network to try it in, and an instrument to measure it.
pub mod app;
pub mod bench;
pub mod cli;
pub mod lab;

//! Measures DNS servers from a client's side: `nodens bench`.
//!
//! ```text
//! names ──► draw ──► load ──────────────► record ──► report ──► table, JSON, html
//! questions which    pace: when           histograms
//!           next     udp, tcp: send       over time
//!                    pending: in flight
//! ```
//!
//! [`failover`] measures the effect of upstream faults, with servers and upstreams that it starts itself.

pub mod draw;
pub mod failover;
pub(crate) mod guard;
pub(crate) mod html;
pub mod load;
pub mod names;
pub mod pace;
pub(crate) mod pending;
pub mod record;
pub(crate) mod report;
mod svg;
pub mod table;
mod tcp;
mod udp;

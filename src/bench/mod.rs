//! Measuring DNS servers as their clients see them: `nodens bench`.
//!
//! ```text
//! names ──► draw ──► load ──────────────► record ──► report ──► table, JSON, html
//! what      which    pace: when           histograms
//!           next     udp, tcp: send       over time
//!                    pending: under way
//! ```
//!
//! [`failover`] asks what the fault of an upstream costs, with servers and upstreams of its own.

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

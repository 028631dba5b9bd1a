//! Measuring DNS servers as their clients see them: `nodens bench`.
//!
//! ```text
//! names ──► draw ──► load ──────────────► record ──► report ──► table, JSON, html
//! what      which    pace: when           histograms
//!           next     udp, tcp: send       over time
//!                    pending: under way
//! ```

pub mod draw;
pub mod guard;
pub mod html;
pub mod load;
pub mod names;
pub mod pace;
pub mod pending;
pub mod record;
pub mod report;
mod svg;
pub mod table;
mod tcp;
mod udp;

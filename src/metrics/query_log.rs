//! Metrics of the log of queries.

use prometheus::{IntCounter, Registry};

use super::register::{counter, counters};

/// What became of queries that were to be logged. Cheap to clone: all clones are the same ones.
#[derive(Clone, Debug)]
pub struct QueryLogMetrics {
    /// Lines written.
    pub lines: IntCounter,
    /// Dropped because the second had as many lines as it may.
    pub rate: IntCounter,
    /// Dropped because the writer was behind.
    pub full: IntCounter,
    /// Dropped because they could not be written.
    pub failed: IntCounter,
}

impl QueryLogMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let dropped = counters(
            registry,
            "query_log_dropped_total",
            "Queries selected for the query log but dropped, by reason: rate (more than max_per_second), full (the writer was behind) or failed (not writable).",
            &["reason"],
        )?;
        let [rate, full, failed] = ["rate", "full", "failed"].map(|reason| dropped.with_label_values(&[reason]));
        Ok(Self {
            lines: counter(registry, "query_log_lines_total", "Lines written to the query log.")?,
            rate,
            full,
            failed,
        })
    }
}

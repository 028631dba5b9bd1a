//! Metrics of the query log.

use prometheus::{IntCounter, Registry};

use super::register::{counter, counters};

/// Lines written and dropped. Cheap to clone; clones share the counters.
#[derive(Clone, Debug)]
pub struct QueryLogMetrics {
    pub(crate) lines: IntCounter,
    /// Lines dropped because of the limit per second.
    pub rate: IntCounter,
    /// Lines dropped because the writer was behind.
    pub full: IntCounter,
    /// Lines dropped because they could not be written.
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

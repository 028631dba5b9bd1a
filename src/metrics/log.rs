//! Metrics of the process log.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, Registry};

use super::register::counters;

/// Lost log lines of this process. Static, because the log starts before the registry exists.
pub(crate) static LOST: LostLines = LostLines { full: AtomicU64::new(0), failed: AtomicU64::new(0) };

/// Lost log lines, by reason.
#[derive(Debug)]
pub(crate) struct LostLines {
    /// The reader of the log was too slow.
    pub full: AtomicU64,
    /// The lines could not be written.
    pub failed: AtomicU64,
}

/// [`LOST`] as of the last [`LogMetrics::refresh`].
#[derive(Debug)]
pub struct LogMetrics {
    full: IntCounter,
    failed: IntCounter,
}

impl LogMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let lost = counters(
            registry,
            "log_lines_lost_total",
            "Lines of the log on stderr that were lost, by reason: full (not read in time) or failed (no space, no reader).",
            &["reason"],
        )?;
        let [full, failed] = ["full", "failed"].map(|reason| lost.with_label_values(&[reason]));
        Ok(Self { full, failed })
    }

    /// Updates the metrics from [`LOST`].
    pub fn refresh(&self) {
        for (counter, lost) in [(&self.full, &LOST.full), (&self.failed, &LOST.failed)] {
            counter.inc_by(lost.load(Ordering::Relaxed).saturating_sub(counter.get()));
        }
    }
}

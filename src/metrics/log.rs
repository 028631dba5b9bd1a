//! Metrics of the log that the process writes of itself.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, Registry};

use super::register::counters;

/// Lines of this process that nobody will read. There is one log, and it begins before there is a registry.
pub static LOST: Lost = Lost { full: AtomicU64::new(0), failed: AtomicU64::new(0) };

/// Lines lost, by reason.
#[derive(Debug)]
pub struct Lost {
    /// Whoever reads the log was behind.
    pub full: AtomicU64,
    /// They could not be written.
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

    /// Takes over what has been lost by now.
    pub fn refresh(&self) {
        for (counter, lost) in [(&self.full, &LOST.full), (&self.failed, &LOST.failed)] {
            counter.inc_by(lost.load(Ordering::Relaxed).saturating_sub(counter.get()));
        }
    }
}

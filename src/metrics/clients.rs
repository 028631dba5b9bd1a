//! Counters by client. [`crate::jobs`] decides which clients have series of their own.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::register::counters;

/// Labels of each series.
const LABELS: &[&str] = &["namespace", "project", "runner"];

/// Counter families by client. Cheap to clone; clones share the counters.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    queries: IntCounterVec,
    failures: IntCounterVec,
}

/// Counters of one namespace, project and runner.
#[derive(Clone, Debug)]
pub struct ClientSeries {
    pub queries: IntCounter,
    pub failures: IntCounter,
}

impl ClientMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            queries: counters(
                registry,
                "client_queries_total",
                "Responses by namespace, project and runner of the client. The max_projects that ask most have their own series; all others are project other; clients without an identity are unknown.",
                LABELS,
            )?,
            failures: counters(
                registry,
                "client_failures_total",
                "Failed queries by namespace, project and runner: neither NOERROR nor a name that a search list produced.",
                LABELS,
            )?,
        })
    }

    /// Returns the series of these labels, creating them at zero.
    pub fn series(&self, labels: [&str; 3]) -> ClientSeries {
        ClientSeries {
            queries: self.queries.with_label_values(&labels),
            failures: self.failures.with_label_values(&labels),
        }
    }

    /// Removes the series of these labels.
    pub fn forget(&self, labels: [&str; 3]) {
        // An error means that the series did not exist.
        let _ = self.queries.remove_label_values(&labels);
        let _ = self.failures.remove_label_values(&labels);
    }
}

//! Metrics of whoever asks. Which clients have series of their own is for [`crate::jobs`] to say: here are the
//! counters.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::register::counters;

/// The labels of each series.
const LABELS: &[&str] = &["namespace", "project", "runner"];

/// The families of counters by client. Cheap to clone: all clones are the same ones.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    queries: IntCounterVec,
    failures: IntCounterVec,
}

/// The counters of one namespace, project and runner.
#[derive(Clone, Debug)]
pub struct ClientSeries {
    /// Answers to its queries.
    pub queries: IntCounter,
    /// Those that failed.
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

    /// The series of this namespace, project and runner; they begin at zero if there are none yet.
    pub fn series(&self, labels: [&str; 3]) -> ClientSeries {
        ClientSeries {
            queries: self.queries.with_label_values(&labels),
            failures: self.failures.with_label_values(&labels),
        }
    }

    /// Takes these series out.
    pub fn forget(&self, labels: [&str; 3]) {
        // An error says that they did not exist, which is what is wanted.
        let _ = self.queries.remove_label_values(&labels);
        let _ = self.failures.remove_label_values(&labels);
    }
}

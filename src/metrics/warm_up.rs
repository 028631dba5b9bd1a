//! Metrics of warm-up queries for jobs that are about to start.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::register::{counter, counters};

/// Reasons to skip a warm-up query.
pub(crate) const SKIPPED: [&str; 5] = ["cached", "local", "upstream", "view", "queue_full"];

/// Warm-up queries and their use.
#[derive(Debug)]
pub struct WarmUpMetrics {
    /// Job pods seen before they started.
    pub pods: IntCounter,
    /// Warm-up queries sent to upstreams.
    pub prefetches: IntCounter,
    /// Answers to warm-up queries that a client got from the cache.
    pub used: IntCounter,
    /// Warm-up queries that were skipped, by reason.
    pub skipped: IntCounterVec,
}

impl WarmUpMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            pods: counter(registry, "warm_up_pods_total", "Job pods seen before they started.")?,
            prefetches: counter(
                registry,
                "warm_up_prefetches_total",
                "Warm-up queries to upstreams for job pods that were about to start.",
            )?,
            used: counter(
                registry,
                "warm_up_used_total",
                "Answers to warm-up queries that a client got from the cache; counted when the answer expires.",
            )?,
            skipped: counters(
                registry,
                "warm_up_skipped_total",
                "Names of job pods without a warm-up query, by reason: cached, local, upstream (limit reached or down), view or queue_full.",
                &["reason"],
            )?,
        };
        for reason in SKIPPED {
            metrics.skipped.with_label_values(&[reason]);
        }
        Ok(metrics)
    }
}

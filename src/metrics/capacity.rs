//! Use of bounded resources, and requests rejected because a bound was reached.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use super::register::{counter, counters, int_gauge};

/// Values of the label `resource` of rejections.
pub const RESOURCES: [&str; 3] = ["pending_queries", "prefetches", "buffered_bytes"];

/// Use of bounded resources.
#[derive(Debug)]
pub struct CapacityMetrics {
    /// Open TCP connections of clients.
    pub tcp_connections: IntGauge,
    /// TCP connections closed on arrival because a limit was reached.
    pub tcp_rejected: IntCounter,
    /// Queries that are waiting for an upstream.
    pub pending_queries: IntGauge,
    /// Prefetches that are waiting for an upstream.
    pub pending_prefetches: IntGauge,
    /// Bytes of partly read queries and of responses that are waiting to be written.
    pub buffered_bytes: IntGauge,
    /// Queries, prefetches and messages rejected because a bound was reached, by resource.
    pub rejections: IntCounterVec,
}

impl CapacityMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let rejections = counters(
            registry,
            "overload_rejections_total",
            "Queries, prefetches and messages turned away because a bound was reached, by resource: \
             pending_queries, prefetches or buffered_bytes.",
            &["resource"],
        )?;
        // Rates and alerts need a series from the start, not only from the first event.
        for resource in RESOURCES {
            rejections.with_label_values(&[resource]);
        }
        Ok(Self {
            tcp_connections: int_gauge(registry, "tcp_connections", "Open TCP connections of clients.")?,
            tcp_rejected: counter(
                registry,
                "tcp_connections_rejected_total",
                "TCP connections of clients closed on arrival because a limit was reached.",
            )?,
            pending_queries: int_gauge(registry, "pending_queries", "Queries that wait for an upstream.")?,
            pending_prefetches: int_gauge(registry, "pending_prefetches", "Prefetches that wait for an upstream.")?,
            buffered_bytes: int_gauge(
                registry,
                "buffered_bytes",
                "Bytes of partly read queries and of responses that wait to be written.",
            )?,
            rejections,
        })
    }
}

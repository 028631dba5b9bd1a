//! Metrics of the cache.

use prometheus::{IntCounter, IntGauge, Registry};

use super::register::{counter, int_gauge};

/// Contents and use of the cache.
#[derive(Debug)]
pub struct CacheMetrics {
    pub(crate) entries: IntGauge,
    /// Memory of the entries in bytes, overhead included.
    pub bytes: IntGauge,
    /// Queries answered from the cache, stale answers and remembered failures included.
    pub hits: IntCounter,
    /// Queries for which the cache had no usable answer.
    pub misses: IntCounter,
    /// Entries evicted before they expired, to make room.
    pub evictions: IntCounter,
    /// Entries refreshed before they expired.
    pub prefetches: IntCounter,
}

impl CacheMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            entries: int_gauge(registry, "cache_entries", "Entries in the cache.")?,
            bytes: int_gauge(registry, "cache_bytes", "Bytes that the cache's entries take, overhead included.")?,
            hits: counter(
                registry,
                "cache_hits_total",
                "Queries answered from the cache, stale answers and remembered failures included.",
            )?,
            misses: counter(registry, "cache_misses_total", "Queries for which the cache had no usable answer.")?,
            evictions: counter(
                registry,
                "cache_evictions_total",
                "Entries evicted from the cache before their time to make room.",
            )?,
            prefetches: counter(
                registry,
                "cache_prefetches_total",
                "Popular entries fetched again before a client had to wait for them.",
            )?,
        })
    }
}

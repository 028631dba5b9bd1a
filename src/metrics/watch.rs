//! Metrics of the Kubernetes watch.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Registry};

use super::register::{counter, counters, gauge, int_gauge};

/// State of the attribution of clients by the Kubernetes watch.
#[derive(Debug)]
pub struct WatchMetrics {
    /// Pods of this node that have not ended.
    pub pods: IntGauge,
    /// Pods ignored because the bound on known pods was reached.
    pub ignored: IntCounter,
    /// 1 while every watch is established.
    pub connected: IntGauge,
    /// Watch events, by kind.
    pub events: IntCounterVec,
    /// Watches that ended, by reason.
    pub restarts: IntCounterVec,
    age: Gauge,
    heard: AtomicU64,
}

/// Value of `heard` while nothing is watched.
const NEVER: u64 = u64::MAX;

impl WatchMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            pods: int_gauge(registry, "watch_pods", "Known pods of this node that have not ended.")?,
            ignored: counter(
                registry,
                "watch_pods_ignored_total",
                "Pods ignored because the bound on known pods was reached.",
            )?,
            connected: int_gauge(
                registry,
                "watch_connected",
                "1 while the Kubernetes watch is established, 0 otherwise.",
            )?,
            events: counters(
                registry,
                "watch_events_total",
                "Watch events by kind: pods added, modified or deleted, bookmark, and listed for complete lists.",
                &["kind"],
            )?,
            restarts: counters(
                registry,
                "watch_restarts_total",
                "Kubernetes watches that ended, by reason: closed by the server, gone (410), silent or failed.",
                &["reason"],
            )?,
            age: gauge(
                registry,
                "watch_age_seconds",
                "Time since the last data from the Kubernetes API; 0 without a watch.",
            )?,
            heard: AtomicU64::new(NEVER),
        };
        for kind in ["added", "modified", "deleted", "bookmark", "listed"] {
            metrics.events.with_label_values(&[kind]);
        }
        for reason in ["closed", "gone", "silent", "failed"] {
            metrics.restarts.with_label_values(&[reason]);
        }
        Ok(metrics)
    }

    /// Records the time of the last data from the API, in milliseconds.
    pub fn heard_at(&self, now: u64) {
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Updates the age of the last data at the time `now`, in milliseconds.
    pub fn refresh(&self, now: u64) {
        let heard = self.heard.load(Ordering::Relaxed);
        let age = if heard == NEVER { 0 } else { now.saturating_sub(heard) };
        self.age.set(age as f64 / 1_000.0);
    }
}

//! Metrics of configuration reloads.

use prometheus::{IntCounterVec, IntGauge, Registry};

use super::register::{counters, int_gauge};

/// Values of the label `result`.
const RESULTS: [&str; 2] = ["applied", "rejected"];

/// Reloads, and keys that wait for a restart.
#[derive(Debug)]
pub struct ConfigMetrics {
    reloads: IntCounterVec,
    /// Keys of the configuration file that differ from the configuration in force until a restart.
    pub needs_restart: IntGauge,
}

impl ConfigMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let reloads = counters(
            registry,
            "config_reloads_total",
            "Configurations read at run time, by result: applied or rejected.",
            &["result"],
        )?;
        for result in RESULTS {
            reloads.with_label_values(&[result]);
        }
        let needs_restart = int_gauge(
            registry,
            "config_keys_waiting_for_restart",
            "Keys of the configuration file that differ from those in force until nodens is restarted; \
             `nodens status` names them.",
        )?;
        Ok(Self { reloads, needs_restart })
    }

    pub(crate) fn reloaded(&self, is_applied: bool) {
        self.reloads.with_label_values(&[RESULTS[usize::from(!is_applied)]]).inc();
    }
}

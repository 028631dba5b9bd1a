//! Metrics of search lists of clients.

use prometheus::{IntCounter, Registry};

use super::register::{counter, counters};

/// Values of the label `rule`, in the order of [`Rule`](crate::local::cluster::DenialRule).
const RULES: [&str; 2] = ["form", "ancestor"];

/// Values of the label `result`.
const CHECKS: [&str; 2] = ["denied", "exists"];

/// Counts of names that a search list produced.
#[derive(Debug)]
pub struct SearchMetrics {
    /// Names denied without a query, by the rule's number.
    pub denied: [IntCounter; RULES.len()],
    /// Queries for namespaces and Services that nodens sent on its own account.
    pub probes: IntCounter,
    /// Denied names sent to the upstream as a check: denied, and existing.
    pub checks: [IntCounter; CHECKS.len()],
    /// First names of a search list answered with the result of a later one (autopath).
    pub completed: IntCounter,
}

impl SearchMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let denied = counters(
            registry,
            "search_denied_total",
            "Names below a cluster's domain denied without a query, by rule: form (cannot exist in Kubernetes) or ancestor (namespace or Service does not exist).",
            &["rule"],
        )?;
        let checks = counters(
            registry,
            "search_checks_total",
            "Names denied by their form and sent to the upstream as a check, by result: denied, or exists, which ends pruning on the route.",
            &["result"],
        )?;
        Ok(Self {
            denied: RULES.map(|rule| denied.with_label_values(&[rule])),
            probes: counter(
                registry,
                "search_probes_total",
                "Queries for namespaces and Services on nodens's own account, to deny names below those that do not exist.",
            )?,
            checks: CHECKS.map(|result| checks.with_label_values(&[result])),
            completed: counter(
                registry,
                "search_completed_total",
                "First names of a search list that were answered with the result of a later one (autopath).",
            )?,
        })
    }
}

//! Metrics of the node's addresses and firewall.

use prometheus::{IntCounter, IntCounterVec, Registry};

use super::register::{counter, counters};

/// Repairs of the node, and packets that its firewall excluded from connection tracking.
#[derive(Debug)]
pub struct NodeMetrics {
    /// Addresses and firewall tables that another program removed and nodens restored, by `what`.
    pub repairs: IntCounterVec,
    /// Packets excluded from connection tracking, by kind.
    pub untracked: IntCounterVec,
    /// Packets that the kernel sent to the fallback.
    pub fallback: IntCounter,
}

impl NodeMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let repairs = counters(
            registry,
            "node_repairs_total",
            "Addresses and firewall tables that another program removed and nodens restored, by what: address or firewall.",
            &["what"],
        )?;
        let untracked = counters(
            registry,
            "node_untracked_packets_total",
            "Packets that the firewall excluded from connection tracking, by kind: queries to the node's addresses, \
             or responses from them.",
            &["kind"],
        )?;
        let fallback = counter(
            registry,
            "node_fallback_packets_total",
            "Packets of queries that the kernel sent to the fallback of [node] because nodens did not serve. Those of a time \
             without nodens are counted at the next start.",
        )?;
        for what in ["address", "firewall"] {
            repairs.with_label_values(&[what]);
        }
        for kind in ["queries", "responses"] {
            untracked.with_label_values(&[kind]);
        }
        Ok(Self { repairs, untracked, fallback })
    }
}

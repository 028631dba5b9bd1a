//! Metrics of queries of clients and their responses.

use prometheus::{HistogramVec, IntCounter, IntCounterVec, Registry};

use super::register::{counter, counters, histograms};

/// Counts and latencies of queries.
#[derive(Debug)]
pub struct QueryMetrics {
    /// Queries received, by transport, type and route.
    pub received: IntCounterVec,
    /// Responses sent, by response code and source.
    pub responses: IntCounterVec,
    /// Time from a query's arrival to its response, by source.
    pub duration: HistogramVec,
    /// Datagrams and messages without a response, by reason.
    pub dropped: IntCounterVec,
    /// Answers that private addresses or names were removed from, by route.
    pub filtered: IntCounterVec,
    /// Queries that joined an identical one in flight.
    pub coalesced: IntCounter,
}

impl QueryMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            received: counters(
                registry,
                "queries_total",
                "Queries received, by transport, type and route.",
                &["transport", "type", "route"],
            )?,
            responses: counters(
                registry,
                "responses_total",
                "Responses sent, by response code and source: hit, stale, local, upstream or refused.",
                &["rcode", "source"],
            )?,
            duration: histograms(
                registry,
                "request_duration_seconds",
                "Time from the arrival of a query to its response, by source.",
                &["source"],
            )?,
            dropped: counters(
                registry,
                "dropped_packets_total",
                "Packets that got no response, by reason.",
                &["reason"],
            )?,
            filtered: counters(
                registry,
                "filtered_answers_total",
                "Answers that private addresses or CNAMEs into other routes were removed from \
                 (deny_private_addresses, deny_private_names), by route.",
                &["route"],
            )?,
            coalesced: counter(
                registry,
                "coalesced_queries_total",
                "Queries that joined an identical one in flight to an upstream.",
            )?,
        })
    }
}

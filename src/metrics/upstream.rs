//! Metrics of upstreams and their servers.

use std::array;
use std::sync::{Arc, OnceLock};

use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::events::{EventKind, RecentEvents, UnixMillis};
use super::faults::Faults;
use super::register::{counters, gauges, histograms, int_gauges};

/// Metrics of all servers.
#[derive(Debug)]
pub(super) struct UpstreamMetrics {
    duration: HistogramVec,
    in_flight: IntGaugeVec,
    queries: IntCounterVec,
    failures: IntCounterVec,
    hedges: IntCounterVec,
    hedges_won: IntCounterVec,
    shed: IntCounterVec,
    ejections: IntCounterVec,
    healthy: IntGaugeVec,
    smoothed: GaugeVec,
}

/// Metrics of one server, with its series resolved once.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    labels: [String; 2],
    failures: IntCounterVec,
    /// Failures by kind; resolved at the first failure, so a server without failures has no such series.
    failed: [OnceLock<IntCounter>; FAILURE_KINDS.len()],
    queries: [IntCounter; 3],
    events: Arc<RecentEvents>,
    faults: Arc<Faults>,
    /// Time from a query to its response.
    pub duration: Histogram,
    pub(crate) in_flight: IntGauge,
    /// Hedges sent to the server.
    pub hedges: IntCounter,
    /// Hedges that brought the first answer.
    pub hedges_won: IntCounter,
    pub(crate) ejections: IntCounter,
    /// 1 while the server takes queries of clients.
    pub healthy: IntGauge,
    /// Smoothed latency in seconds.
    pub smoothed: prometheus::Gauge,
}

/// Values of the label `transport` of queries to servers.
pub const TRANSPORTS: [&str; 3] = ["udp", "tcp", "tls"];

/// Values of the label `kind` of failed attempts.
pub const FAILURE_KINDS: [&str; 12] = [
    "timeout",
    "connection_refused",
    "network",
    "servfail",
    "refused",
    "notimp",
    "formerr",
    "other_rcode",
    "malformed",
    "tls",
    "quota",
    "local",
];

impl UpstreamMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let server = &["upstream", "server"];
        Ok(Self {
            duration: histograms(
                registry,
                "upstream_request_duration_seconds",
                "Time from a query to an upstream server to its response, late responses included.",
                server,
            )?,
            in_flight: int_gauges(registry, "upstream_in_flight", "Queries in flight to an upstream server.", server)?,
            queries: counters(
                registry,
                "upstream_queries_total",
                "Queries sent to an upstream server, by transport.",
                &["upstream", "server", "transport"],
            )?,
            failures: counters(
                registry,
                "upstream_failures_total",
                "Attempts at an upstream server without an answer, by kind.",
                &["upstream", "server", "kind"],
            )?,
            hedges: counters(
                registry,
                "upstream_hedges_total",
                "Queries sent to a server as a hedge: while another one was still within its usual time.",
                server,
            )?,
            hedges_won: counters(
                registry,
                "upstream_hedges_won_total",
                "Hedges that brought the first answer.",
                server,
            )?,
            shed: counters(
                registry,
                "upstream_shed_total",
                "Questions not sent because the max_qps of an upstream was nearly used up; the client got a stale answer or SERVFAIL.",
                &["upstream"],
            )?,
            ejections: counters(
                registry,
                "upstream_ejections_total",
                "Times an upstream server was ejected: from then on it is probed and gets no queries of clients.",
                server,
            )?,
            healthy: int_gauges(
                registry,
                "upstream_healthy",
                "1 while an upstream server takes queries of clients, 0 while it is only probed.",
                server,
            )?,
            smoothed: gauges(
                registry,
                "upstream_smoothed_latency_seconds",
                "Exponentially smoothed latency of an upstream server, by which `fastest` chooses.",
                server,
            )?,
        })
    }

    pub(super) fn shed(&self, upstream: &str) -> IntCounter {
        self.shed.with_label_values(&[upstream])
    }

    pub(super) fn server(
        &self,
        upstream: &str,
        server: &str,
        (events, faults): (&Arc<RecentEvents>, &Arc<Faults>),
    ) -> ServerMetrics {
        let labels = [upstream, server];
        let by_transport = |transport| self.queries.with_label_values(&[upstream, server, transport]);
        ServerMetrics {
            labels: labels.map(str::to_string),
            failures: self.failures.clone(),
            failed: array::from_fn(|_| OnceLock::new()),
            events: Arc::clone(events),
            faults: Arc::clone(faults),
            queries: TRANSPORTS.map(by_transport),
            duration: self.duration.with_label_values(&labels),
            in_flight: self.in_flight.with_label_values(&labels),
            hedges: self.hedges.with_label_values(&labels),
            hedges_won: self.hedges_won.with_label_values(&labels),
            ejections: self.ejections.with_label_values(&labels),
            healthy: self.healthy.with_label_values(&labels),
            smoothed: self.smoothed.with_label_values(&labels),
        }
    }

    pub(super) fn forget_server(&self, upstream: &str, server: &str) {
        let labels = [upstream, server];
        // An error means that the series did not exist.
        let _ = self.duration.remove_label_values(&labels);
        let _ = self.in_flight.remove_label_values(&labels);
        let _ = self.hedges.remove_label_values(&labels);
        let _ = self.hedges_won.remove_label_values(&labels);
        let _ = self.ejections.remove_label_values(&labels);
        let _ = self.healthy.remove_label_values(&labels);
        let _ = self.smoothed.remove_label_values(&labels);
        for transport in TRANSPORTS {
            let _ = self.queries.remove_label_values(&[upstream, server, transport]);
        }
        for kind in FAILURE_KINDS {
            let _ = self.failures.remove_label_values(&[upstream, server, kind]);
        }
    }
}

impl ServerMetrics {
    /// Counts a query sent over the transport with this index in [`TRANSPORTS`].
    pub fn sent(&self, transport: usize) {
        if let Some(counter) = self.queries.get(transport) {
            counter.inc();
        }
    }

    /// Counts a failed attempt; `kind` is one of [`FAILURE_KINDS`].
    pub fn failed(&self, kind: &str) {
        let [upstream, server] = &self.labels;
        let resolve = || self.failures.with_label_values(&[upstream.as_str(), server.as_str(), kind]);
        if let Some(index) = FAILURE_KINDS.iter().position(|known| *known == kind) {
            self.failed[index].get_or_init(resolve).inc();
        }
    }

    /// Returns the number of queries sent, by transport.
    pub fn queries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        TRANSPORTS.into_iter().zip(self.queries.iter().map(IntCounter::get))
    }

    /// Returns the number of failed attempts, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |counter: &OnceLock<IntCounter>| counter.get().map_or(0, IntCounter::get);
        FAILURE_KINDS.into_iter().zip(self.failed.iter().map(count))
    }

    /// Counts a fault of this machine in an attempt, by its index in [`CAUSES`](super::faults::CAUSES).
    pub fn local_fault(&self, index: usize, now: UnixMillis) {
        self.faults.count(index, now);
    }

    /// Records an event about the server.
    pub fn record_event(&self, time: UnixMillis, kind: EventKind, reason: String) {
        let [upstream, server] = &self.labels;
        self.events.record(time, kind, (Some(upstream), Some(server)), reason);
    }
}

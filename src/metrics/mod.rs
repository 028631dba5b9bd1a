//! Every metric in one place, with its help text; and [`events`], what happened.
//!
//! The hot path never touches these: a worker counts in a tally of plain numbers (see `answer`) and adds it up here once a batch.

use std::array;
use std::sync::{Arc, OnceLock};

use prometheus::{GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

pub mod clients;
pub mod events;
pub mod faults;
pub mod log;
pub mod process;
pub mod query_log;
mod register;
pub mod search;
mod source;
pub mod warm_up;
pub mod watch;

use clients::ClientMetrics;
use events::{Events, Kind, UnixMillis};
use faults::Faults;
pub use log::LogMetrics;
use process::ProcessMetrics;
pub use query_log::QueryLogMetrics;
use register::{counter, counters, gauges, histograms, int_gauge, int_gauges};
pub use search::SearchMetrics;
pub use source::Source;
pub use warm_up::WarmUpMetrics;
pub use watch::WatchMetrics;

/// The metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Queries by transport, type and route.
    pub queries: IntCounterVec,
    /// Responses by response code and source.
    pub responses: IntCounterVec,
    /// From a query's arrival to its response, by source.
    pub duration: HistogramVec,
    /// Packets that got no response, by reason.
    pub dropped: IntCounterVec,
    /// Open TCP connections of clients.
    pub tcp_connections: IntGauge,
    /// TCP connections that were closed on arrival because a cap was reached.
    pub tcp_rejected: IntCounter,
    /// Queries that wait for an upstream.
    pub pending: IntGauge,
    /// Prefetches under way.
    pub prefetches: IntGauge,
    /// Bytes of messages that wait to be read, written or sent.
    pub buffered: IntGauge,
    /// Queries, prefetches and connections that were turned away because a bound was reached, by resource.
    pub overload: IntCounterVec,
    /// Answers that private addresses were taken out of, by route.
    pub filtered: IntCounterVec,
    /// Queries that joined one already under way.
    pub coalesced: IntCounter,
    /// Entries in the cache.
    pub cache_entries: IntGauge,
    /// Bytes that they take.
    pub cache_bytes: IntGauge,
    /// Answers found in the cache, remembered failures included.
    pub cache_hits: IntCounter,
    /// Queries for which the cache had nothing.
    pub cache_misses: IntCounter,
    /// Entries pushed out by others.
    pub cache_evictions: IntCounter,
    /// Entries fetched anew before they expired.
    pub cache_prefetches: IntCounter,
    /// Configurations taken or rejected at run time.
    pub reloads: IntCounterVec,
    /// Keys of the configuration that wait for a restart.
    pub needs_restart: IntGauge,
    /// What was put back on the node.
    pub node_repairs: IntCounterVec,
    /// Packets past connection tracking.
    pub node_untracked: IntCounterVec,
    /// Worker processes that died and were replaced.
    pub worker_restarts: IntCounter,
    /// The process itself.
    pub process: ProcessMetrics,
    /// What happened.
    pub events: Arc<Events>,
    /// Faults of this machine.
    pub faults: Arc<Faults>,
    /// The watch of the Kubernetes API.
    pub watch: WatchMetrics,
    /// What is asked ahead for jobs.
    pub warm_up: WarmUpMetrics,
    /// Whoever asks.
    pub clients: ClientMetrics,
    /// The log of queries.
    pub query_log: QueryLogMetrics,
    /// The log of the process itself.
    pub log: LogMetrics,
    /// What was done about search lists.
    pub search: SearchMetrics,
    upstream: UpstreamVecs,
}

#[derive(Debug)]
struct UpstreamVecs {
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

/// The metrics of one upstream server, resolved once.
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    labels: [String; 2],
    failures: IntCounterVec,
    /// By kind; resolved at the first one, so that a server that never fails has no such series.
    failed: [OnceLock<IntCounter>; FAILURE_KINDS.len()],
    queries: [IntCounter; 3],
    events: Arc<Events>,
    faults: Arc<Faults>,
    /// From a query to its reply.
    pub duration: Histogram,
    /// Queries under way.
    pub in_flight: IntGauge,
    /// Hedges sent to it.
    pub hedges: IntCounter,
    /// Hedges to it that brought the first answer.
    pub hedges_won: IntCounter,
    /// How often it was ejected.
    pub ejections: IntCounter,
    /// 1 while it takes clients' queries.
    pub healthy: IntGauge,
    /// Its smoothed latency in seconds.
    pub smoothed: prometheus::Gauge,
}

impl Metrics {
    /// All metrics, at zero.
    ///
    /// # Errors
    /// A name is taken twice, which no input can cause.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let events = Arc::<Events>::default();
        let build = int_gauges(&registry, "build_info", "Version of the running nodens; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let server = &["upstream", "server"];
        let metrics = Self {
            process: ProcessMetrics::new(&registry)?,
            queries: counters(
                &registry,
                "queries_total",
                "Queries received, by transport, type and route.",
                &["transport", "type", "route"],
            )?,
            responses: counters(
                &registry,
                "responses_total",
                "Responses sent, by response code and source: hit, stale, local, upstream or refused.",
                &["rcode", "source"],
            )?,
            duration: histograms(
                &registry,
                "request_duration_seconds",
                "Time from a query's arrival to its response, by source.",
                &["source"],
            )?,
            dropped: counters(
                &registry,
                "dropped_packets_total",
                "Packets that got no response, by reason.",
                &["reason"],
            )?,
            tcp_connections: int_gauge(&registry, "tcp_connections", "Open TCP connections of clients.")?,
            tcp_rejected: counter(
                &registry,
                "tcp_connections_rejected_total",
                "TCP connections closed on arrival because a cap was reached.",
            )?,
            pending: int_gauge(&registry, "pending_queries", "Queries that wait for an upstream.")?,
            prefetches: int_gauge(&registry, "pending_prefetches", "Prefetches that wait for an upstream.")?,
            buffered: int_gauge(
                &registry,
                "buffered_bytes",
                "Bytes of queries not read to their end and of responses that wait to be written.",
            )?,
            overload: counters(
                &registry,
                "overload_rejections_total",
                "Queries, prefetches and connections turned away because a bound was reached, by resource.",
                &["resource"],
            )?,
            filtered: counters(
                &registry,
                "filtered_answers_total",
                "Answers that private addresses were taken out of (deny_private_addresses), by route.",
                &["route"],
            )?,
            coalesced: counter(
                &registry,
                "coalesced_queries_total",
                "Queries that joined an identical one already under way to an upstream.",
            )?,
            cache_entries: int_gauge(&registry, "cache_entries", "Entries in the cache.")?,
            cache_bytes: int_gauge(
                &registry,
                "cache_bytes",
                "Bytes that the cache's entries take, overhead included.",
            )?,
            cache_hits: counter(
                &registry,
                "cache_hits_total",
                "Queries answered from the cache, stale answers included.",
            )?,
            cache_misses: counter(
                &registry,
                "cache_misses_total",
                "Queries for which the cache had no usable answer.",
            )?,
            cache_evictions: counter(
                &registry,
                "cache_evictions_total",
                "Entries pushed out of the cache by others before their time.",
            )?,
            cache_prefetches: counter(
                &registry,
                "cache_prefetches_total",
                "Popular entries fetched anew before a client had to wait for them.",
            )?,
            reloads: counters(
                &registry,
                "config_reloads_total",
                "Configurations read at run time, by result: taken or rejected.",
                &["result"],
            )?,
            needs_restart: int_gauge(
                &registry,
                "config_keys_waiting_for_restart",
                "Keys of the configuration file that differ from those in force until nodens is restarted.",
            )?,
            node_repairs: counters(
                &registry,
                "node_repairs_total",
                "What somebody took away of the node's addresses and firewall and nodens put back, by what it was.",
                &["what"],
            )?,
            node_untracked: counters(
                &registry,
                "node_untracked_packets_total",
                "Packets that the firewall kept from connection tracking: queries to the node's addresses, replies of them.",
                &["kind"],
            )?,
            worker_restarts: counter(
                &registry,
                "worker_restarts_total",
                "Worker processes that died and were replaced by the supervisor.",
            )?,
            faults: Arc::new(Faults::new(&registry, Arc::clone(&events))?),
            events,
            watch: WatchMetrics::new(&registry)?,
            warm_up: WarmUpMetrics::new(&registry)?,
            clients: ClientMetrics::new(&registry)?,
            query_log: QueryLogMetrics::new(&registry)?,
            log: LogMetrics::new(&registry)?,
            search: SearchMetrics::new(&registry)?,
            upstream: UpstreamVecs {
                duration: histograms(
                    &registry,
                    "upstream_request_duration_seconds",
                    "Time from a query to an upstream server to its reply, late replies included.",
                    server,
                )?,
                in_flight: int_gauges(
                    &registry,
                    "upstream_in_flight",
                    "Queries under way to an upstream server.",
                    server,
                )?,
                queries: counters(
                    &registry,
                    "upstream_queries_total",
                    "Queries sent to an upstream server, by transport.",
                    &["upstream", "server", "transport"],
                )?,
                failures: counters(
                    &registry,
                    "upstream_failures_total",
                    "Attempts at an upstream server that brought no answer, by kind.",
                    &["upstream", "server", "kind"],
                )?,
                hedges: counters(
                    &registry,
                    "upstream_hedges_total",
                    "Queries sent to a second server while the first was still within its time.",
                    server,
                )?,
                hedges_won: counters(
                    &registry,
                    "upstream_hedges_won_total",
                    "Queries sent to a second server that brought the first answer.",
                    server,
                )?,
                shed: counters(
                    &registry,
                    "upstream_shed_total",
                    "Questions not asked because an upstream's max_qps was nearly used up: SERVFAIL, or a stale answer.",
                    &["upstream"],
                )?,
                ejections: counters(
                    &registry,
                    "upstream_ejections_total",
                    "Times an upstream server was ejected: it gets probes then, no queries of clients.",
                    server,
                )?,
                healthy: int_gauges(
                    &registry,
                    "upstream_healthy",
                    "1 while an upstream server takes clients' queries, 0 while it is only probed.",
                    server,
                )?,
                smoothed: gauges(
                    &registry,
                    "upstream_smoothed_latency_seconds",
                    "Exponentially smoothed latency of an upstream server.",
                    server,
                )?,
            },
            registry,
        };
        // A rate or an alert needs a series from the start, not only from the first event on.
        for result in ["taken", "rejected"] {
            metrics.reloads.with_label_values(&[result]);
        }
        for resource in RESOURCES {
            metrics.overload.with_label_values(&[resource]);
        }
        for what in ["address", "firewall"] {
            metrics.node_repairs.with_label_values(&[what]);
        }
        for kind in ["queries", "replies"] {
            metrics.node_untracked.with_label_values(&[kind]);
        }
        Ok(metrics)
    }

    /// All of them in Prometheus's text format.
    pub fn render(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// The questions that were not asked of the group `upstream` because of its `max_qps`.
    pub fn shed(&self, upstream: &str) -> IntCounter {
        self.upstream.shed.with_label_values(&[upstream])
    }

    /// The metrics of `server` of the group `upstream`.
    pub fn server(&self, upstream: &str, server: &str) -> ServerMetrics {
        let labels = [upstream, server];
        let vecs = &self.upstream;
        let by_transport = |transport| vecs.queries.with_label_values(&[upstream, server, transport]);
        ServerMetrics {
            labels: labels.map(str::to_string),
            failures: vecs.failures.clone(),
            failed: array::from_fn(|_| OnceLock::new()),
            events: Arc::clone(&self.events),
            faults: Arc::clone(&self.faults),
            queries: TRANSPORTS.map(by_transport),
            duration: vecs.duration.with_label_values(&labels),
            in_flight: vecs.in_flight.with_label_values(&labels),
            hedges: vecs.hedges.with_label_values(&labels),
            hedges_won: vecs.hedges_won.with_label_values(&labels),
            ejections: vecs.ejections.with_label_values(&labels),
            healthy: vecs.healthy.with_label_values(&labels),
            smoothed: vecs.smoothed.with_label_values(&labels),
        }
    }

    /// Forgets a server that is no longer configured.
    pub fn forget_server(&self, upstream: &str, server: &str) {
        let labels = [upstream, server];
        let vecs = &self.upstream;
        // An error says that the series did not exist, which is what is wanted.
        let _ = vecs.duration.remove_label_values(&labels);
        let _ = vecs.in_flight.remove_label_values(&labels);
        let _ = vecs.hedges.remove_label_values(&labels);
        let _ = vecs.hedges_won.remove_label_values(&labels);
        let _ = vecs.ejections.remove_label_values(&labels);
        let _ = vecs.healthy.remove_label_values(&labels);
        let _ = vecs.smoothed.remove_label_values(&labels);
        for transport in TRANSPORTS {
            let _ = vecs.queries.remove_label_values(&[upstream, server, transport]);
        }
        for kind in FAILURE_KINDS {
            let _ = vecs.failures.remove_label_values(&[upstream, server, kind]);
        }
    }
}

/// The values of the label `resource` of what was turned away.
pub const RESOURCES: [&str; 3] = ["pending_queries", "prefetches", "buffered_bytes"];

/// The values of the label `transport` of queries to upstreams.
pub const TRANSPORTS: [&str; 3] = ["udp", "tcp", "tls"];

/// The values of the label `kind` of failed attempts.
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

impl ServerMetrics {
    /// A query was sent over the transport of that number in [`TRANSPORTS`].
    pub fn sent(&self, transport: usize) {
        if let Some(counter) = self.queries.get(transport) {
            counter.inc();
        }
    }

    /// An attempt failed; `kind` is one of [`FAILURE_KINDS`].
    pub fn failed(&self, kind: &str) {
        let [upstream, server] = &self.labels;
        let resolve = || self.failures.with_label_values(&[upstream.as_str(), server.as_str(), kind]);
        if let Some(index) = FAILURE_KINDS.iter().position(|known| *known == kind) {
            self.failed[index].get_or_init(resolve).inc();
        }
    }

    /// Queries sent, by transport.
    pub fn queries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        TRANSPORTS.into_iter().zip(self.queries.iter().map(IntCounter::get))
    }

    /// Attempts that failed, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |counter: &OnceLock<IntCounter>| counter.get().map_or(0, IntCounter::get);
        FAILURE_KINDS.into_iter().zip(self.failed.iter().map(count))
    }

    /// An attempt at it failed by a fault of this machine, by its index in [`faults::CAUSES`].
    pub fn local_fault(&self, index: usize, now: UnixMillis) {
        self.faults.count(index, now);
    }

    /// Something happened to it.
    pub fn tell(&self, time: UnixMillis, kind: Kind, reason: String) {
        let [upstream, server] = &self.labels;
        self.events.tell(time, kind, (Some(upstream), Some(server)), reason);
    }
}

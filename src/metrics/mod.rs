//! All metrics with their help texts; and [`events`], the log of state changes.
//!
//! The hot path never touches metrics: a worker counts in local plain numbers (see `answer`) and adds them here once
//! per batch.

use std::sync::Arc;

use prometheus::{IntCounter, Registry};

mod cache;
mod capacity;
pub(crate) mod clients;
mod config;
pub mod events;
pub(crate) mod faults;
pub(crate) mod log;
mod node;
pub mod process;
mod queries;
pub(crate) mod query_log;
mod register;
pub(crate) mod search;
mod source;
mod upstream;
pub(crate) mod warm_up;
pub(crate) mod watch;

pub use cache::CacheMetrics;
pub use capacity::{CapacityMetrics, RESOURCES};
use clients::ClientMetrics;
pub use config::ConfigMetrics;
use events::RecentEvents;
use faults::Faults;
pub use log::LogMetrics;
pub use node::NodeMetrics;
use process::ProcessMetrics;
pub use queries::QueryMetrics;
pub use query_log::QueryLogMetrics;
use register::{counter, int_gauges};
pub use search::SearchMetrics;
pub use source::AnswerSource;
use upstream::UpstreamMetrics;
pub use upstream::{FAILURE_KINDS, ServerMetrics, TRANSPORTS};
pub use warm_up::WarmUpMetrics;
pub use watch::WatchMetrics;

/// Metrics of one process, by subject.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Queries of clients and the responses to them.
    pub queries: QueryMetrics,
    /// Use of bounded resources.
    pub capacity: CapacityMetrics,
    pub(crate) cache: CacheMetrics,
    pub(crate) config: ConfigMetrics,
    /// The node's addresses and firewall.
    pub node: NodeMetrics,
    pub(crate) search: SearchMetrics,
    /// Queries and failures by client.
    pub clients: ClientMetrics,
    pub(crate) watch: WatchMetrics,
    pub(crate) warm_up: WarmUpMetrics,
    pub(crate) query_log: QueryLogMetrics,
    pub(crate) log: LogMetrics,
    pub(crate) process: ProcessMetrics,
    /// Worker processes that died and were replaced.
    pub worker_restarts: IntCounter,
    /// Failed handovers, on either side.
    pub handover_failures: IntCounter,
    /// Faults of this machine.
    pub faults: Arc<Faults>,
    pub(crate) events: Arc<RecentEvents>,
    upstream: UpstreamMetrics,
}

impl Metrics {
    /// Returns all metrics, at zero.
    ///
    /// # Errors
    /// Two metrics have the same name; no input can cause this.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let events = Arc::<RecentEvents>::default();
        let build = int_gauges(&registry, "build_info", "Version of the running nodens; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            queries: QueryMetrics::new(&registry)?,
            capacity: CapacityMetrics::new(&registry)?,
            cache: CacheMetrics::new(&registry)?,
            config: ConfigMetrics::new(&registry)?,
            node: NodeMetrics::new(&registry)?,
            search: SearchMetrics::new(&registry)?,
            clients: ClientMetrics::new(&registry)?,
            watch: WatchMetrics::new(&registry)?,
            warm_up: WarmUpMetrics::new(&registry)?,
            query_log: QueryLogMetrics::new(&registry)?,
            log: LogMetrics::new(&registry)?,
            process: ProcessMetrics::new(&registry)?,
            worker_restarts: counter(
                &registry,
                "worker_restarts_total",
                "Worker processes that died and were replaced by the supervisor.",
            )?,
            handover_failures: counter(
                &registry,
                "handover_failures_total",
                "Handovers that failed: to a successor, or from a predecessor that shares its ports instead.",
            )?,
            faults: Arc::new(Faults::new(&registry, Arc::clone(&events))?),
            events,
            upstream: UpstreamMetrics::new(&registry)?,
            registry,
        })
    }

    /// Returns all metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Returns the counter of questions not sent because of the `max_qps` of `upstream`.
    pub fn shed(&self, upstream: &str) -> IntCounter {
        self.upstream.shed(upstream)
    }

    /// Returns the metrics of `server` of `upstream`.
    pub fn server(&self, upstream: &str, server: &str) -> ServerMetrics {
        self.upstream.server(upstream, server, (&self.events, &self.faults))
    }

    /// Removes the series of a server that is no longer configured.
    pub fn forget_server(&self, upstream: &str, server: &str) {
        self.upstream.forget_server(upstream, server);
    }
}

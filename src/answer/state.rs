//! State shared by all workers: data only. The other files contain the operations on it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::admission::Rates;
use crate::cache::Cache;
use crate::clients::{Clients, Tables};
use crate::clock::Millis;
use crate::coalesce::Coalesce;
use crate::config::Config;
use crate::epoch::Epoch;
use crate::governor::Governor;
use crate::jobs::Jobs;
use crate::jobs::projects::Projects;
use crate::metrics::Metrics;
use crate::query_log::QueryLog;
use crate::snapshot::Snapshot;
use crate::warm_up::queue::Queue;

/// State shared by all workers: the source of answers, limits and statistics of clients, and names to prefetch for them.
pub struct Resolver {
    /// Answers of upstreams, shared by all workers.
    pub cache: Cache,
    pub(crate) coalescer: Arc<Coalesce>,
    /// Configuration in force; a reload replaces it as a whole.
    pub snapshot: ArcSwap<Snapshot>,
    /// Pods that send queries; clients named in the configuration are in the snapshot, see [`Resolver::tables`].
    pub clients: Arc<Clients>,
    /// Zero of all times in milliseconds.
    pub epoch: Epoch,
    /// Limits that hold for each client and for the process.
    pub limits: ClientLimits,
    /// Statistics of clients; settled off the hot path.
    pub accounts: Accounting,
    /// Jobs that are about to start, and the names to prefetch for them.
    pub warm_up: Queue,
    /// Metrics that `/metrics` exposes.
    pub metrics: Arc<Metrics>,
}

pub struct ClientLimits {
    /// Memory and pending queries that each client holds.
    pub governor: Governor,
    /// Query rate of each client, for views that limit it.
    pub(super) rates: Rates,
    /// Rate of each client's queries about itself.
    pub(super) introspection: Rates,
}

/// Statistics of clients. Workers record them in buffers of their own, which the control thread merges.
pub struct Accounting {
    pub jobs: Jobs,
    /// Log of single queries.
    pub query_log: QueryLog,
}

impl Resolver {
    /// Returns a resolver with an empty cache.
    pub fn new(snapshot: Snapshot, metrics: Arc<Metrics>) -> Self {
        let cache = Cache::new(snapshot.config.cache.memory);
        Self::with_cache(snapshot, metrics, cache, Epoch::new())
    }

    /// Returns a resolver with this cache, in which times are milliseconds since `epoch`.
    pub(crate) fn with_cache(snapshot: Snapshot, metrics: Arc<Metrics>, cache: Cache, epoch: Epoch) -> Self {
        let jobs = Jobs::new(Projects::new(&metrics.clients, snapshot.config.metrics.max_projects));
        jobs.query_history(|query_history| query_history.learn(snapshot.config.warm_up.enabled));
        Self {
            cache,
            coalescer: Arc::default(),
            clients: Arc::default(),
            epoch,
            limits: ClientLimits { governor: Governor::new(), rates: Rates::new(), introspection: Rates::new() },
            accounts: Accounting { jobs, query_log: QueryLog::default() },
            warm_up: Queue::default(),
            metrics,
            snapshot: ArcSwap::from_pointee(snapshot),
        }
    }

    /// Returns the current time in milliseconds; zero is before the start of this resolver.
    pub fn now(&self) -> Millis {
        self.epoch.now()
    }

    /// Converts a time that has already been read.
    #[inline]
    pub fn millis(&self, now: Instant) -> Millis {
        self.epoch.millis(now)
    }

    /// Returns the identities of clients under a configuration; to be used with the views of the same configuration.
    #[inline]
    pub fn tables<'s>(&self, snapshot: &'s Snapshot) -> Tables<'s> {
        self.clients.tables(&snapshot.clients)
    }

    /// Returns the moment of `millis`.
    pub fn instant(&self, millis: Millis) -> Instant {
        self.epoch.instant(millis)
    }

    /// Prepares a writer for the query log of a configuration before that is in force: see [`QueryLog::follow`].
    pub fn follow_query_log(&self, config: &Config) {
        self.accounts.query_log.follow(config, &self.clients, self.epoch, &self.metrics.query_log);
    }
}

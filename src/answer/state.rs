//! What all workers share: data alone. What is done with it is in the other files.

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

/// All that workers share: what answers are made of, and beside it what is held against clients, what is written down of
/// them, and what is asked ahead for them.
pub struct Resolver {
    /// What upstreams said.
    pub cache: Cache,
    /// Questions under way.
    pub flights: Arc<Coalesce>,
    /// The configuration in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// Which pods ask; the configuration's own clients are in its snapshot, see [`Resolver::tables`].
    pub clients: Arc<Clients>,
    /// Since when times are counted.
    pub epoch: Epoch,
    /// How much clients may have.
    pub limits: Limits,
    /// What clients asked, and what came of it.
    pub accounts: Accounts,
    /// Jobs that are about to start, and what is asked for them ahead.
    pub warm_up: Queue,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// How much clients may have.
pub struct Limits {
    /// What each of them holds.
    pub governor: Governor,
    /// How much each of them asked of late, where a view limits that.
    pub(super) rates: Rates,
    /// How often each of them asked for itself of late.
    pub(super) introspection: Rates,
}

/// What clients asked, and what came of it. Workers enter it in ledgers of their own, which the control thread settles.
pub struct Accounts {
    /// By client.
    pub jobs: Jobs,
    /// Query by query.
    pub query_log: QueryLog,
}

impl Resolver {
    /// A resolver with an empty cache.
    pub fn new(snapshot: Snapshot, metrics: Arc<Metrics>) -> Self {
        let jobs = Jobs::new(Projects::new(&metrics.clients, snapshot.config.metrics.max_projects));
        jobs.query_history(|query_history| query_history.learn(snapshot.config.warm_up.enabled));
        Self {
            cache: Cache::new(snapshot.config.cache.memory),
            flights: Arc::default(),
            clients: Arc::default(),
            epoch: Epoch::new(),
            limits: Limits { governor: Governor::new(), rates: Rates::new(), introspection: Rates::new() },
            accounts: Accounts { jobs, query_log: QueryLog::default() },
            warm_up: Queue::default(),
            metrics,
            snapshot: ArcSwap::from_pointee(snapshot),
        }
    }

    /// Milliseconds since a moment before this resolver began.
    pub fn now(&self) -> Millis {
        self.epoch.now()
    }

    /// The same for a time that has been read already.
    #[inline]
    pub fn millis(&self, now: Instant) -> Millis {
        self.epoch.millis(now)
    }

    /// Who asks, as a configuration has it: to be used with the views of the same one.
    #[inline]
    pub fn tables<'s>(&self, snapshot: &'s Snapshot) -> Tables<'s> {
        self.clients.tables(&snapshot.clients)
    }

    /// The moment of `millis`.
    pub fn instant(&self, millis: Millis) -> Instant {
        self.epoch.instant(millis)
    }

    /// Has a writer for the log that a configuration wants, before it is in force: see [`QueryLog::follow`].
    pub fn follow_query_log(&self, config: &Config) {
        self.accounts.query_log.follow(config, &self.clients, self.epoch, &self.metrics.query_log);
    }
}

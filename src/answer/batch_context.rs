//! State shared by all queries of one receive batch.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::local_counters::LocalCounters;
use super::pending::{Introspection, PendingQuery};
use super::state::Resolver;
use crate::clients::Tables;
use crate::clock::Millis;
use crate::config::{Hints, RouteId, ViewId};
use crate::jobs::StatsBuffer;
use crate::snapshot::Snapshot;
use crate::wire::cache_key::CacheKey;
use crate::wire::write::LocalRecords;

/// State shared by all queries of one receive batch.
pub struct BatchContext<'a> {
    /// Configuration, loaded once per batch.
    pub(super) snapshot: &'a Arc<Snapshot>,
    /// Current time, read once per batch.
    pub(super) at: Instant,
    /// The same time in milliseconds, as the cache uses it.
    pub(super) now: Millis,
    pub(super) tally: &'a mut LocalCounters,
    /// The worker's buffer of client statistics.
    pub(super) stats_buffer: &'a mut StatsBuffer,
    /// Identities of clients, if the configuration has views.
    pub(super) tables: Option<Tables<'a>>,
}

impl BatchContext<'_> {
    /// Returns the view of a client.
    #[inline]
    pub(super) fn view(&self, client: IpAddr) -> Option<ViewId> {
        let tables = self.tables.as_ref()?;
        self.snapshot.views.of(&tables.identify(client, self.now), client)
    }

    pub(super) fn pending_query(
        &self,
        key: CacheKey,
        hash: u64,
        route: RouteId,
        alias: Option<LocalRecords>,
        client: Option<IpAddr>,
    ) -> Box<PendingQuery> {
        Box::new(PendingQuery {
            key,
            hash,
            route,
            snapshot: Arc::clone(self.snapshot),
            alias,
            path: None,
            asked: self.at,
            client,
            by: Cell::default(),
        })
    }

    pub(super) fn introspection(&self, key: CacheKey, client: IpAddr, hints: Hints) -> Box<Introspection> {
        Box::new(Introspection { key, snapshot: Arc::clone(self.snapshot), asked: self.at, client, hints })
    }
}

impl Resolver {
    /// Returns the context of a batch that begins at `at`.
    pub fn context<'a>(
        &self,
        snapshot: &'a Arc<Snapshot>,
        at: Instant,
        tally: &'a mut LocalCounters,
        stats_buffer: &'a mut StatsBuffer,
    ) -> BatchContext<'a> {
        let tables = (!snapshot.views.is_empty()).then(|| self.tables(snapshot));
        BatchContext { snapshot, at, now: self.millis(at), tally, stats_buffer, tables }
    }
}

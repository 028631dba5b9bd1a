//! What a turn of a worker's loop has at hand.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::pending::{Introspection, PendingQuery};
use super::state::Resolver;
use super::tally::Tally;
use crate::clients::Tables;
use crate::clock::Millis;
use crate::config::{RouteId, ViewId};
use crate::jobs::StatsBuffer;
use crate::snapshot::Snapshot;
use crate::wire::make::LocalRecords;
use crate::wire::query::Key;

/// What one turn of a worker's loop has at hand.
pub struct BatchContext<'a> {
    /// The configuration, loaded once a batch.
    pub(super) snapshot: &'a Arc<Snapshot>,
    /// The time, read once a batch.
    pub(super) at: Instant,
    /// The same as the cache has it.
    pub(super) now: Millis,
    /// The worker's counts.
    pub(super) tally: &'a mut Tally,
    /// Its notes of who got what.
    pub(super) stats_buffer: &'a mut StatsBuffer,
    /// Who asks, if that decides what is answered.
    pub(super) tables: Option<Tables<'a>>,
}

impl BatchContext<'_> {
    /// Which view a client is of.
    #[inline]
    pub(super) fn view(&self, client: IpAddr) -> Option<ViewId> {
        let tables = self.tables.as_ref()?;
        self.snapshot.views.of(&tables.who(client, self.now), client)
    }

    pub(super) fn wanted(
        &self,
        key: Key,
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

    pub(super) fn introspection(&self, key: Key, client: IpAddr) -> Box<Introspection> {
        Box::new(Introspection { key, snapshot: Arc::clone(self.snapshot), asked: self.at, client })
    }
}

impl Resolver {
    /// What one turn that begins at `at` has at hand.
    pub fn turn<'a>(
        &self,
        snapshot: &'a Arc<Snapshot>,
        at: Instant,
        tally: &'a mut Tally,
        stats_buffer: &'a mut StatsBuffer,
    ) -> BatchContext<'a> {
        let tables = (!snapshot.views.is_empty()).then(|| self.tables(snapshot));
        BatchContext { snapshot, at, now: self.millis(at), tally, stats_buffer, tables }
    }
}

//! What a turn of a worker's loop has at hand, and what is left over from it for a task.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::Path;
use crate::cache::Millis;
use crate::cache::entry::Home;
use crate::clients::Tables;
use crate::coalesce::By;
use crate::governor::pending::Place;
use crate::jobs::Ledger;
use crate::metrics::Tally;
use crate::snapshot::Snapshot;
use crate::wire::make::LocalRecords;
use crate::wire::query::Key;

/// What one turn of a worker's loop has at hand.
pub struct Turn<'a> {
    /// The configuration, loaded once a batch.
    pub(super) snapshot: &'a Arc<Snapshot>,
    /// The time, read once a batch.
    pub(super) at: Instant,
    /// The same as the cache has it.
    pub(super) now: Millis,
    /// The worker's counts.
    pub(super) tally: &'a mut Tally,
    /// Its notes of who got what.
    pub(super) ledger: &'a mut Ledger,
    /// Who asks, if that decides what is answered.
    pub(super) tables: Option<Tables<'a>>,
}

impl Turn<'_> {
    /// Which view a client is of, as [`crate::config::Config::views`] counts.
    #[inline]
    pub(super) fn view(&self, client: IpAddr) -> Option<usize> {
        let tables = self.tables.as_ref()?;
        self.snapshot.views.of(&tables.who(client, self.now), client)
    }

    pub(super) fn wanted(
        &self,
        key: Key,
        hash: u64,
        route: u16,
        alias: Option<LocalRecords>,
        client: Option<IpAddr>,
    ) -> Box<Wanted> {
        Box::new(Wanted {
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
}

/// A query whose response takes a task of its own: see [`resolve`](super::resolve).
pub struct Deferred {
    /// What is to be asked.
    pub wanted: Box<Wanted>,
    /// The client's query, as much of it as its response depends on.
    pub query: Box<[u8]>,
    /// Whether it came over TCP.
    pub over_tcp: bool,
    /// Its place among those that wait.
    pub(super) place: Place,
}

/// A question that has to be asked of upstreams.
pub struct Wanted {
    /// What it is kept under.
    pub key: Key,
    /// The hash of that.
    pub hash: u64,
    /// The route that its name takes.
    pub route: u16,
    /// The configuration that it came under.
    pub snapshot: Arc<Snapshot>,
    /// Static CNAME records that lead to it.
    pub alias: Option<LocalRecords>,
    /// The names that its client tries after it, if it is to have the answer of the first that exists.
    pub path: Option<Box<Path>>,
    /// When it was asked.
    pub asked: Instant,
    /// By whom; none if nodens itself wants it.
    pub client: Option<IpAddr>,
    /// The server of its route that gave an answer, once one has.
    pub by: Cell<By>,
}

impl Wanted {
    /// Where the answer belongs; one that `follows` a CNAME depends on all routes.
    pub fn home(&self, follows: bool) -> Home {
        self.snapshot.home(self.key.horizon(), self.route, follows)
    }

    /// The same, as the first of the names that its client tries.
    pub(super) fn along(mut self: Box<Self>, path: Box<Path>) -> Box<Self> {
        self.path = Some(path);
        self
    }

    /// The same question, for its own sake.
    pub fn without_alias(&self) -> Self {
        let Self { key, hash, route, snapshot, alias: _, path: _, asked, client, by } = self;
        let (key, snapshot, by) = (key.clone(), Arc::clone(snapshot), by.clone());
        Self { key, hash: *hash, route: *route, snapshot, alias: None, path: None, asked: *asked, client: *client, by }
    }
}

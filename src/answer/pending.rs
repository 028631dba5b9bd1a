//! A query that takes a task of its own, as an owned value.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::cache::entry::CacheScope;
use crate::coalesce::By;
use crate::config::RouteId;
use crate::governor::pending::Place;
use crate::snapshot::Snapshot;
use crate::wire::make::LocalRecords;
use crate::wire::name::Name;
use crate::wire::query::Key;

/// A query whose response takes a task of its own: see [`resolve`](super::resolve).
pub struct Deferred {
    /// What is to be done for it.
    pub task: Task,
    /// The client's query, as much of it as its response depends on.
    pub query: Box<[u8]>,
    /// Whether it came over TCP.
    pub over_tcp: bool,
    /// Its place among those that wait.
    pub(super) place: Place,
}

/// What a response waits for.
pub enum Task {
    /// An answer of upstreams.
    Question(Box<PendingQuery>),
    /// What nodens tells a client of itself.
    Introspection(Box<Introspection>),
}

impl Task {
    /// The route that its name takes; none if no upstream is asked.
    pub(super) fn route(&self) -> Option<RouteId> {
        match self {
            Self::Question(wanted) => Some(wanted.route),
            Self::Introspection(_) => None,
        }
    }
}

/// A query for what nodens tells a client of itself.
pub struct Introspection {
    /// What is asked, as what is kept would be kept under.
    pub key: Key,
    /// The configuration that it came under.
    pub snapshot: Arc<Snapshot>,
    /// When it was asked.
    pub asked: Instant,
    /// By whom.
    pub client: IpAddr,
}

/// A question that has to be asked of upstreams.
pub struct PendingQuery {
    /// What it is kept under.
    pub key: Key,
    /// The hash of that.
    pub hash: u64,
    /// The route that its name takes.
    pub route: RouteId,
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

impl PendingQuery {
    /// Where the answer belongs; one that `follows` a CNAME depends on all routes.
    pub fn home(&self, follows: bool) -> CacheScope {
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

/// The names that a client tries after the one that it asked for, in their order.
pub struct Path(pub(super) Vec<Name>);

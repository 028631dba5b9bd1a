//! A query that needs a task of its own, as an owned value.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::cache::entry::CacheScope;
use crate::coalesce::AnsweredBy;
use crate::config::{Hints, RouteId};
use crate::governor::pending::PendingSlot;
use crate::snapshot::Snapshot;
use crate::wire::cache_key::CacheKey;
use crate::wire::name::Name;
use crate::wire::write::LocalRecords;

/// Query whose response needs a task of its own: see [`resolve`](super::resolve).
pub struct Deferred {
    /// Work to do for it.
    pub task: PendingTask,
    /// The parts of the client's query that the response depends on.
    pub query: Box<[u8]>,
    /// True if the query came over TCP.
    pub over_tcp: bool,
    /// Explanations that the client gets.
    pub(super) hints: Hints,
    /// Slot among the pending queries.
    pub(super) place: PendingSlot,
}

/// Work that a response waits for.
pub enum PendingTask {
    /// An answer from upstreams.
    Question(Box<PendingQuery>),
    /// Records about the client itself.
    Introspection(Box<Introspection>),
}

impl PendingTask {
    /// Returns the route of the name; `None` if no upstream is queried.
    pub(super) fn route(&self) -> Option<RouteId> {
        match self {
            Self::Question(pending_query) => Some(pending_query.route),
            Self::Introspection(_) => None,
        }
    }
}

/// Query for records about the client itself.
pub struct Introspection {
    /// Question, as a cache key.
    pub key: CacheKey,
    /// Configuration that the query was received under.
    pub snapshot: Arc<Snapshot>,
    /// Time of the query.
    pub asked: Instant,
    pub(crate) client: IpAddr,
    /// Explanations that the client gets.
    pub(super) hints: Hints,
}

/// Question to be sent to an upstream.
pub struct PendingQuery {
    pub(crate) key: CacheKey,
    /// Hash of the key.
    pub hash: u64,
    /// Route of the name.
    pub route: RouteId,
    /// Configuration that the query was received under.
    pub snapshot: Arc<Snapshot>,
    /// Static CNAME records that lead to the name.
    pub alias: Option<LocalRecords>,
    /// Names that the client tries after this one, if the first that exists is to be its answer.
    pub path: Option<Box<Path>>,
    /// Time of the query.
    pub asked: Instant,
    /// Client; `None` for a query that nodens itself needs.
    pub client: Option<IpAddr>,
    /// Server that answered, once one has.
    pub by: Cell<AnsweredBy>,
}

impl PendingQuery {
    /// Returns the cache scope of the answer; an answer that `follows` a CNAME depends on all routes.
    pub fn scope(&self, follows: bool) -> CacheScope {
        self.snapshot.scope(self.key.effective_view(), self.route, follows)
    }

    /// Adds the names that the client tries after this one.
    pub(super) fn along(mut self: Box<Self>, path: Box<Path>) -> Box<Self> {
        self.path = Some(path);
        self
    }

    /// Returns the same question without alias and search path.
    pub fn without_alias(&self) -> Self {
        let Self { key, hash, route, snapshot, alias: _, path: _, asked, client, by } = self;
        let (key, snapshot, by) = (key.clone(), Arc::clone(snapshot), by.clone());
        Self { key, hash: *hash, route: *route, snapshot, alias: None, path: None, asked: *asked, client: *client, by }
    }
}

/// Names that a client tries after the queried one, in their order.
pub struct Path(pub(super) Vec<Name>);

//! Denials derived from the denial of a namespace or service above the name (RFC 8020), in a cluster's domain.
//!
//! If `com.svc.cluster.local` does not exist, neither does `registry.example.com.svc.cluster.local`. Clients do not query the
//! former: nodens does, in the background, after names below it were denied ([`Probes`](crate::local::probes::Probes) decides
//! when that is worth a query). It then denies names below it itself while that denial is fresh, for at most five seconds.
//!
//! The denials are cached like any other answer, under the question for an A record. Only a fresh denial counts: not a stale
//! one, not one behind a CNAME (the target does not exist, not the alias), and not one whose refresh failed.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::batch_context::BatchContext;
use super::disclosure::disclose_own;
use super::outcome::{Explanation, QueryOutcome, enter_at_once};
use super::pending::PendingQuery;
use super::request::{Request, Response};
use super::state::Resolver;
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::{Hints, RouteId};
use crate::forward;
use crate::local::cluster::{Cluster, DenialRule};
use crate::local::probes::LONGEST_CUT;
use crate::metrics::AnswerSource;
use crate::snapshot::Snapshot;
use crate::task;
use crate::upstream::Ask;
use crate::wire::cache_key::CacheKey;
use crate::wire::write;
use crate::wire::{Rcode, class, rcode, rtype, u16_at};

/// Uses of a denial after which it is refreshed before its end.
const POPULAR: u8 = 3;
/// Age at which such a denial is refreshed.
const REFRESHED_AT: Millis = LONGEST_CUT / 10 * 9;

/// Denial of a name above the queried one.
pub(super) struct AncestorDenial {
    /// Remaining lifetime in seconds.
    pub(super) ttl: u32,
    /// Question of the denial and its hash, if it is to be refreshed now.
    pub(super) refresh: Option<(CacheKey, u64)>,
}

/// State of a name in the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Exists,
    Denied,
    Not,
}

impl Resolver {
    /// Denies a name of a route's cluster domain by a rule, with a TTL in seconds. Allocates nothing, unless it is logged.
    pub(super) fn deny(
        &self,
        context: &mut BatchContext<'_>,
        (from, hints): (&Request<'_>, Hints),
        asked: (&CacheKey, u64),
        (route, rule, ttl): (RouteId, DenialRule, u32),
        options: &[u8],
        out: &mut [u8],
    ) -> Response {
        let Some(cluster) = context.snapshot.cluster(route) else { return Response::Silence };
        self.metrics.search.denied[rule as usize].inc();
        let (code, words) = ((rcode::NXDOMAIN, Some(Cause::Pruned)), Explanation::Options(cluster.error(rule)));
        enter_at_once(
            self,
            context,
            &QueryOutcome { words, ..from.outcome(asked, Some(route), code, AnswerSource::Local) },
        );
        Response::Reply(disclose_own(hints, cluster.error(rule), |error| {
            write::denial(&from.query, cluster.domain().len(), ttl, error, options, out)
        }))
    }
}

/// Returns the cached denial of a name above that of `key`, which matched `route` by a suffix of `depth` labels.
pub(super) fn cut(
    resolver: &Resolver,
    snapshot: &Snapshot,
    key: &CacheKey,
    route: RouteId,
    depth: usize,
    now: Millis,
) -> Option<AncestorDenial> {
    above(snapshot, key, route, depth, now)?.find_map(|above| {
        let hash = resolver.cache.hash(&above);
        let denial = |entry: &mut Entry| {
            if known(entry, snapshot, route, now) != Known::Denied {
                return None;
            }
            entry.hits = entry.hits.saturating_add(1);
            let again = entry.hits >= POPULAR && !entry.refreshing && now >= entry.born + REFRESHED_AT;
            entry.refreshing |= again;
            let end = entry.expires.min(entry.born + LONGEST_CUT);
            Some(((end.saturating_sub(now) / 1_000) as u32, again))
        };
        let (ttl, again) = resolver.cache.with(hash, &above, denial).flatten()?;
        Some(AncestorDenial { ttl, refresh: again.then_some((above, hash)) })
    })
}

/// Returns the question whose denial covers `key`, for explanations; does not count as a use of the denial.
pub(super) fn denied_above(
    resolver: &Resolver,
    snapshot: &Snapshot,
    key: &CacheKey,
    (route, depth): (RouteId, usize),
    now: Millis,
) -> Option<CacheKey> {
    above(snapshot, key, route, depth, now)?
        .find(|above| look_up(resolver, snapshot, route, above, now) == Known::Denied)
}

/// Returns the questions for the names above that of `key` whose denials would cover it; none if denials do not count for it.
fn above<'a>(
    snapshot: &'a Snapshot,
    key: &'a CacheKey,
    route: RouteId,
    depth: usize,
    now: Millis,
) -> Option<impl Iterator<Item = CacheKey> + 'a> {
    let cluster = snapshot.cluster(route).filter(|cluster| cluster.probes.is_trusted(now))?;
    is_prunable(cluster, key, depth)
        .then(|| cluster.ancestors(key.name()).into_iter().flatten().map(|above| key.for_question(above, rtype::A)))
}

/// Starts a probe of the names above, if an upstream answered `pending_query` with NXDOMAIN.
#[inline]
pub(super) fn learn<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
    rcode: Rcode,
    source: AnswerSource,
) {
    if rcode == rcode::NXDOMAIN && source == AnswerSource::Upstream {
        query_ancestors(resolver, upstreams, pending_query);
    }
}

/// Queries the nearest unknown name above the denied name of `pending_query` in the background, if that is worth a query.
#[cold]
fn query_ancestors<U: Ask + 'static>(resolver: &Arc<Resolver>, upstreams: &Rc<U>, pending_query: &PendingQuery) {
    let (snapshot, route, key) = (&pending_query.snapshot, pending_query.route, &pending_query.key);
    let (Some(cluster), Some(group)) = (snapshot.cluster(route), snapshot.group(route)) else { return };
    let found = snapshot.effective_view(key.effective_view()).router.find(key.name());
    let depth = found.map_or(0, |(_, depth)| depth);
    if !is_prunable(cluster, key, depth) || !group.is_alive() || !group.below_threshold(Instant::now()) {
        return;
    }
    let now = resolver.now();
    let mut above = cluster.ancestors(key.name()).into_iter().flatten().map(|above| key.for_question(above, rtype::A));
    let unknown = above.find_map(|above| match look_up(resolver, snapshot, route, &above, now) {
        Known::Exists => None,
        Known::Denied if cluster.probes.is_trusted(now) => Some(None),
        // The denial counts only once its server is trusted, which the probe checks.
        Known::Denied | Known::Not => Some(Some(above)),
    });
    let Some(Some(above)) = unknown else { return };
    let name = resolver.cache.hash(&key.for_question(key.name(), rtype::A));
    if !cluster.probes.begin(resolver.cache.hash(&above), name, now) {
        return;
    }
    let probe = Probe { resolver: Arc::clone(resolver), snapshot: Arc::clone(snapshot), route };
    let upstreams = Rc::clone(upstreams);
    task::spawn_local(async move { probe.run(&upstreams, above).await });
}

/// Background query for a name above denied names.
struct Probe {
    resolver: Arc<Resolver>,
    snapshot: Arc<Snapshot>,
    route: RouteId,
}

impl Probe {
    async fn run<U: Ask + 'static>(&self, upstreams: &Rc<U>, above: CacheKey) {
        let Some(cluster) = self.snapshot.cluster(self.route) else { return };
        if !cluster.probes.is_trusted(self.resolver.now()) {
            match self.ask(upstreams, above.for_name(&cluster.default_namespace())).await {
                Known::Exists => cluster.probes.judge(true, self.resolver.now()),
                Known::Denied => {
                    cluster.probes.judge(false, self.resolver.now());
                    let domain = &cluster.config.domain;
                    tracing::info!(%domain, "its servers deny the namespace `default`: denials are not extended to names below");
                }
                Known::Not => {}
            }
        }
        if cluster.probes.is_trusted(self.resolver.now()) {
            self.ask(upstreams, above).await;
        }
    }

    /// Queries a name, unless a query for it is in flight, and caches the result.
    async fn ask<U: Ask + 'static>(&self, upstreams: &Rc<U>, key: CacheKey) -> Known {
        let Self { resolver, snapshot, route } = self;
        let (hash, asked) = (resolver.cache.hash(&key), Instant::now());
        let known = look_up(resolver, snapshot, *route, &key, resolver.millis(asked));
        if known != Known::Not || resolver.cache.with(hash, &key, |entry| entry.failed()).flatten().is_some() {
            return known;
        }
        let Some(leader) = resolver.coalescer.lead(snapshot.generation, hash, &key) else { return Known::Not };
        resolver.metrics.search.probes.inc();
        let snapshot = Arc::clone(snapshot);
        let pending_query = PendingQuery {
            key,
            hash,
            route: *route,
            snapshot,
            alias: None,
            path: None,
            asked,
            client: None,
            by: Cell::default(),
        };
        // The response counts even if it cannot be cached, such as a denial without SOA.
        match forward::run(resolver, upstreams, &pending_query, leader).await.rcode {
            rcode::NOERROR => Known::Exists,
            rcode::NXDOMAIN => Known::Denied,
            _ => Known::Not,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.snapshot.cluster(self.route).inspect(|cluster| cluster.probes.end());
    }
}

/// Returns whether a denial of a name above covers `key`: it is for an address, with the plain flags of stub resolvers.
fn is_prunable(cluster: &Cluster, key: &CacheKey, depth: usize) -> bool {
    let plain = key.rd() && !key.cd() && !key.dnssec_ok() && !key.z() && key.qclass() == class::IN;
    cluster.prunes() && plain && matches!(key.qtype(), rtype::A | rtype::AAAA) && cluster.has(key.name(), depth)
}

fn look_up(resolver: &Resolver, snapshot: &Snapshot, route: RouteId, key: &CacheKey, now: Millis) -> Known {
    let known = |entry: &mut Entry| known(entry, snapshot, route, now);
    resolver.cache.with(resolver.cache.hash(key), key, known).unwrap_or(Known::Not)
}

/// Returns the state of the name of a cache entry.
fn known(entry: &Entry, snapshot: &Snapshot, route: RouteId, now: Millis) -> Known {
    let at_home = entry.scope.route_under(snapshot.generation) == Some(route);
    let fresh = matches!(entry.freshness(now, 0), Freshness::Fresh(_)) && entry.failed().is_none();
    let answers = u16_at(entry.cached_message().wire, 6).unwrap_or(0);
    match entry.rcode {
        _ if !at_home || !fresh || now >= entry.born + LONGEST_CUT => Known::Not,
        rcode::NOERROR => Known::Exists,
        rcode::NXDOMAIN if answers == 0 => Known::Denied,
        _ => Known::Not,
    }
}

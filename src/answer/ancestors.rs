//! What a denied namespace or service says of the names below it (RFC 8020), in a cluster's domain.
//!
//! `com.svc.cluster.local` does not exist, and so neither does `registry.example.com.svc.cluster.local`. Nobody asks for the
//! former: nodens does, in the background, when names below it were denied ([`Probes`](crate::local::probes::Probes) says
//! when that is worth it), and denies the others itself for as long as that denial is fresh, at most five seconds.
//!
//! What is known is in the cache like any other answer, under the question for an A record. Only a fresh denial counts: none
//! past its time, none behind a CNAME (it is the alias's target that does not exist), none that a failure followed.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::outcome::{Outcome, Words, enter_at_once};
use super::pending::PendingQuery;
use super::request::{Request, Response};
use super::state::Resolver;
use super::turn::BatchContext;
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::fetch;
use crate::local::cluster::{Cluster, Rule};
use crate::local::probes::LONGEST_CUT;
use crate::metrics::Source;
use crate::snapshot::Snapshot;
use crate::upstream::Ask;
use crate::wire::make;
use crate::wire::query::Key;
use crate::wire::{Rcode, class, rcode, rtype, u16_at};

/// How often a denial must have been of use to be fetched again before its end.
const POPULAR: u8 = 3;
/// How old it is then.
const REFRESHED_AT: Millis = LONGEST_CUT / 10 * 9;

/// A name whose denial covers the one that was asked for.
pub(super) struct Cut {
    /// For how many seconds more.
    pub(super) ttl: u32,
    /// Its question and the hash of that, if it is to be asked again now.
    pub(super) refresh: Option<(Key, u64)>,
}

/// What is known of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Exists,
    Denied,
    Not,
}

impl Resolver {
    /// Denies a name of a route's cluster domain by a rule, for so many seconds. It allocates nothing, unless it is logged.
    pub(super) fn deny(
        &self,
        turn: &mut BatchContext<'_>,
        from: &Request<'_>,
        asked: (&Key, u64),
        (route, rule, ttl): (RouteId, Rule, u32),
        options: &[u8],
        out: &mut [u8],
    ) -> Response {
        let Some(cluster) = turn.snapshot.cluster(route) else { return Response::Silence };
        self.metrics.search.denied[rule as usize].inc();
        let (code, words) = ((rcode::NXDOMAIN, Some(Cause::Pruned)), Words::Options(cluster.error(rule)));
        enter_at_once(self, turn, &Outcome { words, ..from.outcome(asked, Some(route), code, Source::Local) });
        Response::Reply(make::denial(&from.query, cluster.domain().len(), ttl, cluster.error(rule), options, out))
    }
}

/// Whether a name above that of `key`, which took `route` by a suffix of `depth` labels, is known not to exist.
pub(super) fn cut(
    resolver: &Resolver,
    snapshot: &Snapshot,
    key: &Key,
    route: RouteId,
    depth: usize,
    now: Millis,
) -> Option<Cut> {
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
        Some(Cut { ttl, refresh: again.then_some((above, hash)) })
    })
}

/// The same for people: which name it is. That is no use of it.
pub(super) fn denied_above(
    resolver: &Resolver,
    snapshot: &Snapshot,
    key: &Key,
    (route, depth): (RouteId, usize),
    now: Millis,
) -> Option<Key> {
    above(snapshot, key, route, depth, now)?
        .find(|above| look_up(resolver, snapshot, route, above, now) == Known::Denied)
}

/// The questions for the names above that of `key` whose denials count; none if no such denial does.
fn above<'a>(
    snapshot: &'a Snapshot,
    key: &'a Key,
    route: RouteId,
    depth: usize,
    now: Millis,
) -> Option<impl Iterator<Item = Key> + 'a> {
    let cluster = snapshot.cluster(route).filter(|cluster| cluster.probes.is_trusted(now))?;
    is_prunable(cluster, key, depth)
        .then(|| cluster.ancestors(key.name()).into_iter().flatten().map(|above| key.for_question(above, rtype::A)))
}

/// Learns from an answer to `wanted`.
#[inline]
pub(super) fn learn<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
    rcode: Rcode,
    source: Source,
) {
    if rcode == rcode::NXDOMAIN && source == Source::Upstream {
        look_above(resolver, upstreams, wanted);
    }
}

/// The name of `wanted` was denied: asks for what is above it, if that is worth it. It waits for nothing.
#[cold]
fn look_above<U: Ask + 'static>(resolver: &Arc<Resolver>, upstreams: &Rc<U>, wanted: &PendingQuery) {
    let (snapshot, route, key) = (&wanted.snapshot, wanted.route, &wanted.key);
    let (Some(cluster), Some(group)) = (snapshot.cluster(route), snapshot.group(route)) else { return };
    let found = snapshot.horizon(key.horizon()).router.find(key.name());
    let depth = found.map_or(0, |(_, depth)| depth);
    if !is_prunable(cluster, key, depth) || !group.is_alive() || !group.has_room(Instant::now()) {
        return;
    }
    let now = resolver.now();
    let mut above = cluster.ancestors(key.name()).into_iter().flatten().map(|above| key.for_question(above, rtype::A));
    let unknown = above.find_map(|above| match look_up(resolver, snapshot, route, &above, now) {
        Known::Exists => None,
        Known::Denied if cluster.probes.is_trusted(now) => Some(None),
        // A denial that somebody else asked for may yet have to be believed.
        Known::Denied | Known::Not => Some(Some(above)),
    });
    let Some(Some(above)) = unknown else { return };
    let name = resolver.cache.hash(&key.for_question(key.name(), rtype::A));
    if !cluster.probes.begin(resolver.cache.hash(&above), name, now) {
        return;
    }
    let probe = Probe { resolver: Arc::clone(resolver), snapshot: Arc::clone(snapshot), route };
    let upstreams = Rc::clone(upstreams);
    tokio::task::spawn_local(async move { probe.run(&upstreams, above).await });
}

/// A look at a name above others, under way.
struct Probe {
    resolver: Arc<Resolver>,
    snapshot: Arc<Snapshot>,
    route: RouteId,
}

impl Probe {
    async fn run<U: Ask + 'static>(&self, upstreams: &Rc<U>, above: Key) {
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

    /// Asks for a name, if nobody does just now, and keeps what comes.
    async fn ask<U: Ask + 'static>(&self, upstreams: &Rc<U>, key: Key) -> Known {
        let Self { resolver, snapshot, route } = self;
        let (hash, asked) = (resolver.cache.hash(&key), Instant::now());
        let known = look_up(resolver, snapshot, *route, &key, resolver.millis(asked));
        if known != Known::Not || resolver.cache.with(hash, &key, |entry| entry.failed()).flatten().is_some() {
            return known;
        }
        let Some(flight) = resolver.flights.lead(snapshot.generation, hash, &key) else { return Known::Not };
        resolver.metrics.search.probes.inc();
        let snapshot = Arc::clone(snapshot);
        let wanted = PendingQuery {
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
        // What it says counts also if it may not be kept, as a denial without SOA.
        match fetch::run(resolver, upstreams, &wanted, flight).await.rcode {
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

/// Whether names above this one say something of it: an address is asked for in the plain way of stub resolvers.
fn is_prunable(cluster: &Cluster, key: &Key, depth: usize) -> bool {
    let plain = key.rd() && !key.cd() && !key.dnssec_ok() && !key.z() && key.qclass() == class::IN;
    cluster.prunes() && plain && matches!(key.qtype(), rtype::A | rtype::AAAA) && cluster.has(key.name(), depth)
}

fn look_up(resolver: &Resolver, snapshot: &Snapshot, route: RouteId, key: &Key, now: Millis) -> Known {
    let known = |entry: &mut Entry| known(entry, snapshot, route, now);
    resolver.cache.with(resolver.cache.hash(key), key, known).unwrap_or(Known::Not)
}

/// What an entry of the cache says now of its name.
fn known(entry: &Entry, snapshot: &Snapshot, route: RouteId, now: Millis) -> Known {
    let at_home = entry.home.route_under(snapshot.generation) == Some(route);
    let fresh = matches!(entry.freshness(now, 0), Freshness::Fresh(_)) && entry.failed().is_none();
    let answers = u16_at(entry.kept().wire, 6).unwrap_or(0);
    match entry.rcode {
        _ if !at_home || !fresh || now >= entry.born + LONGEST_CUT => Known::Not,
        rcode::NOERROR => Known::Exists,
        rcode::NXDOMAIN if answers == 0 => Known::Denied,
        _ => Known::Not,
    }
}

//! What an entry of the cache is worth to a query: served, served past its time, or nothing.

use super::turn::BatchContext;
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::metrics::Source;
use crate::snapshot::Snapshot;
use crate::wire::fit::{Age, fit};
use crate::wire::query::{Key, Query};
use crate::wire::{Rcode, ede, make, rcode};

/// The TTL of a stale answer, in seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;
/// Hits after which an entry is popular: fetched again in the last tenth of its life.
const POPULAR: u8 = 3;
/// Entries that live shorter are not prefetched: it would be one upstream query for each client's query.
const LEAST_PREFETCHED: Millis = 5_000;

/// What the cache says.
pub(super) enum Cached {
    /// That many bytes were written.
    Reply { len: usize, rcode: Rcode, cause: Option<Cause>, source: (Source, RouteId), refresh: bool },
    /// Nothing to be served without asking.
    Nothing,
}

/// Fits a cached entry to the query, if it is worth it; under the shard's lock, so it only copies.
#[inline]
pub(super) fn cached(
    turn: &BatchContext<'_>,
    entry: &mut Entry,
    query: &Query<'_>,
    key: &Key,
    options: &[u8],
    out: &mut [u8],
) -> Cached {
    let snapshot = turn.snapshot;
    let Some((home, route)) = snapshot.home_now(entry.home, key) else { return Cached::Nothing };
    // Written only where it is another one, so that workers do not take the entry out of each other's caches.
    if entry.home != home {
        entry.home = home;
        entry.rotate(snapshot.config.cache.rotate);
    }
    match entry.freshness(turn.now, stale_window(snapshot)) {
        Freshness::Fresh(age) => {
            // Not counted further, so that workers do not take the entry out of each other's caches.
            if entry.hits < POPULAR {
                entry.hits += 1;
            }
            let refresh = wants_prefetch(snapshot, entry, turn.now);
            entry.refreshing |= refresh;
            let len = fit(entry.kept(), query, Age::Seconds(age), options, out);
            Cached::Reply { len, rcode: entry.rcode, cause: entry.cause, source: (Source::Hit, route), refresh }
        }
        Freshness::Stale if failure_holds(snapshot, entry, turn.now) => {
            let len = fit_stale(entry, query, options, out);
            Cached::Reply {
                len,
                rcode: entry.rcode,
                cause: entry.cause,
                source: (Source::Stale, route),
                refresh: false,
            }
        }
        Freshness::Failed if failure_holds(snapshot, entry, turn.now) => {
            let error = make::extended_error(ede::CACHED_ERROR, "remembered failure");
            let len = fit(entry.kept(), query, Age::Seconds(0), &[options, &error].concat(), out);
            Cached::Reply { len, rcode: entry.rcode, cause: entry.cause, source: (Source::Hit, route), refresh: false }
        }
        _ => Cached::Nothing,
    }
}

/// Fits an entry that is past its time to a query that no upstream will be asked for: the length, the response
/// code and its cause.
pub(super) fn past_its_time(
    turn: &BatchContext<'_>,
    entry: &mut Entry,
    query: &Query<'_>,
    key: &Key,
    options: &[u8],
    out: &mut [u8],
) -> Option<(usize, Rcode, Option<Cause>)> {
    let is_stale = entry.freshness(turn.now, stale_window(turn.snapshot)) == Freshness::Stale;
    let may_serve = is_stale && turn.snapshot.home_now(entry.home, key).is_some();
    may_serve.then(|| (fit_stale(entry, query, options, out), entry.rcode, entry.cause))
}

fn fit_stale(entry: &Entry, query: &Query<'_>, options: &[u8], out: &mut [u8]) -> usize {
    let (age, error) = stale(entry);
    fit(entry.kept(), query, age, &[options, &error].concat(), out)
}

/// Whether the entry's failure is still to be believed: no server of its group has come back since.
pub(super) fn failure_holds(snapshot: &Snapshot, entry: &Entry, now: Millis) -> bool {
    entry.failed().is_some_and(|failure| {
        let group = entry.home.route_under(snapshot.generation).and_then(|route| snapshot.group(route));
        failure.holds(group.map_or(0, |group| group.recoveries()), now)
    })
}

#[inline]
fn wants_prefetch(snapshot: &Snapshot, entry: &Entry, now: Millis) -> bool {
    snapshot.config.cache.prefetch
        && entry.hits >= POPULAR
        && !entry.refreshing
        // A prefetch that failed is not tried again by each client (RFC 9520).
        && !failure_holds(snapshot, entry, now)
        && entry.lifetime() >= LEAST_PREFETCHED
        && entry.expires - now <= entry.lifetime() / 10
}

/// How a stale entry is served: TTL 30 and an extended error that says so.
pub(super) fn stale(entry: &Entry) -> (Age, Vec<u8>) {
    let code = if entry.rcode == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE };
    (Age::Stale(STALE_TTL), make::extended_error(code, "upstreams failed"))
}

pub(super) fn stale_window(snapshot: &Snapshot) -> Millis {
    snapshot.config.cache.stale.as_millis() as Millis
}

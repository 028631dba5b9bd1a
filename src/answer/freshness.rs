//! Use of a cache entry for a query: served, served stale, or not at all.

use super::batch_context::BatchContext;
use super::disclosure::{fit_explained, text};
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::{Hints, RouteId, ViewId};
use crate::metrics::AnswerSource;
use crate::snapshot::Snapshot;
use crate::wire::cache_key::CacheKey;
use crate::wire::fit::{Age, fit};
use crate::wire::query::Query;
use crate::wire::{Rcode, ede, rcode, write};

/// TTL of a stale answer, in seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;
/// Hits after which an entry is popular: it is refreshed in the last tenth of its lifetime.
const POPULAR: u8 = 3;
/// Least lifetime of a prefetched entry: for shorter ones, each client's query would cause an upstream query.
const LEAST_PREFETCHED: Millis = 5_000;

/// Result of a cache look-up.
pub(super) enum Cached {
    /// Response of `len` bytes in the buffer.
    Reply { len: usize, rcode: Rcode, cause: Option<Cause>, source: (AnswerSource, RouteId), refresh: bool },
    /// No entry that can be served without a query.
    Nothing,
}

/// Renders a cached entry for the query, if it can be served. Runs under the shard's lock, so it only copies.
#[inline]
pub(super) fn cached(
    context: &BatchContext<'_>,
    entry: &mut Entry,
    query: &Query<'_>,
    (key, view): (&CacheKey, Option<ViewId>),
    options: &[u8],
    out: &mut [u8],
) -> Cached {
    let snapshot = context.snapshot;
    let Some((scope, route)) = snapshot.current_scope(entry.scope, key) else { return Cached::Nothing };
    // Written only if it differs, so that workers do not evict the entry from each other's CPU caches.
    if entry.scope != scope {
        entry.scope = scope;
        entry.rotate(snapshot.config.cache.rotate);
    }
    match entry.freshness(context.now, stale_window(snapshot)) {
        Freshness::Fresh(age) => {
            // Not counted any further, so that workers do not evict the entry from each other's CPU caches.
            if entry.hits < POPULAR {
                entry.hits += 1;
            }
            let refresh = wants_prefetch(snapshot, entry, context.now);
            entry.refreshing |= refresh;
            let (message, age) = (entry.cached_message(), Age::Seconds(age));
            let len = match message.extended_errors.is_empty() {
                true => fit(message, query, age, options, out),
                false => fit_explained(snapshot.hints(view), message, query, age, options, out),
            };
            Cached::Reply { len, rcode: entry.rcode, cause: entry.cause, source: (AnswerSource::Hit, route), refresh }
        }
        Freshness::Stale if failure_holds(snapshot, entry, context.now) => {
            let len = fit_stale(entry, snapshot.hints(view), query, options, out);
            Cached::Reply {
                len,
                rcode: entry.rcode,
                cause: entry.cause,
                source: (AnswerSource::Stale, route),
                refresh: false,
            }
        }
        Freshness::Failed if failure_holds(snapshot, entry, context.now) => {
            let hints = snapshot.hints(view);
            let error = write::extended_error(ede::CACHED_ERROR, text(hints, "remembered failure"));
            let options = [options, &error].concat();
            let len = fit_explained(hints, entry.cached_message(), query, Age::Seconds(0), &options, out);
            Cached::Reply {
                len,
                rcode: entry.rcode,
                cause: entry.cause,
                source: (AnswerSource::Hit, route),
                refresh: false,
            }
        }
        _ => Cached::Nothing,
    }
}

/// Renders a stale entry for a query that will not be sent to an upstream. Returns the length, the response code and its cause.
pub(super) fn past_its_time(
    context: &BatchContext<'_>,
    entry: &mut Entry,
    query: &Query<'_>,
    (key, hints): (&CacheKey, Hints),
    options: &[u8],
    out: &mut [u8],
) -> Option<(usize, Rcode, Option<Cause>)> {
    let is_stale = entry.freshness(context.now, stale_window(context.snapshot)) == Freshness::Stale;
    let may_serve = is_stale && context.snapshot.current_scope(entry.scope, key).is_some();
    may_serve.then(|| (fit_stale(entry, hints, query, options, out), entry.rcode, entry.cause))
}

fn fit_stale(entry: &Entry, hints: Hints, query: &Query<'_>, options: &[u8], out: &mut [u8]) -> usize {
    let (age, error) = stale(entry, hints);
    fit_explained(hints, entry.cached_message(), query, age, &[options, &error].concat(), out)
}

/// Returns whether the entry's failure still holds: no server of its group has recovered since.
pub(super) fn failure_holds(snapshot: &Snapshot, entry: &Entry, now: Millis) -> bool {
    entry.failed().is_some_and(|failure| {
        let group = entry.scope.route_under(snapshot.generation).and_then(|route| snapshot.group(route));
        failure.holds(group.map_or(0, |group| group.recoveries()), now)
    })
}

#[inline]
fn wants_prefetch(snapshot: &Snapshot, entry: &Entry, now: Millis) -> bool {
    snapshot.config.cache.prefetch
        && entry.hits >= POPULAR
        && !entry.refreshing
        // Clients do not retry a failed prefetch (RFC 9520).
        && !failure_holds(snapshot, entry, now)
        && entry.lifetime() >= LEAST_PREFETCHED
        && entry.expires - now <= entry.lifetime() / 10
}

/// Returns the age and the extended error of a stale entry's response: TTL 30, and a text that says why.
pub(super) fn stale(entry: &Entry, hints: Hints) -> (Age, Vec<u8>) {
    let code = if entry.rcode == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE };
    (Age::Stale(STALE_TTL), write::extended_error(code, text(hints, "upstreams failed")))
}

pub(super) fn stale_window(snapshot: &Snapshot) -> Millis {
    snapshot.config.cache.stale.as_millis() as Millis
}

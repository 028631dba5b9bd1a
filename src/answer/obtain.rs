//! One entry for one question: of the cache, of the flight that is under way, of upstreams, or what stands in for it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use super::kept::{failure_holds, stale_window};
use super::pending::PendingQuery;
use super::state::Resolver;
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::coalesce::{By, Place, SharedResult};
use crate::fetch;
use crate::metrics::Source;
use crate::upstream::Ask;
use crate::upstream::rate_limiter::Verdict;

/// How long a client waits for a refresh before it gets the stale answer; less than any client's own timeout, and more
/// than a healthy upstream takes (RFC 8767 section 5 proposes 1.8 s, which job pods do not wait).
const STALE_AFTER: Duration = Duration::from_millis(500);

/// The same while all servers that could be asked are known to be down: one that is back would answer within that.
const STALE_AFTER_WHEN_DOWN: Duration = Duration::from_millis(30);

/// How much later than a client's time is over the question may land that is asked again for it: see [`fetch::run`].
const LANDS: Duration = Duration::from_millis(20);

/// Gets the entry for a question from upstreams, or what stands in for it.
pub(super) async fn obtain<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
) -> (Entry, Source) {
    // Whoever gave the answer to another gave it to this one.
    let take_in = |landed: SharedResult| {
        wanted.by.set(landed.by);
        landed.entry
    };
    let unasked = |cause, error: &[u8]| fetch::unasked_entry(resolver, wanted, (cause, error));
    let place = resolver.flights.join(wanted.snapshot.generation, wanted.hash, &wanted.key);
    let (fresh, stale) = match fetch::kept(resolver, wanted, stale_window(&wanted.snapshot)) {
        Some((entry, Freshness::Fresh(_))) => (Some(entry), None),
        Some((entry, Freshness::Stale)) => (None, Some(entry)),
        // A remembered failure is known before the cache was asked, but for the target of a static alias (RFC 9520).
        Some((entry, Freshness::Failed)) if failure_holds(&wanted.snapshot, &entry, resolver.millis(wanted.asked)) => {
            if let Place::Lead(flight) = place {
                flight.land(&entry, By::default());
            }
            return (entry, Source::Hit);
        }
        _ => (None, None),
    };
    let flight = match (place, fresh) {
        // It landed for someone else a moment ago.
        (Place::Lead(flight), Some(fresh)) => {
            flight.land(&fresh, By::default());
            return (fresh, Source::Upstream);
        }
        (Place::Lead(flight), None) => flight,
        (Place::Wait(landing), _) => {
            resolver.metrics.queries.coalesced.inc();
            let landing = async { landing.await.ok().map(take_in) };
            return match stale {
                Some(stale) => or_stale(resolver, wanted, stale, landing).await,
                None => {
                    let entry = match timeout_at(fetch::deadline(wanted) + LANDS, landing).await {
                        Ok(Some(entry)) => entry,
                        // Whoever asked was stopped.
                        Ok(None) => unasked(Cause::UpstreamFailed, &[]),
                        Err(_) => {
                            let error =
                                Cause::UpstreamTimeout.extended_error("the same question of before is still open");
                            unasked(Cause::UpstreamTimeout, &error)
                        }
                    };
                    (entry, Source::Upstream)
                }
            };
        }
    };
    let group = wanted.snapshot.group(wanted.route);
    let verdict = group.map_or(Verdict::Ask, |group| group.judge(wanted.asked, wanted.client));
    match (verdict, stale) {
        (Verdict::Ask, Some(stale)) => {
            let fetch = fetch::launch(resolver, upstreams, wanted, flight);
            or_stale(resolver, wanted, stale, async { fetch.await.ok().map(take_in) }).await
        }
        (Verdict::Ask | Verdict::AskUnlessStale, None) => {
            (fetch::run(resolver, upstreams, wanted, flight).await, Source::Upstream)
        }
        (Verdict::AskUnlessStale | Verdict::Shed, Some(stale)) => {
            group.inspect(|group| resolver.metrics.shed(&group.config.name).inc());
            flight.land(&unasked(Cause::RateLimited, &[]), By::default());
            (stale, Source::Stale)
        }
        (Verdict::Shed, None) => {
            let text = group.map(|group| {
                resolver.metrics.shed(&group.config.name).inc();
                let limit = group.config.max_qps.unwrap_or_default();
                format!("upstream {}: not asked: max_qps = {limit} is nearly used up", group.config.name)
            });
            let error = Cause::RateLimited.extended_error(&text.unwrap_or_default());
            let entry = unasked(Cause::RateLimited, &error);
            flight.land(&entry, By::default());
            (entry, Source::Upstream)
        }
    }
}

/// Waits for an entry a while, and takes the stale one if that fails or is late.
async fn or_stale(
    resolver: &Resolver,
    wanted: &PendingQuery,
    stale: Entry,
    landing: impl Future<Output = Option<Entry>>,
) -> (Entry, Source) {
    let alive = wanted.snapshot.group(wanted.route).is_none_or(|group| group.is_alive());
    let patience = if alive { STALE_AFTER } else { STALE_AFTER_WHEN_DOWN };
    match timeout_at(wanted.asked + patience, landing).await {
        Ok(Some(entry)) if entry.failed().is_none() => (entry, Source::Upstream),
        Ok(_) => (stale, Source::Stale),
        Err(_) => {
            // From here on nobody waits for this: the next client gets the stale answer at once.
            fetch::remember_failure(resolver, wanted, resolver.millis(wanted.asked), (Cause::UpstreamTimeout, &[]));
            (stale, Source::Stale)
        }
    }
}

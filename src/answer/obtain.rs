//! One entry for one question: from the cache, from an identical query in flight, from upstreams, or a substitute for it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use super::freshness::{failure_holds, stale_window};
use super::pending::PendingQuery;
use super::state::Resolver;
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::coalesce::{AnsweredBy, Role, SharedResult};
use crate::forward::{self, entries};
use crate::metrics::AnswerSource;
use crate::upstream::Ask;
use crate::upstream::rate_limiter::RateDecision;

/// Time that a client waits for a refresh before it gets the stale answer; less than any client's own timeout, and more than a
/// healthy upstream needs (RFC 8767 section 5 proposes 1.8 s, which job pods do not wait).
const STALE_AFTER: Duration = Duration::from_millis(500);

/// The same time while all servers of the upstream are known to be down: one that has recovered would respond within it.
const STALE_AFTER_WHEN_DOWN: Duration = Duration::from_millis(30);

/// Margin after a client's deadline, in which the repeated query that it joined may complete: see [`forward::run`].
const COMPLETION_MARGIN: Duration = Duration::from_millis(20);

/// Returns the entry for a question from the cache or from upstreams, or a substitute for it.
pub(super) async fn obtain<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
) -> (Entry, AnswerSource) {
    // The server that answered the other client's query answered this one too.
    let adopt = |shared: SharedResult| {
        pending_query.by.set(shared.by);
        shared.entry
    };
    let unasked = |cause, error: &[u8]| entries::unasked_entry(resolver, pending_query, (cause, error));
    let role = resolver.coalescer.join(pending_query.snapshot.generation, pending_query.hash, &pending_query.key);
    let (fresh, stale) = match entries::usable_entry(resolver, pending_query, stale_window(&pending_query.snapshot)) {
        Some((entry, Freshness::Fresh(_))) => (Some(entry), None),
        Some((entry, Freshness::Stale)) => (None, Some(entry)),
        // The cache lookup before has already found a remembered failure, except for the target of a static alias (RFC 9520).
        Some((entry, Freshness::Failed))
            if failure_holds(&pending_query.snapshot, &entry, resolver.millis(pending_query.asked)) =>
        {
            if let Role::Lead(leader) = role {
                leader.complete_with(&entry, AnsweredBy::default());
            }
            return (entry, AnswerSource::Hit);
        }
        _ => (None, None),
    };
    let leader = match (role, fresh) {
        // Another client's query completed a moment ago.
        (Role::Lead(leader), Some(fresh)) => {
            leader.complete_with(&fresh, AnsweredBy::default());
            return (fresh, AnswerSource::Upstream);
        }
        (Role::Lead(leader), None) => leader,
        (Role::Wait(result), _) => {
            resolver.metrics.queries.coalesced.inc();
            let result = async { result.await.ok().map(adopt) };
            return match stale {
                Some(stale) => or_stale(resolver, pending_query, stale, result).await,
                None => {
                    let entry = match timeout_at(forward::deadline(pending_query) + COMPLETION_MARGIN, result).await {
                        Ok(Some(entry)) => entry,
                        // The leader was dropped.
                        Ok(None) => unasked(Cause::UpstreamFailed, &[]),
                        Err(_) => {
                            let error = Cause::UpstreamTimeout
                                .extended_error("no answer in time, and a query for it is still open");
                            unasked(Cause::UpstreamTimeout, &error)
                        }
                    };
                    (entry, AnswerSource::Upstream)
                }
            };
        }
    };
    let group = pending_query.snapshot.group(pending_query.route);
    let verdict = group.map_or(RateDecision::Ask, |group| group.admit(pending_query.asked, pending_query.client));
    match (verdict, stale) {
        (RateDecision::Ask, Some(stale)) => {
            let forwarded = forward::launch(resolver, upstreams, pending_query, leader);
            or_stale(resolver, pending_query, stale, async { forwarded.await.ok().map(adopt) }).await
        }
        (RateDecision::Ask | RateDecision::AskUnlessStale, None) => {
            (forward::run(resolver, upstreams, pending_query, leader).await, AnswerSource::Upstream)
        }
        (RateDecision::AskUnlessStale | RateDecision::Shed, Some(stale)) => {
            group.inspect(|group| resolver.metrics.shed(&group.config.name).inc());
            leader.complete_with(&unasked(Cause::RateLimited, &[]), AnsweredBy::default());
            (stale, AnswerSource::Stale)
        }
        (RateDecision::Shed, None) => {
            let text = group.map(|group| {
                resolver.metrics.shed(&group.config.name).inc();
                let limit = group.config.max_qps.unwrap_or_default();
                format!("upstream {}: not asked: max_qps = {limit} is nearly used up", group.config.name)
            });
            let error = Cause::RateLimited.extended_error(&text.unwrap_or_default());
            let entry = unasked(Cause::RateLimited, &error);
            leader.complete_with(&entry, AnsweredBy::default());
            (entry, AnswerSource::Upstream)
        }
    }
}

/// Waits for an entry for a limited time; returns the stale one if that fails or is late.
async fn or_stale(
    resolver: &Resolver,
    pending_query: &PendingQuery,
    stale: Entry,
    result: impl Future<Output = Option<Entry>>,
) -> (Entry, AnswerSource) {
    let alive = pending_query.snapshot.group(pending_query.route).is_none_or(|group| group.is_alive());
    let patience = if alive { STALE_AFTER } else { STALE_AFTER_WHEN_DOWN };
    match timeout_at(pending_query.asked + patience, result).await {
        Ok(Some(entry)) if entry.failed().is_none() => (entry, AnswerSource::Upstream),
        Ok(_) => (stale, AnswerSource::Stale),
        Err(_) => {
            // From here on the next client gets the stale answer at once.
            entries::remember_failure(
                resolver,
                pending_query,
                resolver.millis(pending_query.asked),
                (Cause::UpstreamTimeout, &[]),
            );
            (stale, AnswerSource::Stale)
        }
    }
}

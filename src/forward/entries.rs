//! Cache entries of answers and failures: made, remembered, found, and rendered as messages.

use super::chain::join;
use crate::answer::own_answers::LocalLookup;
use crate::answer::pending::PendingQuery;
use crate::answer::state::Resolver;
use crate::cache::Entry;
use crate::cache::entry::{CachedFailure, EntryLimits, Freshness};
use crate::cause::Cause;
use crate::clock::Millis;
use crate::wire::cache_key::CacheKey;
use crate::wire::fit::{Age, fit};
use crate::wire::query::Query;
use crate::wire::response::{Record, ResponseMessage, Section};
use crate::wire::write::{self, LocalRecords};
use crate::wire::{HEADER, LONGEST_MESSAGE, flag, rcode};

/// Remembers that a question failed now (RFC 9520). An entry that may still be served keeps its response and carries the
/// failure; otherwise a failure without response replaces it. Returns the failure.
///
/// The attempt began at `began`: clients that waited for the same attempt record one failure.
pub(crate) fn remember_failure(
    resolver: &Resolver,
    pending_query: &PendingQuery,
    began: Millis,
    failure: (Cause, &[u8]),
) -> Entry {
    let entry = failure_entry(resolver, pending_query, began, failure);
    let now = resolver.now();
    let window = pending_query.snapshot.config.cache.stale.as_millis() as u64;
    let carried = resolver.cache.with(pending_query.hash, &pending_query.key, |kept| {
        // An entry of an earlier configuration is not served: the failure replaces it.
        let at_home = pending_query.snapshot.current_scope(kept.scope, &pending_query.key).is_some();
        let serves = at_home && matches!(kept.freshness(now, window), Freshness::Fresh(_) | Freshness::Stale);
        entry.failed().into_iter().filter(|_| serves).for_each(|failed| kept.fail(failed));
        serves
    });
    if carried != Some(true) {
        resolver.cache.insert(pending_query.hash, &pending_query.key, entry.clone());
    }
    entry
}

/// Returns a failure that is not remembered, as no server was queried. The cause comes with the extended errors as whole
/// options.
pub(crate) fn unasked_entry(resolver: &Resolver, pending_query: &PendingQuery, failure: (Cause, &[u8])) -> Entry {
    let (now, scope) = (resolver.now(), pending_query.scope(false));
    Entry::failure(pending_query.key.question(), failure, scope, CachedFailure::unasked(now), now)
}

/// Returns an answer of nodens's own, as an entry that is not cached.
pub(crate) fn own_entry(resolver: &Resolver, pending_query: &PendingQuery, own: &LocalLookup) -> Entry {
    let wire = message(pending_query.key.question(), |query, out| {
        write::local(query, own.rcode, false, &own.records, &[], out)
    });
    let limits = EntryLimits { max_ttl: u32::MAX, negative_max_ttl: u32::MAX, rotate: false };
    match ResponseMessage::read(&wire) {
        Ok(mut response) => {
            response.extended_errors = own.extended_error();
            let entry = Entry::from_reply(&response, limits, false, pending_query.scope(false), resolver.now());
            entry.with_cause(own.cause)
        }
        Err(_) => unasked_entry(resolver, pending_query, (Cause::UpstreamFailed, &[])),
    }
}

/// Returns a failure at the current time, which takes earlier failures into account.
fn failure_entry(resolver: &Resolver, pending_query: &PendingQuery, began: Millis, failure: (Cause, &[u8])) -> Entry {
    let recoveries = pending_query.snapshot.group(pending_query.route).map_or(0, |group| group.recoveries());
    let previous = resolver.cache.with(pending_query.hash, &pending_query.key, |kept| kept.failed()).flatten();
    let now = resolver.now();
    let longest = pending_query.snapshot.config.cache.failure_max_ttl.as_millis() as u32;
    let failed = CachedFailure::after(previous, recoveries, began, now, longest);
    let scope = pending_query.scope(false);
    Entry::failure(pending_query.key.question(), failure, scope, failed, now)
}

/// Returns the entry of an alias's target, at its age, as the answer to a query for the alias.
pub(crate) fn behind_alias(
    alias: &LocalRecords,
    entry: &Entry,
    age: Age,
    query: &Query<'_>,
    pending_query: &PendingQuery,
) -> Entry {
    // Only the name: bytes of the type are not letters.
    let mut question = query.question().to_vec();
    let end = question.len().saturating_sub(4);
    question[..end].make_ascii_lowercase();
    let front = message(&question, |query, out| write::local(query, rcode::NOERROR, false, alias, &[], out));
    let back = render(entry, &pending_query.key, age);
    let joined = ResponseMessage::read(&front).ok().and_then(|front| {
        let links: Vec<Record> = front.section(Section::Answer).copied().collect();
        join(&front, &links, &back, false).ok()
    });
    let joined = joined.unwrap_or(front);
    match ResponseMessage::read(&joined) {
        Ok(mut response) => {
            response.extended_errors = entry.cached_message().extended_errors.to_vec();
            let scope = pending_query.scope(true);
            let mut answer = Entry::from_reply(
                &response,
                pending_query.snapshot.limits(pending_query.route),
                false,
                scope,
                entry.born,
            );
            (answer.rcode, answer.cause) = (entry.rcode, entry.cause);
            answer
        }
        Err(_) => entry.clone(),
    }
}

/// Returns the cached entry for a question, if it is valid in this scope, and its freshness when the query was received.
/// `stale` is the time that it may be served past its TTL.
pub(crate) fn usable_entry(
    resolver: &Resolver,
    pending_query: &PendingQuery,
    stale: Millis,
) -> Option<(Entry, Freshness)> {
    let asked = resolver.millis(pending_query.asked);
    let look = |entry: &mut Entry| {
        let mut kept = entry.clone();
        (kept.scope, _) = pending_query.snapshot.current_scope(entry.scope, &pending_query.key)?;
        Some((kept, entry.freshness(asked, stale)))
    };
    resolver.cache.with(pending_query.hash, &pending_query.key, look).flatten()
}

/// Renders an entry as the response to its own question, without OPT, with AD unchanged.
pub(super) fn render(entry: &Entry, key: &CacheKey, age: Age) -> Vec<u8> {
    message(key.question(), |query, out| fit(entry.cached_message(), query, age, &[], out))
}

/// Returns the message that `write` writes for a query with this question (with AD set, without OPT).
pub(super) fn message(question: &[u8], write: impl FnOnce(&Query<'_>, &mut [u8]) -> usize) -> Vec<u8> {
    message_query(question, |query| {
        let mut out = vec![0; LONGEST_MESSAGE];
        let len = write(query, &mut out);
        out.truncate(len);
        out
    })
    .unwrap_or_default()
}

pub(super) fn message_query<R>(question: &[u8], with: impl FnOnce(&Query<'_>) -> R) -> Option<R> {
    let mut packet = vec![0; HEADER];
    packet[2..4].copy_from_slice(&(flag::RD | flag::AD).to_be_bytes());
    packet[5] = 1;
    packet.extend_from_slice(question);
    Query::read(&packet).ok().map(|query| with(&query))
}

//! Resolution of a question through upstreams: query the route's group, remove what the route forbids, follow CNAMEs that lead
//! into another route, and cache the result or the failure.
//!
//! A CNAME is followed if the upstream of the route does not answer for its target: a static or special-use name, a name of
//! another route (a public name that points into the private zone), or a target that the upstream itself did not follow. The
//! chain is split there, the target resolved as a query of its own, and the answer composed of both parts.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::answer::own_answers::{Local, LocalLookup, denial, local};
use crate::answer::pending::PendingQuery;
use crate::answer::state::Resolver;
use crate::cache::Entry;
use crate::cache::entry::{CachedFailure, Freshness, EntryLimits};
use crate::cause::Cause;
use crate::clock::Millis;
use crate::coalesce::{CoalescedQuery, Role, SharedResult};
use crate::governor::pending::PrefetchPlace;
use crate::rebinding;
use crate::upstream::{Answer, Ask, Group, LateAnswer};
use crate::wire::compose::{TooLong, in_order};
use crate::wire::fit::{Age, fit};
use crate::wire::write::{self, LocalRecords};
use crate::wire::name::expanded;
use crate::wire::query::{CacheKey, Query};
use crate::wire::response::{Record, ResponseMessage, Section};
use crate::wire::{HEADER, LONGEST_MESSAGE, ede, flag, rcode, rtype};

mod ask;
mod chain;
mod fallthrough;

use ask::{NoAnswer, ask};
use chain::{fork, join};

/// Time in which clients that joined the query early reach their deadlines.
const GRACE: Duration = Duration::from_millis(100);

/// Most names that one answer may lead through, one for each route.
const LONGEST_TRAIL: usize = 8;

/// Resolves a question for all clients that wait for it. The future must not be dropped before its end.
pub async fn run<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
    flight: CoalescedQuery,
) -> Entry {
    fetch(resolver, upstreams, wanted, flight, deadline(wanted), &mut Vec::new()).await
}

/// Resolves a question in a task of its own, which goes on when the client that began it has got a stale answer.
pub fn launch<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
    flight: CoalescedQuery,
) -> JoinHandle<SharedResult> {
    let (resolver, upstreams, wanted) = (Arc::clone(resolver), Rc::clone(upstreams), wanted.without_alias());
    tokio::task::spawn_local(async move {
        let entry = run(&resolver, &upstreams, &wanted, flight).await;
        SharedResult { entry, by: wanted.by.get() }
    })
}

/// Refreshes a popular entry. If the upstream is a cache itself, whose TTLs count down, nothing is gained before the entry
/// expires, so it is refreshed at that moment.
pub fn refresh<U: Ask + 'static>(resolver: &Arc<Resolver>, upstreams: &Rc<U>, wanted: PendingQuery) {
    let Some(place) = resolver.limits.governor.pending.admit_prefetch() else {
        resolver.metrics.capacity.rejections.with_label_values(&["prefetches"]).inc();
        return put_off(resolver, &wanted);
    };
    let (resolver, upstreams) = (Arc::clone(resolver), Rc::clone(upstreams));
    tokio::task::spawn_local(async move {
        let _place = place;
        let Some(old) = resolver.cache.with(wanted.hash, &wanted.key, |entry| entry.clone()) else { return };
        if old.upstream_ages {
            tokio::time::sleep_until(resolver.instant(old.expires)).await;
            // Another configuration may use other servers; its own hits begin its prefetches.
            if resolver.snapshot.load().generation != wanted.snapshot.generation {
                return put_off(&resolver, &wanted);
            }
        }
        let wanted = PendingQuery { asked: Instant::now(), ..wanted };
        let has_room = wanted.snapshot.group(wanted.route).is_none_or(|group| group.has_room(wanted.asked));
        if !has_room || resolver.limits.governor.pending.is_busy() {
            return put_off(&resolver, &wanted);
        }
        let Some(flight) = resolver.flights.lead(wanted.snapshot.generation, wanted.hash, &wanted.key) else { return };
        resolver.metrics.cache.prefetches.inc();
        let left = old.expires.saturating_sub(resolver.millis(wanted.asked));
        let entry = run(&resolver, &upstreams, &wanted, flight).await;
        let ages = old.upstream_ages || entry.lifetime() <= left + 1_000;
        resolver.cache.with(wanted.hash, &wanted.key, |kept| kept.upstream_ages |= ages && entry.failed().is_none());
    });
}

/// Cancels a prefetch; a later hit may begin another one.
fn put_off(resolver: &Resolver, wanted: &PendingQuery) {
    resolver.cache.with(wanted.hash, &wanted.key, |entry| entry.refreshing = false);
}

/// Remembers that a question failed now (RFC 9520). An entry that may still be served keeps its response and carries the
/// failure; otherwise a failure without response replaces it. Returns the failure.
///
/// The attempt began at `began`: clients that waited for the same attempt record one failure.
pub fn remember_failure(resolver: &Resolver, wanted: &PendingQuery, began: Millis, failure: (Cause, &[u8])) -> Entry {
    let entry = failure_entry(resolver, wanted, began, failure);
    let now = resolver.now();
    let window = wanted.snapshot.config.cache.stale.as_millis() as u64;
    let carried = resolver.cache.with(wanted.hash, &wanted.key, |kept| {
        // An entry of an earlier configuration is not served: the failure replaces it.
        let at_home = wanted.snapshot.home_now(kept.home, &wanted.key).is_some();
        let serves = at_home && matches!(kept.freshness(now, window), Freshness::Fresh(_) | Freshness::Stale);
        entry.failed().into_iter().filter(|_| serves).for_each(|failed| kept.fail(failed));
        serves
    });
    if carried != Some(true) {
        resolver.cache.insert(wanted.hash, &wanted.key, entry.clone());
    }
    entry
}

/// Returns a failure that is not remembered, as no server was queried. The cause comes with the extended errors as whole
/// options.
pub fn unasked_entry(resolver: &Resolver, wanted: &PendingQuery, failure: (Cause, &[u8])) -> Entry {
    let (now, home) = (resolver.now(), wanted.home(false));
    Entry::failure(wanted.key.question(), failure, home, CachedFailure::unasked(now), now)
}

/// Returns an answer of nodens's own, as an entry that is not cached.
pub fn own_entry(resolver: &Resolver, wanted: &PendingQuery, own: &LocalLookup) -> Entry {
    let wire =
        message(wanted.key.question(), |query, out| write::local(query, own.rcode, false, &own.records, &[], out));
    let limits = EntryLimits { max_ttl: u32::MAX, negative_max_ttl: u32::MAX, rotate: false };
    match ResponseMessage::read(&wire) {
        Ok(mut reply) => {
            reply.extended_errors = own.extended_error();
            let entry = Entry::from_reply(&reply, limits, false, wanted.home(false), resolver.now());
            entry.with_cause(own.cause)
        }
        Err(_) => unasked_entry(resolver, wanted, (Cause::UpstreamFailed, &[])),
    }
}

/// Returns a failure at the current time, which takes earlier failures into account.
fn failure_entry(resolver: &Resolver, wanted: &PendingQuery, began: Millis, failure: (Cause, &[u8])) -> Entry {
    let recoveries = wanted.snapshot.group(wanted.route).map_or(0, |group| group.recoveries());
    let previous = resolver.cache.with(wanted.hash, &wanted.key, |kept| kept.failed()).flatten();
    let now = resolver.now();
    let longest = wanted.snapshot.config.cache.failure_max_ttl.as_millis() as u32;
    let failed = CachedFailure::after(previous, recoveries, began, now, longest);
    let home = wanted.home(false);
    Entry::failure(wanted.key.question(), failure, home, failed, now)
}

/// Returns the entry of an alias's target, at its age, as the answer to a query for the alias.
pub fn behind_alias(alias: &LocalRecords, entry: &Entry, age: Age, query: &Query<'_>, wanted: &PendingQuery) -> Entry {
    // Only the name: bytes of the type are not letters.
    let mut question = query.question().to_vec();
    let end = question.len().saturating_sub(4);
    question[..end].make_ascii_lowercase();
    let front = message(&question, |query, out| write::local(query, rcode::NOERROR, false, alias, &[], out));
    let back = served(entry, &wanted.key, age);
    let joined = ResponseMessage::read(&front).ok().and_then(|front| {
        let links: Vec<Record> = front.section(Section::Answer).copied().collect();
        join(&front, &links, &back, false).ok()
    });
    let joined = joined.unwrap_or(front);
    match ResponseMessage::read(&joined) {
        Ok(mut reply) => {
            reply.extended_errors = entry.kept().extended_errors.to_vec();
            let home = wanted.home(true);
            let mut answer = Entry::from_reply(&reply, wanted.snapshot.limits(wanted.route), false, home, entry.born);
            (answer.rcode, answer.cause) = (entry.rcode, entry.cause);
            answer
        }
        Err(_) => entry.clone(),
    }
}

/// Returns the cached entry for a question, if it is valid in this scope, and its freshness when the query was received.
/// `stale` is the time that it may be served past its TTL.
pub fn kept(resolver: &Resolver, wanted: &PendingQuery, stale: Millis) -> Option<(Entry, Freshness)> {
    let asked = resolver.millis(wanted.asked);
    let look = |entry: &mut Entry| {
        let mut kept = entry.clone();
        (kept.home, _) = wanted.snapshot.home_now(entry.home, &wanted.key)?;
        Some((kept, entry.freshness(asked, stale)))
    };
    resolver.cache.with(wanted.hash, &wanted.key, look).flatten()
}

/// Queries, follows CNAMEs and caches the result, for all clients that wait. Always returns an entry: a failure is one too.
async fn fetch<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
    flight: CoalescedQuery,
    deadline: Instant,
    trail: &mut Vec<Vec<u8>>,
) -> Entry {
    let mut outcome = ask_and_follow(resolver, upstreams, wanted, deadline, trail).await;
    let late = outcome.as_mut().err().and_then(|error| error.late.take());
    // Work that continues without a waiting client is bounded as prefetches are.
    if let Some(late) = late
        && let Err(error) = &outcome
        && let Some(place) = resolver.limits.governor.pending.admit_prefetch()
    {
        let entry = unasked_entry(resolver, wanted, (error.cause, &error.extended_errors));
        let wanted = wanted.without_alias();
        let wait = LateQuestion { wanted, flight, late, trail: std::mem::take(trail), _place: place };
        let wait: Pin<Box<dyn Future<Output = ()>>> = Box::pin(wait.run(Arc::clone(resolver), Rc::clone(upstreams)));
        tokio::task::spawn_local(wait);
        return entry;
    }
    let entry = settle(resolver, wanted, outcome);
    flight.land(&entry, wanted.by.get());
    entry
}

/// Question that was not answered before the deadline. No failure is remembered while an answer may still come. A client that
/// joins waits for it, and causes a second attempt: a slow server answers the first one, a server that was unreachable the
/// second.
struct LateQuestion {
    wanted: PendingQuery,
    flight: CoalescedQuery,
    late: LateAnswer,
    trail: Vec<Vec<u8>>,
    _place: PrefetchPlace,
}

impl LateQuestion {
    async fn run<U: Ask + 'static>(self, resolver: Arc<Resolver>, upstreams: Rc<U>) {
        let Self { wanted, flight, mut late, mut trail, _place } = self;
        let group = wanted.snapshot.group(wanted.route).map_or("", |group| &group.config.name);
        let next = flight.next_joined();
        let joined = async {
            tokio::select! {
                Ok(()) = next => {}
                // Clients that joined before the deadline and still wait.
                () = async {
                    sleep(GRACE).await;
                    if !flight.has_waiting() {
                        std::future::pending().await
                    }
                } => {}
            }
        };
        let mut trail_again = Vec::new();
        let outcome = tokio::select! {
            late = &mut late => match late {
                Ok(answer) => follow(&resolver, &upstreams, &wanted, answer, from_now(&wanted), &mut trail).await,
                Err(failure) => Err(NoAnswer::of(&failure, group)),
            },
            () = joined => tokio::select! {
                Ok(answer) = &mut late => {
                    follow(&resolver, &upstreams, &wanted, answer, from_now(&wanted), &mut trail).await
                }
                again = ask_and_follow(&resolver, &upstreams, &wanted, from_now(&wanted), &mut trail_again) => again,
            },
        };
        let entry = settle(&resolver, &wanted, outcome);
        flight.land(&entry, wanted.by.get());
    }
}

/// Caches the result or remembers the failure.
fn settle(resolver: &Resolver, wanted: &PendingQuery, outcome: Result<Entry, NoAnswer>) -> Entry {
    match outcome {
        Ok(entry) => {
            match entry.is_kept() {
                true => resolver.cache.insert(wanted.hash, &wanted.key, entry.clone()),
                // The earlier entry is no longer valid.
                false => resolver.cache.remove(wanted.hash, &wanted.key),
            }
            entry
        }
        Err(NoAnswer { cause, extended_errors, unasked: true, .. }) => {
            unasked_entry(resolver, wanted, (cause, &extended_errors))
        }
        Err(NoAnswer { cause, extended_errors, .. }) => {
            let name = crate::wire::name::DisplayName(wanted.key.name());
            tracing::debug!(
                %name,
                qtype = u16::from(wanted.key.qtype()),
                error = %write::extended_error_text(&extended_errors, usize::MAX),
                "no answer"
            );
            remember_failure(resolver, wanted, resolver.millis(wanted.asked), (cause, &extended_errors))
        }
    }
}

async fn ask_and_follow<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
    deadline: Instant,
    trail: &mut Vec<Vec<u8>>,
) -> Result<Entry, NoAnswer> {
    let Some(group) = wanted.snapshot.group(wanted.route) else {
        return Err(NoAnswer::new(Cause::UpstreamFailed, "no route"));
    };
    trail.push(wanted.key.name().to_vec());
    let answer = ask(upstreams, wanted, group, deadline).await?;
    follow(resolver, upstreams, wanted, answer, deadline, trail).await
}

/// Queries the next group if the route falls through, removes what the route forbids, and follows CNAMEs that lead into another
/// route.
async fn follow<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
    answer: Answer,
    deadline: Instant,
    trail: &mut Vec<Vec<u8>>,
) -> Result<Entry, NoAnswer> {
    let snapshot = &wanted.snapshot;
    let (Some(route), Some(group)) = (snapshot.route(wanted.route), snapshot.group(wanted.route)) else {
        return Err(NoAnswer::new(Cause::UpstreamFailed, "no route"));
    };
    let horizon = snapshot.horizon(wanted.key.horizon());
    let mut limits = snapshot.limits(wanted.route);
    let (mut denies, mut group, mut answer) = ((horizon.strips(route), route.deny_private_names), group, answer);
    // Few routes fall through; boxed to keep the common path's future small.
    let fallen = match route.fallthrough {
        Some(_) => Box::pin(fallthrough::next(upstreams, wanted, route, &answer, deadline)).await?,
        None => None,
    };
    let has_fallen = fallen.is_some();
    if let Some(fallen) = fallen {
        limits = fallen.limits(limits);
        (group, answer) = (fallen.group, fallen.answer);
        let (addresses, names) = fallthrough::strictest(snapshot, horizon, group);
        denies = (denies.0 || addresses, denies.1 || names);
    }
    wanted.by.set(answer.server.into());
    let unreadable =
        |_| NoAnswer::new(Cause::UpstreamFailed, &format!("upstream {}: malformed response", group.config.name));
    let mut reply = ResponseMessage::read(&answer.wire).map_err(unreadable)?;
    let mut errors = std::mem::take(&mut reply.extended_errors);
    let too_long = |_| NoAnswer::new(Cause::UpstreamFailed, &format!("upstream {}: {TooLong}", group.config.name));
    let ordered = in_order(&reply).map_err(too_long)?;
    if let Some(wire) = &ordered {
        reply = ResponseMessage::read(wire).map_err(unreadable)?;
    }
    let (denies_addresses, denies_names) = denies;
    let stripped = if denies_addresses { rebinding::strip(&reply).map_err(too_long)? } else { None };
    if let Some(stripped) = &stripped {
        resolver.metrics.queries.filtered.with_label_values(&[route.label.as_str()]).inc();
        reply = ResponseMessage::read(&stripped.wire).map_err(unreadable)?;
    }
    // The upstream did not vouch for a response from which records were removed.
    let trust_ad = group.config.trust_ad && stripped.is_none();
    let fork = fork(snapshot, horizon, &reply, (route, wanted.route), has_fallen);
    let target = || match &fork {
        Some(fork) => Some(fork.target.clone()),
        None => reply.alias_of(reply.qname()).and_then(|alias| expanded(reply.message, alias.rdata_at())),
    };
    if denies_names && target().is_some_and(|target| leads_inside(wanted, group, &target.to_ascii_lowercase())) {
        resolver.metrics.queries.filtered.with_label_values(&[route.label.as_str()]).inc();
        let wire = rebinding::without_answers(&reply).map_err(too_long)?;
        let mut reply = ResponseMessage::read(&wire).map_err(unreadable)?;
        reply.extended_errors =
            write::extended_error(ede::FILTERED, "CNAME into another route removed: deny_private_names");
        let entry = Entry::from_reply(&reply, limits, false, wanted.home(true), resolver.now());
        return Ok(entry.with_cause(Some(Cause::Filtered)));
    }
    let Some(fork) = fork else {
        let (follows, now) = (reply.may_lead_on(), resolver.now());
        if stripped.is_some() {
            errors.extend(write::extended_error(ede::FILTERED, "private addresses removed: deny_private_addresses"));
        }
        reply.extended_errors = errors;
        let entry = Entry::from_reply(&reply, limits, trust_ad, wanted.home(follows), now);
        let is_filtered = stripped.is_some_and(|stripped| stripped.is_empty) && entry.rcode == rcode::NOERROR;
        let cause = if is_filtered { Some(Cause::Filtered) } else { entry.cause };
        return Ok(entry.with_cause(cause));
    };
    if trail.contains(&fork.target) || trail.len() >= LONGEST_TRAIL {
        return Err(NoAnswer::new(Cause::CnameLoop, "CNAMEs lead in a circle or too far"));
    }
    let authentic = trust_ad && reply.flags & flag::AD != 0;
    let key = wanted.key.for_name(&fork.target);
    let rest = Box::pin(look_up(resolver, upstreams, wanted, key, deadline, trail)).await?;
    let wire = join(&reply, &fork.links, &rest.wire, authentic).map_err(too_long)?;
    let mut joined = ResponseMessage::read(&wire).map_err(unreadable)?;
    if errors != rest.extended_errors {
        errors.extend(rest.extended_errors);
    }
    joined.extended_errors = errors;
    let home = wanted.home(true);
    let entry = Entry::from_reply(&joined, limits, authentic, home, resolver.now());
    // The cause is that of the part behind the CNAME, which may be an answer of nodens's own.
    Ok(entry.with_cause(rest.cause))
}

/// Returns whether another group answers for a name that `group` leads to, also behind static aliases.
fn leads_inside(wanted: &PendingQuery, group: &Arc<Group>, target: &[u8]) -> bool {
    match local(&wanted.snapshot, &wanted.key.for_question(target, rtype::A)) {
        Local::Not { route, .. } | Local::Alias(.., route) | Local::Denied { route } => {
            wanted.snapshot.group(route).is_none_or(|other| !Arc::ptr_eq(other, group))
        }
        Local::Answer(_) => false,
    }
}

/// Part of an answer behind a CNAME.
struct Remainder {
    wire: Vec<u8>,
    cause: Option<Cause>,
    extended_errors: Vec<u8>,
}

/// Resolves a CNAME's target as a query for it would be resolved: locally, from the cache, from an upstream.
///
/// If an identical query is in flight, its answer is awaited. Two queries that wait for each other are two ends of a loop of
/// CNAMEs, which has no answer; the deadline ends them.
async fn look_up<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    from: &PendingQuery,
    key: CacheKey,
    deadline: Instant,
    trail: &mut Vec<Vec<u8>>,
) -> Result<Remainder, NoAnswer> {
    let (key, route, alias) = match local(&from.snapshot, &key) {
        Local::Answer(own) => return Ok(Remainder::of(&own, &key)),
        Local::Alias(records, target, route) => (key.for_name(&target), route, Some((key, records))),
        Local::Denied { route } => return Ok(Remainder::of(&denial(&from.snapshot, route), &key)),
        Local::Not { route, .. } => (key, route, None),
    };
    let hash = resolver.cache.hash(&key);
    let wanted = PendingQuery {
        key,
        hash,
        route,
        snapshot: Arc::clone(&from.snapshot),
        alias: None,
        path: None,
        asked: Instant::now(),
        client: from.client,
        by: Cell::default(),
    };
    let (entry, age) = match kept(resolver, &wanted, 0) {
        Some((entry, Freshness::Fresh(age))) => (entry, age),
        _ => {
            let entry = match resolver.flights.join(wanted.snapshot.generation, wanted.hash, &wanted.key) {
                Role::Lead(flight) => Box::pin(fetch(resolver, upstreams, &wanted, flight, deadline, trail)).await,
                Role::Wait(landing) => {
                    resolver.metrics.queries.coalesced.inc();
                    match timeout_at(deadline, landing).await {
                        Ok(Ok(landed)) => landed.entry,
                        _ => {
                            let cause = Cause::UpstreamTimeout;
                            let error = cause.extended_error("the target of a CNAME took too long");
                            unasked_entry(resolver, &wanted, (cause, &error))
                        }
                    }
                }
            };
            (entry, 0)
        }
    };
    let extended_errors = entry.kept().extended_errors.to_vec();
    if let Some(failed) = entry.failed()
        && !entry.is_kept()
    {
        let cause = entry.cause.unwrap_or(Cause::UpstreamFailed);
        return Err(NoAnswer { cause, extended_errors, unasked: failed.is_unasked(), late: None });
    }
    let age = Age::Seconds(age);
    let wire = match &alias {
        Some((alias, records)) => {
            let joined = message_query(alias.question(), |query| behind_alias(records, &entry, age, query, &wanted));
            joined.map(|joined| served(&joined, alias, Age::Seconds(0))).unwrap_or_default()
        }
        None => served(&entry, &wanted.key, age),
    };
    Ok(Remainder { wire, cause: entry.cause, extended_errors })
}

impl Remainder {
    /// Returns an answer of nodens's own.
    fn of(own: &LocalLookup, key: &CacheKey) -> Self {
        let wire = message(key.question(), |query, out| write::local(query, own.rcode, false, &own.records, &[], out));
        Self { wire, cause: own.cause, extended_errors: own.extended_error() }
    }
}

/// Renders an entry as the response to its own question, without OPT, with AD unchanged.
fn served(entry: &Entry, key: &CacheKey, age: Age) -> Vec<u8> {
    message(key.question(), |query, out| fit(entry.kept(), query, age, &[], out))
}

/// Returns the message that `write` writes for a query with this question (with AD set, without OPT).
fn message(question: &[u8], write: impl FnOnce(&Query<'_>, &mut [u8]) -> usize) -> Vec<u8> {
    message_query(question, |query| {
        let mut out = vec![0; LONGEST_MESSAGE];
        let len = write(query, &mut out);
        out.truncate(len);
        out
    })
    .unwrap_or_default()
}

fn message_query<R>(question: &[u8], with: impl FnOnce(&Query<'_>) -> R) -> Option<R> {
    let mut packet = vec![0; HEADER];
    packet[2..4].copy_from_slice(&(flag::RD | flag::AD).to_be_bytes());
    packet[5] = 1;
    packet.extend_from_slice(question);
    Query::read(&packet).ok().map(|query| with(&query))
}

/// Returns the deadline of a client's response.
pub fn deadline(wanted: &PendingQuery) -> Instant {
    wanted.asked + patience(wanted)
}

/// Returns the deadline of an attempt that begins now.
fn from_now(wanted: &PendingQuery) -> Instant {
    Instant::now() + patience(wanted)
}

fn patience(wanted: &PendingQuery) -> Duration {
    wanted.snapshot.group(wanted.route).map_or_else(Default::default, |group| group.config.deadline)
}

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
use crate::cache::entry::Freshness;
use crate::cause::Cause;
use crate::coalesce::{CoalescedQuery, Role, SharedResult};
use crate::governor::pending::PrefetchPlace;
use crate::rebinding;
use crate::task;
use crate::upstream::{Answer, Ask, Group, LateAnswer};
use crate::wire::cache_key::CacheKey;
use crate::wire::compose::{TooLong, in_order};
use crate::wire::fit::Age;
use crate::wire::name::expanded;
use crate::wire::response::ResponseMessage;
use crate::wire::write;
use crate::wire::{ede, flag, rcode, rtype};

mod ask;
mod chain;
pub(crate) mod entries;
mod fallthrough;

use ask::{NoAnswer, ask};
use chain::{fork, join};
use entries::{behind_alias, message, message_query, remember_failure, render, unasked_entry, usable_entry};

/// Time in which clients that joined the query early reach their deadlines.
const GRACE: Duration = Duration::from_millis(100);

/// Most names that one answer may lead through, one for each route.
const LONGEST_TRAIL: usize = 8;

/// Resolves a question for all clients that wait for it. The future must not be dropped before its end.
pub async fn run<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
    leader: CoalescedQuery,
) -> Entry {
    fetch(resolver, upstreams, pending_query, leader, deadline(pending_query), &mut Vec::new()).await
}

/// Resolves a question in a task of its own, which goes on when the client that began it has got a stale answer.
pub fn launch<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
    leader: CoalescedQuery,
) -> JoinHandle<SharedResult> {
    let (resolver, upstreams, pending_query) =
        (Arc::clone(resolver), Rc::clone(upstreams), pending_query.without_alias());
    task::spawn_local(async move {
        let entry = run(&resolver, &upstreams, &pending_query, leader).await;
        SharedResult { entry, by: pending_query.by.get() }
    })
}

/// Refreshes a popular entry. If the upstream is a cache itself, whose TTLs count down, nothing is gained before the entry
/// expires, so it is refreshed at that moment.
pub fn refresh<U: Ask + 'static>(resolver: &Arc<Resolver>, upstreams: &Rc<U>, pending_query: PendingQuery) {
    let Some(place) = resolver.limits.governor.pending.admit_prefetch() else {
        resolver.metrics.capacity.rejections.with_label_values(&["prefetches"]).inc();
        return cancel_prefetch(resolver, &pending_query);
    };
    let (resolver, upstreams) = (Arc::clone(resolver), Rc::clone(upstreams));
    task::spawn_local(async move {
        let _place = place;
        let Some(old) = resolver.cache.with(pending_query.hash, &pending_query.key, |entry| entry.clone()) else {
            return;
        };
        if old.upstream_ages {
            tokio::time::sleep_until(resolver.instant(old.expires)).await;
            // Another configuration may use other servers; its own hits begin its prefetches.
            if resolver.snapshot.load().generation != pending_query.snapshot.generation {
                return cancel_prefetch(&resolver, &pending_query);
            }
        }
        let pending_query = PendingQuery { asked: Instant::now(), ..pending_query };
        let has_room = pending_query
            .snapshot
            .group(pending_query.route)
            .is_none_or(|group| group.below_threshold(pending_query.asked));
        if !has_room || resolver.limits.governor.pending.is_busy() {
            return cancel_prefetch(&resolver, &pending_query);
        }
        let Some(leader) =
            resolver.coalescer.lead(pending_query.snapshot.generation, pending_query.hash, &pending_query.key)
        else {
            return;
        };
        resolver.metrics.cache.prefetches.inc();
        let left = old.expires.saturating_sub(resolver.millis(pending_query.asked));
        let entry = run(&resolver, &upstreams, &pending_query, leader).await;
        let ages = old.upstream_ages || entry.lifetime() <= left + 1_000;
        resolver.cache.with(pending_query.hash, &pending_query.key, |kept| {
            kept.upstream_ages |= ages && entry.failed().is_none()
        });
    });
}

/// Cancels a prefetch; a later hit may begin another one.
fn cancel_prefetch(resolver: &Resolver, pending_query: &PendingQuery) {
    resolver.cache.with(pending_query.hash, &pending_query.key, |entry| entry.refreshing = false);
}

/// Queries, follows CNAMEs and caches the result, for all clients that wait. Always returns an entry: a failure is one too.
async fn fetch<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
    leader: CoalescedQuery,
    deadline: Instant,
    trail: &mut Vec<Vec<u8>>,
) -> Entry {
    let mut outcome = resolve_chain(resolver, upstreams, pending_query, deadline, trail).await;
    let late = outcome.as_mut().err().and_then(|error| error.late.take());
    // Work that continues without a waiting client is bounded as prefetches are.
    if let Some(late) = late
        && let Err(error) = &outcome
        && let Some(place) = resolver.limits.governor.pending.admit_prefetch()
    {
        let entry = unasked_entry(resolver, pending_query, (error.cause, &error.extended_errors));
        let pending_query = pending_query.without_alias();
        let wait = LateQuestion { pending_query, leader, late, trail: std::mem::take(trail), _place: place };
        let wait: Pin<Box<dyn Future<Output = ()>>> = Box::pin(wait.run(Arc::clone(resolver), Rc::clone(upstreams)));
        tokio::task::spawn_local(wait);
        return entry;
    }
    let entry = conclude(resolver, pending_query, outcome);
    leader.complete_with(&entry, pending_query.by.get());
    entry
}

/// Question that was not answered before the deadline. No failure is remembered while an answer may still come. A client that
/// joins waits for it, and causes a second attempt: a slow server answers the first one, a server that was unreachable the
/// second.
struct LateQuestion {
    pending_query: PendingQuery,
    leader: CoalescedQuery,
    late: LateAnswer,
    trail: Vec<Vec<u8>>,
    _place: PrefetchPlace,
}

impl LateQuestion {
    async fn run<U: Ask + 'static>(self, resolver: Arc<Resolver>, upstreams: Rc<U>) {
        let Self { pending_query, leader, mut late, mut trail, _place } = self;
        let group = pending_query.snapshot.group(pending_query.route).map_or("", |group| &group.config.name);
        let next = leader.next_joined();
        let joined = async {
            tokio::select! {
                Ok(()) = next => {}
                // Clients that joined before the deadline and still wait.
                () = async {
                    sleep(GRACE).await;
                    if !leader.has_waiting() {
                        std::future::pending().await
                    }
                } => {}
            }
        };
        let mut trail_again = Vec::new();
        let outcome = tokio::select! {
            late = &mut late => match late {
                Ok(answer) => follow(&resolver, &upstreams, &pending_query, answer, from_now(&pending_query), &mut trail).await,
                Err(failure) => Err(NoAnswer::of(&failure, group)),
            },
            () = joined => tokio::select! {
                Ok(answer) = &mut late => {
                    follow(&resolver, &upstreams, &pending_query, answer, from_now(&pending_query), &mut trail).await
                }
                again = resolve_chain(&resolver, &upstreams, &pending_query, from_now(&pending_query), &mut trail_again) => again,
            },
        };
        let entry = conclude(&resolver, &pending_query, outcome);
        leader.complete_with(&entry, pending_query.by.get());
    }
}

/// Caches the result or remembers the failure.
fn conclude(resolver: &Resolver, pending_query: &PendingQuery, outcome: Result<Entry, NoAnswer>) -> Entry {
    match outcome {
        Ok(entry) => {
            match entry.is_kept() {
                true => resolver.cache.insert(pending_query.hash, &pending_query.key, entry.clone()),
                // The earlier entry is no longer valid.
                false => resolver.cache.remove(pending_query.hash, &pending_query.key),
            }
            entry
        }
        Err(NoAnswer { cause, extended_errors, unasked: true, .. }) => {
            unasked_entry(resolver, pending_query, (cause, &extended_errors))
        }
        Err(NoAnswer { cause, extended_errors, .. }) => {
            let name = crate::wire::name::DisplayName(pending_query.key.name());
            tracing::debug!(
                %name,
                qtype = u16::from(pending_query.key.qtype()),
                error = %write::extended_error_text(&extended_errors, usize::MAX),
                "no answer"
            );
            remember_failure(resolver, pending_query, resolver.millis(pending_query.asked), (cause, &extended_errors))
        }
    }
}

async fn resolve_chain<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
    deadline: Instant,
    trail: &mut Vec<Vec<u8>>,
) -> Result<Entry, NoAnswer> {
    let Some(group) = pending_query.snapshot.group(pending_query.route) else {
        return Err(NoAnswer::new(Cause::UpstreamFailed, "no route"));
    };
    trail.push(pending_query.key.name().to_vec());
    let answer = ask(upstreams, pending_query, group, deadline).await?;
    follow(resolver, upstreams, pending_query, answer, deadline, trail).await
}

/// Queries the next group if the route falls through, removes what the route forbids, and follows CNAMEs that lead into another
/// route.
async fn follow<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
    answer: Answer,
    deadline: Instant,
    trail: &mut Vec<Vec<u8>>,
) -> Result<Entry, NoAnswer> {
    let snapshot = &pending_query.snapshot;
    let (Some(route), Some(group)) = (snapshot.route(pending_query.route), snapshot.group(pending_query.route)) else {
        return Err(NoAnswer::new(Cause::UpstreamFailed, "no route"));
    };
    let effective_view = snapshot.effective_view(pending_query.key.effective_view());
    let mut limits = snapshot.limits(pending_query.route);
    let (mut denies, mut group, mut answer) = ((effective_view.strips(route), route.deny_private_names), group, answer);
    // Few routes fall through; boxed to keep the common path's future small.
    let fallen = match route.fallthrough {
        Some(_) => Box::pin(fallthrough::next(upstreams, pending_query, route, &answer, deadline)).await?,
        None => None,
    };
    let has_fallen = fallen.is_some();
    if let Some(fallen) = fallen {
        limits = fallen.limits(limits);
        (group, answer) = (fallen.group, fallen.answer);
        let (addresses, names) = fallthrough::strictest(snapshot, effective_view, group);
        denies = (denies.0 || addresses, denies.1 || names);
    }
    pending_query.by.set(answer.server.into());
    let unreadable =
        |_| NoAnswer::new(Cause::UpstreamFailed, &format!("upstream {}: malformed response", group.config.name));
    let mut response = ResponseMessage::read(&answer.wire).map_err(unreadable)?;
    let mut errors = std::mem::take(&mut response.extended_errors);
    let too_long = |_| NoAnswer::new(Cause::UpstreamFailed, &format!("upstream {}: {TooLong}", group.config.name));
    let ordered = in_order(&response).map_err(too_long)?;
    if let Some(wire) = &ordered {
        response = ResponseMessage::read(wire).map_err(unreadable)?;
    }
    let (denies_addresses, denies_names) = denies;
    let stripped = if denies_addresses { rebinding::strip(&response).map_err(too_long)? } else { None };
    if let Some(stripped) = &stripped {
        resolver.metrics.queries.filtered.with_label_values(&[route.label.as_str()]).inc();
        response = ResponseMessage::read(&stripped.wire).map_err(unreadable)?;
    }
    // The upstream did not vouch for a response from which records were removed.
    let trust_ad = group.config.trust_ad && stripped.is_none();
    let fork = fork(snapshot, effective_view, &response, (route, pending_query.route), has_fallen);
    let target = || match &fork {
        Some(fork) => Some(fork.target.clone()),
        None => response.alias_of(response.qname()).and_then(|alias| expanded(response.message, alias.rdata_at())),
    };
    if denies_names && target().is_some_and(|target| leads_inside(pending_query, group, &target.to_ascii_lowercase())) {
        resolver.metrics.queries.filtered.with_label_values(&[route.label.as_str()]).inc();
        let wire = rebinding::without_answers(&response).map_err(too_long)?;
        let mut response = ResponseMessage::read(&wire).map_err(unreadable)?;
        response.extended_errors =
            write::extended_error(ede::FILTERED, "CNAME into another route removed: deny_private_names");
        let entry = Entry::from_reply(&response, limits, false, pending_query.scope(true), resolver.now());
        return Ok(entry.with_cause(Some(Cause::Filtered)));
    }
    let Some(fork) = fork else {
        let (follows, now) = (response.may_lead_on(), resolver.now());
        if stripped.is_some() {
            errors.extend(write::extended_error(ede::FILTERED, "private addresses removed: deny_private_addresses"));
        }
        response.extended_errors = errors;
        let entry = Entry::from_reply(&response, limits, trust_ad, pending_query.scope(follows), now);
        let is_filtered = stripped.is_some_and(|stripped| stripped.is_empty) && entry.rcode == rcode::NOERROR;
        let cause = if is_filtered { Some(Cause::Filtered) } else { entry.cause };
        return Ok(entry.with_cause(cause));
    };
    if trail.contains(&fork.target) || trail.len() >= LONGEST_TRAIL {
        return Err(NoAnswer::new(Cause::CnameLoop, "CNAMEs lead in a circle or too far"));
    }
    let authentic = trust_ad && response.flags & flag::AD != 0;
    let key = pending_query.key.for_name(&fork.target);
    let rest = Box::pin(resolve_target(resolver, upstreams, pending_query, key, deadline, trail)).await?;
    let wire = join(&response, &fork.links, &rest.wire, authentic).map_err(too_long)?;
    let mut joined = ResponseMessage::read(&wire).map_err(unreadable)?;
    if errors != rest.extended_errors {
        errors.extend(rest.extended_errors);
    }
    joined.extended_errors = errors;
    let scope = pending_query.scope(true);
    let entry = Entry::from_reply(&joined, limits, authentic, scope, resolver.now());
    // The cause is that of the part behind the CNAME, which may be an answer of nodens's own.
    Ok(entry.with_cause(rest.cause))
}

/// Returns whether another group answers for a name that `group` leads to, also behind static aliases.
fn leads_inside(pending_query: &PendingQuery, group: &Arc<Group>, target: &[u8]) -> bool {
    match local(&pending_query.snapshot, &pending_query.key.for_question(target, rtype::A)) {
        Local::Not { route, .. } | Local::Alias(.., route) | Local::Denied { route } => {
            pending_query.snapshot.group(route).is_none_or(|other| !Arc::ptr_eq(other, group))
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
async fn resolve_target<U: Ask + 'static>(
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
    let pending_query = PendingQuery {
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
    let (entry, age) = match usable_entry(resolver, &pending_query, 0) {
        Some((entry, Freshness::Fresh(age))) => (entry, age),
        _ => {
            let entry = match resolver.coalescer.join(
                pending_query.snapshot.generation,
                pending_query.hash,
                &pending_query.key,
            ) {
                Role::Lead(leader) => {
                    Box::pin(fetch(resolver, upstreams, &pending_query, leader, deadline, trail)).await
                }
                Role::Wait(landing) => {
                    resolver.metrics.queries.coalesced.inc();
                    match timeout_at(deadline, landing).await {
                        Ok(Ok(landed)) => landed.entry,
                        _ => {
                            let cause = Cause::UpstreamTimeout;
                            let error = cause.extended_error("the target of a CNAME took too long");
                            unasked_entry(resolver, &pending_query, (cause, &error))
                        }
                    }
                }
            };
            (entry, 0)
        }
    };
    let extended_errors = entry.cached_message().extended_errors.to_vec();
    if let Some(failed) = entry.failed()
        && !entry.is_kept()
    {
        let cause = entry.cause.unwrap_or(Cause::UpstreamFailed);
        return Err(NoAnswer { cause, extended_errors, unasked: failed.is_unasked(), late: None });
    }
    let age = Age::Seconds(age);
    let wire = match &alias {
        Some((alias, records)) => {
            let joined =
                message_query(alias.question(), |query| behind_alias(records, &entry, age, query, &pending_query));
            joined.map(|joined| render(&joined, alias, Age::Seconds(0))).unwrap_or_default()
        }
        None => render(&entry, &pending_query.key, age),
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

/// Returns the deadline of a client's response.
pub fn deadline(pending_query: &PendingQuery) -> Instant {
    pending_query.asked + patience(pending_query)
}

/// Returns the deadline of an attempt that begins now.
fn from_now(pending_query: &PendingQuery) -> Instant {
    Instant::now() + patience(pending_query)
}

fn patience(pending_query: &PendingQuery) -> Duration {
    pending_query.snapshot.group(pending_query.route).map_or_else(Default::default, |group| group.config.deadline)
}

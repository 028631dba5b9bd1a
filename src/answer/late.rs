//! The second half of the path: a query whose answer takes its time, in a task of its own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use super::autopath::Arrived;
use super::{Resolver, Wanted, ancestors, autopath, inside, keepalive, stale, stale_window};
use crate::cache::Entry;
use crate::cache::entry::Worth;
use crate::coalesce::{By, Landed, Place};
use crate::fetch;
use crate::jobs::ledger::NO_ROUTE;
use crate::metrics::Source;
use crate::upstream::Ask;
use crate::upstream::quota::Verdict;
use crate::wire::fit::{Age, fit};
use crate::wire::make;
use crate::wire::query::Query;
use crate::wire::{LARGEST_UDP_REPLY, ede, rcode};

/// How long a client waits for a refresh before it gets the stale answer; less than any client's own timeout, and more
/// than a healthy upstream takes (RFC 8767 section 5 proposes 1.8 s, which job pods do not wait).
const STALE_AFTER: Duration = Duration::from_millis(500);

/// The same while all servers that could be asked are known to be down: one that is back would answer within that.
const STALE_AFTER_WHEN_DOWN: Duration = Duration::from_millis(30);

/// A reply that took its time.
pub struct Finished {
    /// The message.
    pub wire: Vec<u8>,
    /// Its response code.
    pub rcode: u16,
    /// Where it came from.
    pub source: Source,
    /// The extended errors that say why it is no answer, as whole options.
    pub extended_errors: Box<[u8]>,
    /// The server that gave the answer, if one was asked for this query or an identical one.
    pub by: Option<SocketAddr>,
}

/// Answers a query that [`Resolver::respond`] could not.
///
/// Runs in a `LocalSet`, because `upstreams` belong to one worker.
pub async fn finish<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: Box<Wanted>,
    packet: &[u8],
    over_tcp: bool,
) -> Finished {
    let _waiting = Waiting::new(resolver);
    if wanted.route == NO_ROUTE {
        // No question for upstreams: what nodens tells a client of itself.
        return inside::finish(resolver, &wanted, packet, over_tcp).await;
    }
    let Arrived { entry, source, other } = match &wanted.path {
        // On the heap, so that those who do not go this way need not carry its room along.
        Some(path) => Box::pin(autopath::walk(resolver, upstreams, &wanted, path)).await,
        None => {
            let (entry, source) = obtain(resolver, upstreams, &wanted).await;
            ancestors::learn(resolver, upstreams, &wanted, entry.rcode, source);
            Arrived { entry, source, other: None }
        }
    };
    let Ok(query) = Query::read(packet) else {
        return Finished {
            wire: Vec::new(),
            rcode: rcode::SERVFAIL,
            source,
            extended_errors: Box::default(),
            by: None,
        };
    };
    let (age, mut options) = match source {
        Source::Stale => stale(&entry),
        // One that a static alias leads to may have been kept for a while.
        _ => (Age::Seconds((resolver.millis(wanted.asked).saturating_sub(entry.born) / 1000) as u32), Vec::new()),
    };
    let limit = match over_tcp {
        true => {
            options.extend(keepalive(&wanted.snapshot, &query));
            usize::from(u16::MAX)
        }
        false => usize::from(query.udp_size().min(LARGEST_UDP_REPLY)),
    };
    let alias = other.as_deref().map(|(alias, target)| (alias, target));
    let (entry, age) = match alias.or(wanted.alias.as_ref().map(|alias| (alias, &*wanted))) {
        // The alias itself does not age.
        Some((alias, target)) => (fetch::behind_alias(alias, &entry, age, &query, target), Age::Seconds(0)),
        None => (entry, age),
    };
    let mut wire = vec![0; limit.min(entry.kept().wire.len() + query.question().len() + 512 + options.len())];
    let len = fit(entry.kept(), &query, age, &options, &mut wire);
    wire.truncate(len);
    let why = if entry.rcode == rcode::NOERROR { Box::default() } else { entry.kept().extended_errors.into() };
    let answered = source == Source::Upstream && entry.rcode != rcode::SERVFAIL;
    let by = if answered { wanted.by.get().address() } else { None };
    Finished { wire, rcode: entry.rcode, source, extended_errors: why, by }
}

/// Gets the entry for a question from upstreams, or what stands in for it.
pub(super) async fn obtain<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    wanted: &Wanted,
) -> (Entry, Source) {
    // Whoever gave the answer to another gave it to this one.
    let take_in = |landed: Landed| {
        wanted.by.set(landed.by);
        landed.entry
    };
    let place = resolver.flights.join(wanted.snapshot.generation, wanted.hash, &wanted.key);
    let (fresh, stale) = match fetch::kept(resolver, wanted, stale_window(&wanted.snapshot)) {
        Some((entry, Worth::Fresh(_))) => (Some(entry), None),
        Some((entry, Worth::Stale)) => (None, Some(entry)),
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
            resolver.metrics.coalesced.inc();
            let landing = async { landing.await.ok().map(take_in) };
            return match stale {
                Some(stale) => or_stale(resolver, wanted, stale, landing).await,
                // None: whoever asked was stopped.
                None => {
                    (landing.await.unwrap_or_else(|| fetch::unasked_entry(resolver, wanted, &[])), Source::Upstream)
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
            (fetch::run(resolver, upstreams.as_ref(), wanted, flight).await, Source::Upstream)
        }
        (Verdict::AskUnlessStale | Verdict::Shed, Some(stale)) => {
            group.inspect(|group| resolver.metrics.shed(&group.config.name).inc());
            flight.land(&fetch::unasked_entry(resolver, wanted, &[]), By::default());
            (stale, Source::Stale)
        }
        (Verdict::Shed, None) => {
            let text = group.map(|group| {
                resolver.metrics.shed(&group.config.name).inc();
                let limit = group.config.max_qps.unwrap_or_default();
                format!("upstream {}: not asked: max_qps = {limit} is nearly used up", group.config.name)
            });
            let entry =
                fetch::unasked_entry(resolver, wanted, &make::extended_error(ede::OTHER, &text.unwrap_or_default()));
            flight.land(&entry, By::default());
            (entry, Source::Upstream)
        }
    }
}

/// Waits for an entry a while, and takes the stale one if that fails or is late.
async fn or_stale(
    resolver: &Resolver,
    wanted: &Wanted,
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
            fetch::remember_failure(resolver, wanted, resolver.millis(wanted.asked), &[]);
            (stale, Source::Stale)
        }
    }
}

/// Counts a query that waits, as long as it does.
struct Waiting<'a>(&'a Resolver);

impl<'a> Waiting<'a> {
    fn new(resolver: &'a Resolver) -> Self {
        resolver.metrics.pending.inc();
        Self(resolver)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.metrics.pending.dec();
    }
}

//! The second half of the path: a query whose answer takes its time, in a task of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Resolver, Wanted, keepalive, stale, stale_window};
use crate::cache::Entry;
use crate::cache::entry::Worth;
use crate::fetch;
use crate::metrics::Source;
use crate::upstream::Ask;
use crate::wire::fit::{Age, fit};
use crate::wire::query::Query;
use crate::wire::{LARGEST_UDP_REPLY, rcode};

/// How long a client waits for a refresh before it gets the stale answer; less than any client's own timeout, and more
/// than a healthy upstream takes (RFC 8767 section 5 proposes 1.8 s, which job pods do not wait).
const STALE_AFTER: Duration = Duration::from_millis(500);

/// A reply that took its time.
pub struct Finished {
    /// The message.
    pub wire: Vec<u8>,
    /// Its response code.
    pub rcode: u16,
    /// Where it came from.
    pub source: Source,
}

/// Answers a query that [`Resolver::respond`] could not.
///
/// Runs in a `LocalSet`, because `upstreams` belong to one worker.
pub async fn finish<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &std::rc::Rc<U>,
    wanted: Box<Wanted>,
    packet: &[u8],
    over_tcp: bool,
) -> Finished {
    let _waiting = Waiting::new(resolver);
    let (entry, source) = obtain(resolver, upstreams, &wanted).await;
    let Ok(query) = Query::read(packet) else {
        return Finished { wire: Vec::new(), rcode: rcode::SERVFAIL, source };
    };
    let (age, mut options) = match source {
        Source::Stale => stale(&entry),
        // One that a static alias leads to may have been kept for a while.
        _ => (Age::Seconds((resolver.now().saturating_sub(entry.born) / 1000) as u32), Vec::new()),
    };
    let limit = match over_tcp {
        true => {
            options.extend(keepalive(&wanted.snapshot, &query));
            usize::from(u16::MAX)
        }
        false => usize::from(query.udp_size().min(LARGEST_UDP_REPLY)),
    };
    let (entry, age) = match &wanted.alias {
        // The alias itself does not age.
        Some(alias) => (fetch::behind_alias(alias, &entry, age, &query, &wanted), Age::Seconds(0)),
        None => (entry, age),
    };
    let mut wire = vec![0; limit.min(entry.kept().wire.len() + query.question().len() + 512 + options.len())];
    let len = fit(entry.kept(), &query, age, &options, &mut wire);
    wire.truncate(len);
    Finished { wire, rcode: entry.rcode, source }
}

/// Gets the entry for a question from upstreams, or what stands in for it.
async fn obtain<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &std::rc::Rc<U>,
    wanted: &Wanted,
) -> (Entry, Source) {
    let started = Instant::now();
    let fallback = stale_entry(resolver, wanted);
    let (flight, mut landing) = resolver.flights.join(wanted.snapshot.generation, &wanted.key);
    match (flight, fetch::fresh_entry(resolver, wanted)) {
        // It landed for someone else a moment ago.
        (Some(flight), Some((entry, _))) => flight.land(&entry),
        (Some(flight), None) => fetch::launch(resolver, upstreams, wanted, flight),
        (None, _) => resolver.metrics.coalesced.inc(),
    }
    let landed = match fallback {
        None => landing.await.ok(),
        Some(_) => match timeout_at(started + STALE_AFTER, &mut landing).await {
            Ok(landed) => landed.ok(),
            Err(_) => {
                // From here on nobody waits for this: the next client gets the stale answer at once.
                fetch::remember_failure(resolver, wanted, resolver.millis(started), &[]);
                None
            }
        },
    };
    match (landed, fallback) {
        (Some(entry), _) if entry.failed().is_none() => (entry, Source::Upstream),
        (_, Some(stale)) => (stale, Source::Stale),
        (Some(failure), None) => (failure, Source::Upstream),
        // Whoever asked was stopped.
        (None, None) => (fetch::failure_entry(resolver, wanted, resolver.millis(started), &[]), Source::Upstream),
    }
}

/// An entry past its time that may stand in for a failed refresh.
fn stale_entry(resolver: &Resolver, wanted: &Wanted) -> Option<Entry> {
    let (now, window) = (resolver.now(), stale_window(&wanted.snapshot));
    let entry = resolver.cache.with(wanted.hash, &wanted.key, |entry| entry.clone())?;
    let at_home = entry.home.generation == wanted.snapshot.generation
        || wanted.snapshot.rehome(entry.home, wanted.key.name()).is_some();
    (at_home && entry.worth(now, window) == Worth::Stale).then_some(entry)
}

/// Counts a query that waits, as long as it does.
struct Waiting<'a>(&'a Resolver);

impl<'a> Waiting<'a> {
    fn new(resolver: &'a Resolver) -> Self {
        resolver.pending.fetch_add(1, Ordering::Relaxed);
        resolver.metrics.pending.inc();
        Self(resolver)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.pending.dec();
    }
}

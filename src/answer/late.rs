//! The second half of the path: a query whose answer takes its time, in a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use super::{Resolver, Wanted, keepalive, stale, stale_window};
use crate::cache::Entry;
use crate::cache::entry::Worth;
use crate::coalesce::Place;
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
        _ => (Age::Seconds((resolver.millis(wanted.asked).saturating_sub(entry.born) / 1000) as u32), Vec::new()),
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
    let place = resolver.flights.join(wanted.snapshot.generation, wanted.hash, &wanted.key);
    let kept = fetch::kept(resolver, wanted, stale_window(&wanted.snapshot));
    match (place, kept) {
        // It landed for someone else a moment ago.
        (Place::Lead(flight), Some((entry, Worth::Fresh(_)))) => {
            flight.land(&entry);
            (entry, Source::Upstream)
        }
        (Place::Lead(flight), Some((stale, Worth::Stale))) => {
            let fetch = fetch::launch(resolver, upstreams, wanted, flight);
            or_stale(resolver, wanted, stale, async { fetch.await.ok() }).await
        }
        (Place::Lead(flight), _) => (fetch::run(resolver, upstreams.as_ref(), wanted, flight).await, Source::Upstream),
        (Place::Wait(landing), kept) => {
            resolver.metrics.coalesced.inc();
            match kept {
                Some((stale, Worth::Stale)) => or_stale(resolver, wanted, stale, async { landing.await.ok() }).await,
                // None: whoever asked was stopped.
                _ => match landing.await {
                    Ok(entry) => (entry, Source::Upstream),
                    Err(_) => {
                        (fetch::failure_entry(resolver, wanted, resolver.millis(wanted.asked), &[]), Source::Upstream)
                    }
                },
            }
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
    match timeout_at(wanted.asked + STALE_AFTER, landing).await {
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

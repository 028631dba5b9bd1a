//! The second half of the path: a query whose answer takes its time, in a task of its own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use super::autopath::Arrived;
use super::{Deferred, Resolver, Wanted, ancestors, autopath, failure_holds, inside, keepalive, stale, stale_window};
use crate::cache::Entry;
use crate::cache::entry::Worth;
use crate::cause::Cause;
use crate::coalesce::{By, Landed, Place};
use crate::fetch;
use crate::governor::pool::Share;
use crate::jobs::ledger::NO_ROUTE;
use crate::metrics::Source;
use crate::upstream::Ask;
use crate::upstream::quota::Verdict;
use crate::wire::fit::{Age, fit};
use crate::wire::make::{self, LocalRecords};
use crate::wire::query::Query;
use crate::wire::{LARGEST_UDP_REPLY, rcode};

/// How long a client waits for a refresh before it gets the stale answer; less than any client's own timeout, and more
/// than a healthy upstream takes (RFC 8767 section 5 proposes 1.8 s, which job pods do not wait).
const STALE_AFTER: Duration = Duration::from_millis(500);

/// The same while all servers that could be asked are known to be down: one that is back would answer within that.
const STALE_AFTER_WHEN_DOWN: Duration = Duration::from_millis(30);

/// The smallest answer, in bytes, whose memory is accounted for: most answers are far smaller.
const LARGE: usize = 1_024;

/// A query whose answer is there: the response is rendered only when it can be sent, so that what waits are shares of
/// answers and no copies.
pub struct Resolved {
    /// What was asked.
    pub wanted: Box<Wanted>,
    /// The client's query, as much of it as its response depends on.
    pub query: Box<[u8]>,
    /// Whether it came over TCP.
    pub over_tcp: bool,
    /// Where the answer came from.
    pub source: Source,
    /// From the query to its answer.
    pub took: Duration,
    body: Body,
    /// What a large answer holds of the memory for those that wait.
    _share: Option<Share>,
}

/// What a response is rendered from.
enum Body {
    /// An entry, and the CNAME that leads to the name that was found, with its question.
    Entry(Entry, Option<Box<(LocalRecords, Wanted)>>),
    /// What nodens tells a client of itself.
    Introspection(LocalRecords),
}

/// Resolves a query that [`Resolver::respond`] could not answer at once.
///
/// Runs in a `LocalSet`, because `upstreams` belong to one worker.
pub async fn resolve<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    deferred: Box<Deferred>,
) -> Resolved {
    let Deferred { wanted, query, over_tcp, place } = *deferred;
    if wanted.route == NO_ROUTE {
        // No question for upstreams: what nodens tells a client of itself.
        let body = Body::Introspection(inside::tell(resolver, &wanted, &query, over_tcp).await);
        drop(place);
        let took = wanted.asked.elapsed();
        return Resolved { wanted, query, over_tcp, source: Source::Local, took, body, _share: None };
    }
    let Arrived { entry, source, other } = match &wanted.path {
        // Boxed to keep the common path's future small.
        Some(path) => Box::pin(autopath::walk(resolver, upstreams, &wanted, path)).await,
        None => {
            let (entry, source) = obtain(resolver, upstreams, &wanted).await;
            ancestors::learn(resolver, upstreams, &wanted, entry.rcode, source);
            Arrived { entry, source, other: None }
        }
    };
    drop(place);
    let took = wanted.asked.elapsed();
    let size = entry.share_of_bytes();
    let share = wanted.client.filter(|_| size >= LARGE).map(|client| {
        let share = Share::of(&resolver.governor.buffered, client, size);
        if share.is_none() {
            resolver.metrics.overload.with_label_values(&["buffered_bytes"]).inc();
        }
        share
    });
    match share {
        Some(None) => {
            let error = Cause::RateLimited.extended_error("too many large responses of this client wait to be read");
            let body = Body::Entry(fetch::unasked_entry(resolver, &wanted, (Cause::RateLimited, &error)), None);
            Resolved { wanted, query, over_tcp, source: Source::Local, took, body, _share: None }
        }
        share => {
            let (body, _share) = (Body::Entry(entry, other), share.flatten());
            Resolved { wanted, query, over_tcp, source, took, body, _share }
        }
    }
}

impl Resolved {
    /// Renders the response into `out`, whose length is the most that the transport carries; over UDP the client's own limit
    /// comes on top. Returns its length.
    pub fn render(&self, resolver: &Resolver, out: &mut [u8]) -> usize {
        let Ok(query) = Query::read(&self.query) else { return 0 };
        let (limit, mut options) = match self.over_tcp {
            true => (out.len(), keepalive(&self.wanted.snapshot, &query)),
            false => (out.len().min(usize::from(query.udp_size().min(LARGEST_UDP_REPLY))), Vec::new()),
        };
        let out = &mut out[..limit];
        let (entry, other) = match &self.body {
            Body::Introspection(records) => return make::local(&query, rcode::NOERROR, true, records, &options, out),
            Body::Entry(entry, other) => (entry, other),
        };
        let age = match self.source {
            Source::Stale => {
                let (age, error) = stale(entry);
                options.extend(error);
                age
            }
            // One that a static alias leads to may have been kept for a while.
            _ => Age::Seconds((resolver.millis(self.wanted.asked).saturating_sub(entry.born) / 1000) as u32),
        };
        let alias = other.as_deref().map(|(alias, target)| (alias, target));
        match alias.or(self.wanted.alias.as_ref().map(|alias| (alias, &*self.wanted))) {
            // The alias itself does not age.
            Some((alias, target)) => {
                let entry = fetch::behind_alias(alias, entry, age, &query, target);
                fit(entry.kept(), &query, Age::Seconds(0), &options, out)
            }
            None => fit(entry.kept(), &query, age, &options, out),
        }
    }

    /// Its response code.
    pub fn rcode(&self) -> u16 {
        match &self.body {
            Body::Entry(entry, _) => entry.rcode,
            Body::Introspection(_) => rcode::NOERROR,
        }
    }

    /// Why it is no answer; none if it is one.
    pub fn cause(&self) -> Option<Cause> {
        match &self.body {
            Body::Entry(entry, _) => entry.cause,
            Body::Introspection(_) => None,
        }
    }

    /// The extended errors that say why it is no answer, as whole options; empty for an answer.
    pub fn extended_errors(&self) -> &[u8] {
        match &self.body {
            Body::Entry(entry, _) if entry.rcode != rcode::NOERROR => entry.kept().extended_errors,
            _ => &[],
        }
    }

    /// The server that gave the answer, if one was asked for this query or an identical one.
    pub fn answered_by(&self) -> Option<SocketAddr> {
        let answered = self.source == Source::Upstream && self.rcode() != rcode::SERVFAIL;
        if answered { self.wanted.by.get().address() } else { None }
    }
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
    let unasked = |cause, error: &[u8]| fetch::unasked_entry(resolver, wanted, (cause, error));
    let place = resolver.flights.join(wanted.snapshot.generation, wanted.hash, &wanted.key);
    let (fresh, stale) = match fetch::kept(resolver, wanted, stale_window(&wanted.snapshot)) {
        Some((entry, Worth::Fresh(_))) => (Some(entry), None),
        Some((entry, Worth::Stale)) => (None, Some(entry)),
        // A remembered failure is known before the cache was asked, but for the target of a static alias (RFC 9520).
        Some((entry, Worth::Failed)) if failure_holds(&wanted.snapshot, &entry, resolver.millis(wanted.asked)) => {
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
            resolver.metrics.coalesced.inc();
            let landing = async { landing.await.ok().map(take_in) };
            return match stale {
                Some(stale) => or_stale(resolver, wanted, stale, landing).await,
                // None: whoever asked was stopped.
                None => (landing.await.unwrap_or_else(|| unasked(Cause::UpstreamFailed, &[])), Source::Upstream),
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
            fetch::remember_failure(resolver, wanted, resolver.millis(wanted.asked), (Cause::UpstreamTimeout, &[]));
            (stale, Source::Stale)
        }
    }
}

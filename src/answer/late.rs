//! The second half of the path: a query whose answer takes its time, in a task of its own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::autopath::{self, Arrived};
use super::kept::stale;
use super::obtain::obtain;
use super::pending::{Deferred, Wanted};
use super::request::keepalive;
use super::state::Resolver;
use super::{ancestors, inside};
use crate::cache::Entry;
use crate::cause::Cause;
use crate::fetch;
use crate::governor::pool::Share;
use crate::jobs::ledger::NO_ROUTE;
use crate::metrics::Source;
use crate::upstream::Ask;
use crate::wire::fit::{Age, fit};
use crate::wire::make::{self, LocalRecords};
use crate::wire::query::Query;
use crate::wire::{LARGEST_UDP_REPLY, Rcode, rcode};

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
    pub fn rcode(&self) -> Rcode {
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

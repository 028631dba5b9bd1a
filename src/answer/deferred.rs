//! The slow path: a query that cannot be answered at once, in a task of its own.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::autopath::{self, SearchOutcome};
use super::disclosure::fit_disclosed;
use super::freshness::stale;
use super::obtain::obtain;
use super::outcome::ParsedQuestion;
use super::pending::{Deferred, Introspection, PendingQuery, PendingTask};
use super::request::options;
use super::state::Resolver;
use super::{ancestors, introspection};
use crate::cache::Entry;
use crate::cause::Cause;
use crate::config::{Hints, RouteId};
use crate::forward::entries;
use crate::governor::pool::Share;
use crate::metrics::AnswerSource;
use crate::snapshot::Snapshot;
use crate::upstream::Ask;
use crate::wire::fit::Age;
use crate::wire::query::Query;
use crate::wire::write::{self, LocalRecords};
use crate::wire::{LARGEST_UDP_REPLY, Rcode, rcode};

/// Least size of an answer, in bytes, whose memory is accounted for: most answers are far smaller.
const LARGE: usize = 1_024;

/// Query with its answer. The response is rendered only when it can be sent, so waiting responses share the bytes of cache
/// entries.
pub struct Resolved {
    /// The parts of the client's query that the response depends on.
    pub query: Box<[u8]>,
    /// True if the query came over TCP.
    pub over_tcp: bool,
    /// Source of the answer.
    pub source: AnswerSource,
    /// Time from the query to its answer.
    pub took: Duration,
    body: Body,
    /// Explanations that the client gets.
    hints: Hints,
    /// Share of the memory for responses that wait, held by a large answer.
    _share: Option<Share>,
}

/// Content of a response.
enum Body {
    /// Entry for a question, and the CNAME to another name that was found, with that name's question.
    Entry(Box<PendingQuery>, Entry, Option<Box<(LocalRecords, PendingQuery)>>),
    /// Records about the client.
    Introspection(Box<Introspection>, LocalRecords),
}

/// Resolves a query that [`Resolver::respond`] could not answer at once.
///
/// Runs in a `LocalSet`, because `upstreams` belongs to one worker.
pub async fn resolve<U: Ask + 'static>(
    resolver: &Arc<Resolver>,
    upstreams: &Rc<U>,
    deferred: Box<Deferred>,
) -> Resolved {
    let Deferred { task, query, over_tcp, hints, place } = *deferred;
    let pending_query = match task {
        PendingTask::Question(pending_query) => pending_query,
        PendingTask::Introspection(pending_query) => {
            let records = introspection::report_records(resolver, &pending_query, &query, over_tcp).await;
            drop(place);
            let took = pending_query.asked.elapsed();
            let body = Body::Introspection(pending_query, records);
            return Resolved { query, over_tcp, source: AnswerSource::Local, took, body, hints, _share: None };
        }
    };
    let SearchOutcome { entry, source, other } = match &pending_query.path {
        // Boxed to keep the common path's future small.
        Some(path) => Box::pin(autopath::walk(resolver, upstreams, &pending_query, path)).await,
        None => {
            let (entry, source) = obtain(resolver, upstreams, &pending_query).await;
            ancestors::learn(resolver, upstreams, &pending_query, entry.rcode, source);
            SearchOutcome { entry, source, other: None }
        }
    };
    drop(place);
    let took = pending_query.asked.elapsed();
    let size = entry.share_of_bytes();
    let share = pending_query.client.filter(|_| size >= LARGE).map(|client| {
        let share = Share::of(&resolver.limits.governor.buffered, client, size);
        if share.is_none() {
            resolver.metrics.capacity.rejections.with_label_values(&["buffered_bytes"]).inc();
        }
        share
    });
    match share {
        Some(None) => {
            let error = Cause::RateLimited.extended_error("too many large responses of this client wait to be read");
            let entry = entries::unasked_entry(resolver, &pending_query, (Cause::RateLimited, &error));
            let body = Body::Entry(pending_query, entry, None);
            Resolved { query, over_tcp, source: AnswerSource::Local, took, body, hints, _share: None }
        }
        share => {
            let (body, _share) = (Body::Entry(pending_query, entry, other), share.flatten());
            Resolved { query, over_tcp, source, took, body, hints, _share }
        }
    }
}

impl Resolved {
    /// Renders the response into `out`, whose length is the transport's limit; over UDP the client's own limit applies too.
    /// Returns the length of the response.
    pub fn render(&self, resolver: &Resolver, out: &mut [u8]) -> usize {
        let Ok(query) = Query::read(&self.query) else { return 0 };
        let limit = match self.over_tcp {
            true => out.len(),
            false => out.len().min(usize::from(query.udp_size().min(LARGEST_UDP_REPLY))),
        };
        let mut options = options(self.snapshot(), &query, self.over_tcp);
        let out = &mut out[..limit];
        let (pending_query, entry, other) = match &self.body {
            Body::Introspection(_, records) => {
                return write::local(&query, rcode::NOERROR, true, records, &options, out);
            }
            Body::Entry(pending_query, entry, other) => (pending_query, entry, other),
        };
        let age = match self.source {
            AnswerSource::Stale => {
                let (age, error) = stale(entry, self.hints);
                options.extend(error);
                age
            }
            // The target of a static alias may have been in the cache for a while.
            _ => Age::Seconds((resolver.millis(pending_query.asked).saturating_sub(entry.born) / 1000) as u32),
        };
        let alias = other.as_deref().map(|(alias, target)| (alias, target));
        match alias.or(pending_query.alias.as_ref().map(|alias| (alias, &**pending_query))) {
            // The alias itself does not age.
            Some((alias, target)) => {
                let entry = entries::behind_alias(alias, entry, age, &query, target);
                fit_disclosed(self.hints, entry.cached_message(), &query, Age::Seconds(0), &options, out)
            }
            None => fit_disclosed(self.hints, entry.cached_message(), &query, age, &options, out),
        }
    }

    /// Returns the question of the client's query; `None` if the query was for a static alias.
    pub fn question(&self) -> Option<ParsedQuestion<'_>> {
        match &self.body {
            Body::Entry(pending_query, ..) if pending_query.alias.is_none() => {
                Some(ParsedQuestion::of(&pending_query.key, pending_query.hash))
            }
            _ => None,
        }
    }

    /// Returns the client; `None` if nodens itself sent the query.
    pub fn client(&self) -> Option<IpAddr> {
        match &self.body {
            Body::Entry(pending_query, ..) => pending_query.client,
            Body::Introspection(pending_query, _) => Some(pending_query.client),
        }
    }

    /// Returns the time of the query.
    pub fn asked(&self) -> Instant {
        match &self.body {
            Body::Entry(pending_query, ..) => pending_query.asked,
            Body::Introspection(pending_query, _) => pending_query.asked,
        }
    }

    /// Returns the route of the name, if the query was received under the configuration of this generation: routes of other
    /// generations are not comparable.
    pub fn route_under(&self, generation: u32) -> Option<RouteId> {
        match &self.body {
            Body::Entry(pending_query, ..) => {
                Some(pending_query.route).filter(|_| pending_query.snapshot.generation == generation)
            }
            Body::Introspection(..) => None,
        }
    }

    /// Returns the configuration that the query was received under.
    fn snapshot(&self) -> &Snapshot {
        match &self.body {
            Body::Entry(pending_query, ..) => &pending_query.snapshot,
            Body::Introspection(pending_query, _) => &pending_query.snapshot,
        }
    }

    /// Returns the response code.
    pub fn rcode(&self) -> Rcode {
        match &self.body {
            Body::Entry(_, entry, _) => entry.rcode,
            Body::Introspection(..) => rcode::NOERROR,
        }
    }

    /// Returns the cause of a failure; `None` for an answer.
    pub fn cause(&self) -> Option<Cause> {
        match &self.body {
            Body::Entry(_, entry, _) => entry.cause,
            Body::Introspection(..) => None,
        }
    }

    /// Returns the extended errors that explain a failure, as whole options; empty for an answer.
    pub fn extended_errors(&self) -> &[u8] {
        match &self.body {
            Body::Entry(_, entry, _) if entry.rcode != rcode::NOERROR => entry.cached_message().extended_errors,
            _ => &[],
        }
    }

    /// Returns the server that answered, if this query or an identical one was sent to a server.
    pub fn answered_by(&self) -> Option<SocketAddr> {
        match &self.body {
            Body::Entry(pending_query, entry, _)
                if self.source == AnswerSource::Upstream && entry.rcode != rcode::SERVFAIL =>
            {
                pending_query.by.get().address()
            }
            _ => None,
        }
    }
}

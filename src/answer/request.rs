//! A client's query, and the possible responses.

use std::net::IpAddr;

use super::disclosure;
use super::outcome::{Explanation, ParsedQuestion, QueryOutcome};
use super::pending::{Deferred, PendingQuery};
use crate::cause::Cause;
use crate::config::{Hints, RouteId};
use crate::metrics::AnswerSource;
use crate::snapshot::Snapshot;
use crate::wire::Rcode;
use crate::wire::cache_key::CacheKey;
use crate::wire::query::{Query, RequestBits};
use crate::wire::write::{self, LocalRecords};

/// Reaction to a received message.
pub enum Response {
    /// Send nothing: any response could be used for reflection.
    Silence,
    /// Send this many bytes of the buffer.
    Reply(usize),
    /// Send this many bytes, then query the upstream: to refresh the answer, or to verify a denial.
    ReplyAndRefresh(usize, Box<PendingQuery>),
    /// Resolve the query in a task: see [`resolve`](super::resolve).
    Deferred(Box<Deferred>),
}

/// Query, its source address and its transport.
pub(super) struct Request<'q> {
    pub(super) query: Query<'q>,
    pub(super) client: IpAddr,
    pub(super) over_tcp: bool,
}

impl<'q> Request<'q> {
    /// Returns an outcome without explanation, for a response that is not truncated.
    #[inline]
    pub(super) fn outcome<'a>(
        &self,
        (key, hash): (&'a CacheKey, u64),
        route: Option<RouteId>,
        (rcode, cause): (Rcode, Option<Cause>),
        source: AnswerSource,
    ) -> QueryOutcome<'a> {
        let &Self { client, over_tcp, .. } = self;
        let (question, words) = (ParsedQuestion::of(key, hash), Explanation::None);
        QueryOutcome { client, over_tcp, question, route, rcode, source, cause, words, truncated_to: None }
    }

    /// Returns the outcome of a rejected query: all rejections of a client count as one failure, whatever the question.
    pub(super) fn turned_away<'a>(
        &self,
        (rcode, cause): (Rcode, Cause),
        source: AnswerSource,
        text: &'a str,
    ) -> QueryOutcome<'a>
    where
        'q: 'a,
    {
        let &Self { query, client, over_tcp } = self;
        let question = ParsedQuestion { name: query.name(), qtype: query.qtype, hash: 0 };
        let (cause, words) = (Some(cause), Explanation::Text(text));
        QueryOutcome { client, over_tcp, question, route: None, rcode, source, cause, words, truncated_to: None }
    }

    /// Writes a response without records, with an extended error. The text must be one that the client may see unless it gets none.
    pub(super) fn error(&self, (rcode, cause): (Rcode, Cause), text: &str, hints: Hints, out: &mut [u8]) -> Response {
        let error = cause.extended_error(disclosure::text(hints, text));
        Response::Reply(write::local(&self.query, rcode, false, &LocalRecords::default(), &error, out))
    }
}

/// Returns the options that the client requested: the idle timeout of its connection (RFC 7828), and the identity of the node
/// (RFC 5001). Over UDP there are rarely any.
#[cold]
pub(super) fn options(snapshot: &Snapshot, query: &Query<'_>, over_tcp: bool) -> Vec<u8> {
    let mut options = Vec::new();
    if over_tcp {
        let tenths = snapshot.config.server.tcp_idle_timeout.as_millis() / 100;
        options = write::keepalive(query.edns, u16::try_from(tenths).unwrap_or(u16::MAX));
    }
    if query.edns.is_some_and(|edns| edns.asks.has(RequestBits::NSID)) && !snapshot.identity.is_empty() {
        options.extend(write::nsid(&snapshot.identity));
    }
    options
}

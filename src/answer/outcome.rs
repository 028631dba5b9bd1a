//! Accounting: the outcome of a query is recorded here, once, in metrics, client statistics, reports and the query log. Each
//! branch of the path makes an [`QueryOutcome`] beside the response; no branch counts by itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::batch_context::BatchContext;
use super::local_counters::LocalCounters;
use super::state::Resolver;
use crate::cache::Entry;
use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::jobs::StatsBuffer;
use crate::jobs::stats_buffer::{RecordedFailure, Wait};
use crate::metrics::AnswerSource;
use crate::query_log::record::{InlineName, LoggedQuery};
use crate::wire::cache_key::CacheKey;
use crate::wire::{Rcode, RrType, write};

/// Outcome of a query.
#[derive(Clone, Copy)]
pub(crate) struct QueryOutcome<'a> {
    pub client: IpAddr,
    /// True if the query came over TCP.
    pub over_tcp: bool,
    pub question: ParsedQuestion<'a>,
    /// Route of the name; `None` for nodens's own answers.
    pub route: Option<RouteId>,
    pub rcode: Rcode,
    /// Source of the response.
    pub source: AnswerSource,
    /// Cause of a failure; `None` for an answer.
    pub cause: Option<Cause>,
    /// Explanation of the failure.
    pub words: Explanation<'a>,
    /// Largest response that the client accepts, in bytes, if the answer was truncated to it.
    pub truncated_to: Option<usize>,
}

/// Question of a query, as far as it could be parsed.
#[derive(Clone, Copy, Debug)]
pub struct ParsedQuestion<'a> {
    /// Name in wire form; in lower case unless the query was rejected before the lookup.
    pub name: &'a [u8],
    /// Type; [`RESERVED`](crate::wire::rtype::RESERVED) if it could not be parsed.
    pub qtype: RrType,
    /// Hash under which failures of this question are counted; one hash for all if the question does not matter.
    pub hash: u64,
}

/// Explanation of a failure.
#[derive(Clone, Copy)]
pub(crate) enum Explanation<'a> {
    /// None: the cause says enough.
    None,
    Text(&'a str),
    /// Text of extended errors, as whole options.
    Options(&'a [u8]),
    /// Text of a failure in the cache, which is looked up only if it is shown.
    Remembered(&'a CacheKey),
}

/// Largest explanation that is kept for one failure, in bytes.
const MOST_TEXT: usize = 1_024;

/// Time of the query, and the time that a deferred answer took.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timing {
    /// Answered at once, in the batch that began at this time.
    AtOnce(Millis, Instant),
    /// Time of the query, time until the answer, and the server that answered, if one was queried.
    Deferred(Millis, Duration, Option<SocketAddr>),
}

impl<'a> ParsedQuestion<'a> {
    /// Returns the question of a cache key.
    #[inline]
    pub fn of(key: &'a CacheKey, hash: u64) -> Self {
        Self { name: key.name(), qtype: key.qtype(), hash }
    }
}

/// Records the outcome of a query that is answered at once.
#[inline]
pub(super) fn enter_at_once(resolver: &Resolver, context: &mut BatchContext<'_>, outcome: &QueryOutcome<'_>) {
    enter(resolver, context.tally, context.stats_buffer, outcome, Timing::AtOnce(context.now, context.at));
}

/// Records the outcome of a query.
#[inline]
pub(crate) fn enter(
    resolver: &Resolver,
    tally: &mut LocalCounters,
    stats_buffer: &mut StatsBuffer,
    outcome: &QueryOutcome<'_>,
    timing: Timing,
) {
    let &QueryOutcome { client, route, rcode, source, .. } = outcome;
    tally.response(rcode, source);
    match timing {
        Timing::AtOnce(now, _) => {
            tally.query(outcome.over_tcp, outcome.question.qtype, route);
            stats_buffer.count(client, route, rcode, source, now);
        }
        // The query was counted when it was received.
        Timing::Deferred(asked, ..) => stats_buffer.count_late(client, route, rcode, source, asked),
    }
    if outcome.cause.is_some() || outcome.truncated_to.is_some() {
        enter_failure(resolver, stats_buffer, outcome, timing);
    }
    if let Timing::Deferred(asked, took, _) = timing {
        let ParsedQuestion { name, qtype, .. } = outcome.question;
        stats_buffer.wait(client, Wait { address: 0, asked, took, name: name.into(), qtype, route, rcode });
    }
    if stats_buffer.log.draws(rcode) {
        enter_log(resolver, stats_buffer, outcome, timing);
    }
}

/// Records a failure or a truncated response. NXDOMAIN is frequent: recording it allocates nothing.
#[inline(never)]
fn enter_failure(resolver: &Resolver, stats_buffer: &mut StatsBuffer, outcome: &QueryOutcome<'_>, timing: Timing) {
    let &QueryOutcome { client, question, route, rcode, source, cause, truncated_to, .. } = outcome;
    let ParsedQuestion { name, qtype, hash } = question;
    let (Timing::AtOnce(at, _) | Timing::Deferred(at, ..)) = timing;
    if let Some(cause) = cause {
        let failed = RecordedFailure { name, hash, qtype, route, rcode, source, cause };
        return stats_buffer.fail(client, failed, at, || match cause {
            // Reports have their own text for these frequent denials.
            Cause::Pruned => None,
            _ => words(resolver, outcome),
        });
    }
    if let Some(size) = truncated_to {
        resolver.accounts.jobs.truncated.cut(client, name, qtype, stats_buffer.route(route).cloned(), size, at);
    }
}

/// Copies the outcome of a query into the query log.
#[cold]
fn enter_log(resolver: &Resolver, stats_buffer: &mut StatsBuffer, outcome: &QueryOutcome<'_>, timing: Timing) {
    let &QueryOutcome { client, over_tcp, question, route, rcode, source, cause, .. } = outcome;
    let (asked, took, by) = match timing {
        Timing::AtOnce(now, began) => (now, began.elapsed(), None),
        Timing::Deferred(asked, took, by) => (asked, took, by),
    };
    let words = words(resolver, outcome);
    stats_buffer.log.take(asked + took.as_millis() as Millis, || {
        let (name, qtype) = (InlineName::new(question.name), question.qtype);
        LoggedQuery { client, asked, took, over_tcp, name, qtype, rcode, source, route, by, cause, words }
    });
}

/// Returns the explanation of an outcome, if it has one.
fn words(resolver: &Resolver, outcome: &QueryOutcome<'_>) -> Option<Box<str>> {
    let text = |options: &[u8]| write::extended_error_text(options, MOST_TEXT);
    let words: Option<Box<str>> = match outcome.words {
        Explanation::None => None,
        Explanation::Text(words) => Some(words.into()),
        Explanation::Options(options) => Some(text(options).into()),
        Explanation::Remembered(key) => {
            let said = |entry: &mut Entry| text(entry.cached_message().extended_errors).into();
            resolver.cache.with(outcome.question.hash, key, said)
        }
    };
    words.filter(|words| !words.is_empty())
}

//! THE ACCOUNTANT: what came of a query is entered here, once, in all that tells of it: metrics, client statistics, reports
//! and the query log. Each branch of the path makes an [`Outcome`] beside the response; none of them counts by itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::state::Resolver;
use super::tally::Tally;
use super::turn::BatchContext;
use crate::cache::Entry;
use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::jobs::StatsBuffer;
use crate::jobs::stats_buffer::{Failed, Wait};
use crate::metrics::Source;
use crate::query_log::record::{Name, Record};
use crate::wire::query::Key;
use crate::wire::{Rcode, RrType, make};

/// What came of a query.
#[derive(Clone, Copy)]
pub struct Outcome<'a> {
    /// Who asked.
    pub client: IpAddr,
    /// Whether over TCP.
    pub over_tcp: bool,
    /// What was asked.
    pub question: Asked<'a>,
    /// The route that the name took; none for nodens's own answers.
    pub route: Option<RouteId>,
    /// The response code.
    pub rcode: Rcode,
    /// Where the response came from.
    pub source: Source,
    /// Why it is no answer; none if it is one.
    pub cause: Option<Cause>,
    /// The words for that.
    pub words: Words<'a>,
    /// The bytes that the client takes, if the answer had to be cut to them.
    pub truncated_to: Option<usize>,
}

/// The question of a query, as far as it could be read.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The name in wire form; in lower case unless the query was turned away before it was looked at.
    pub name: &'a [u8],
    /// The type; [`RESERVED`](crate::wire::rtype::RESERVED) if it could not be read.
    pub qtype: RrType,
    /// What failures of this question are counted under. One for all where the question does not matter.
    pub hash: u64,
}

/// The words of a failure.
#[derive(Clone, Copy)]
pub enum Words<'a> {
    /// The cause says all.
    None,
    /// These.
    Text(&'a str),
    /// The text of extended errors, as whole options.
    Options(&'a [u8]),
    /// Those of a failure in the cache, which are looked up only if they are shown.
    Remembered(&'a Key),
}

/// Most bytes of the words that are kept of one failure.
const MOST_TEXT: usize = 1_024;

/// When a query was asked, and how long it took if it was not answered at once.
#[derive(Clone, Copy, Debug)]
pub enum Timing {
    /// In the batch that began then.
    AtOnce(Millis, Instant),
    /// Asked then; answered so much later, by this server if one was asked for it.
    Deferred(Millis, Duration, Option<SocketAddr>),
}

impl<'a> Asked<'a> {
    /// The question of a cache key.
    #[inline]
    pub fn of(key: &'a Key, hash: u64) -> Self {
        Self { name: key.name(), qtype: key.qtype(), hash }
    }
}

/// Enters what came of a query that is responded to at once.
#[inline]
pub(super) fn enter_at_once(resolver: &Resolver, turn: &mut BatchContext<'_>, outcome: &Outcome<'_>) {
    enter(resolver, turn.tally, turn.stats_buffer, outcome, Timing::AtOnce(turn.now, turn.at));
}

/// Enters what came of a query.
#[inline]
pub fn enter(
    resolver: &Resolver,
    tally: &mut Tally,
    stats_buffer: &mut StatsBuffer,
    outcome: &Outcome<'_>,
    timing: Timing,
) {
    let &Outcome { client, route, rcode, source, .. } = outcome;
    tally.response(rcode, source);
    match timing {
        Timing::AtOnce(now, _) => {
            tally.query(outcome.over_tcp, outcome.question.qtype, route);
            stats_buffer.count(client, route, rcode, source, now);
        }
        // It was counted as a query when it came.
        Timing::Deferred(asked, ..) => stats_buffer.count_late(client, route, rcode, source, asked),
    }
    if outcome.cause.is_some() || outcome.truncated_to.is_some() {
        enter_failure(resolver, stats_buffer, outcome, timing);
    }
    if let Timing::Deferred(asked, took, _) = timing {
        let Asked { name, qtype, .. } = outcome.question;
        stats_buffer.wait(client, Wait { address: 0, asked, took, name: name.into(), qtype, route, rcode });
    }
    if stats_buffer.log.draws(rcode) {
        enter_log(resolver, stats_buffer, outcome, timing);
    }
}

/// Enters a response that is no answer or not a whole one. Names that do not exist are asked for in masses: for these it
/// allocates nothing.
#[inline(never)]
fn enter_failure(resolver: &Resolver, stats_buffer: &mut StatsBuffer, outcome: &Outcome<'_>, timing: Timing) {
    let &Outcome { client, question, route, rcode, source, cause, truncated_to, .. } = outcome;
    let Asked { name, qtype, hash } = question;
    let (Timing::AtOnce(at, _) | Timing::Deferred(at, ..)) = timing;
    if let Some(cause) = cause {
        let failed = Failed { name, hash, qtype, route, rcode, source, cause };
        return stats_buffer.fail(client, failed, at, || match cause {
            // Reports have words of their own for these; there are masses of them.
            Cause::Pruned => None,
            _ => words(resolver, outcome),
        });
    }
    if let Some(size) = truncated_to {
        resolver.accounts.jobs.truncated.cut(client, name, qtype, stats_buffer.route(route).cloned(), size, at);
    }
}

/// Copies what came of a query into the log of queries.
#[cold]
fn enter_log(resolver: &Resolver, stats_buffer: &mut StatsBuffer, outcome: &Outcome<'_>, timing: Timing) {
    let &Outcome { client, over_tcp, question, route, rcode, source, cause, .. } = outcome;
    let (asked, took, by) = match timing {
        Timing::AtOnce(now, began) => (now, began.elapsed(), None),
        Timing::Deferred(asked, took, by) => (asked, took, by),
    };
    let words = words(resolver, outcome);
    stats_buffer.log.take(asked + took.as_millis() as Millis, || {
        let (name, qtype) = (Name::new(question.name), question.qtype);
        Record { client, asked, took, over_tcp, name, qtype, rcode, source, route, by, cause, words }
    });
}

/// The words of an outcome; none if there are none.
fn words(resolver: &Resolver, outcome: &Outcome<'_>) -> Option<Box<str>> {
    let text = |options: &[u8]| make::extended_error_text(options, MOST_TEXT);
    let words: Option<Box<str>> = match outcome.words {
        Words::None => None,
        Words::Text(words) => Some(words.into()),
        Words::Options(options) => Some(text(options).into()),
        Words::Remembered(key) => {
            let said = |entry: &mut Entry| text(entry.kept().extended_errors).into();
            resolver.cache.with(outcome.question.hash, key, said)
        }
    };
    words.filter(|words| !words.is_empty())
}

//! THE ACCOUNTANT: what came of a query is entered here, once, in all that tells of it: metrics, client statistics, reports
//! and the query log. Each branch of the path makes an [`Outcome`] beside the response; none of them counts by itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::Resolver;
use crate::cache::{Entry, Millis};
use crate::jobs::Ledger;
use crate::jobs::ledger::{Failed, NO_ROUTE, Wait};
use crate::metrics::{Source, Tally};
use crate::query_log::sampler::{Name, Record};
use crate::wire::query::Key;
use crate::wire::{make, rcode};

/// What came of a query.
#[derive(Clone, Copy)]
pub struct Outcome<'a> {
    /// Who asked.
    pub client: IpAddr,
    /// Whether over TCP.
    pub over_tcp: bool,
    /// What was asked.
    pub question: Asked<'a>,
    /// The route that the name took, or [`NO_ROUTE`].
    pub route: u16,
    /// The response code.
    pub rcode: u16,
    /// Where the response came from.
    pub source: Source,
    /// Why it is no answer.
    pub reason: Reason<'a>,
    /// The bytes that the client takes, if the answer had to be cut to them.
    pub truncated_to: Option<usize>,
}

/// The question of a query, as far as it could be read.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The name in wire form; in lower case unless the query was turned away before it was looked at.
    pub name: &'a [u8],
    /// The type; 0 if it could not be read.
    pub qtype: u16,
    /// What failures of this question are counted under. One for all where the question does not matter.
    pub hash: u64,
}

/// Why a response is no answer.
#[derive(Clone, Copy)]
pub enum Reason<'a> {
    /// The response code says all.
    None,
    /// An extended error: code and text.
    Error(u16, &'a str),
    /// Extended errors, as whole options.
    Options(&'a [u8]),
    /// Extended errors, as whole options, that reports say in their own words.
    OnlyLogged(&'a [u8]),
    /// That of a failure in the cache, which is looked up only if it is told.
    Remembered(&'a Key),
}

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

/// Enters what came of a query.
#[inline]
pub fn enter(resolver: &Resolver, tally: &mut Tally, ledger: &mut Ledger, outcome: &Outcome<'_>, timing: Timing) {
    let &Outcome { client, route, rcode, source, .. } = outcome;
    tally.response(rcode, source);
    match timing {
        Timing::AtOnce(now, _) => {
            tally.query(outcome.over_tcp, outcome.question.qtype, Some(route).filter(|route| *route != NO_ROUTE));
            ledger.count(client, route, rcode, source, now);
        }
        // It was counted as a query when it came.
        Timing::Deferred(asked, ..) => ledger.count_late(client, route, rcode, source, asked),
    }
    if rcode != rcode::NOERROR || outcome.truncated_to.is_some() {
        enter_failure(resolver, ledger, outcome, timing);
    }
    if let Timing::Deferred(asked, took, _) = timing {
        let Asked { name, qtype, .. } = outcome.question;
        ledger.wait(client, Wait { address: 0, asked, took, name: name.into(), qtype, route, rcode });
    }
    if ledger.log.draws(rcode) {
        enter_log(resolver, ledger, outcome, timing);
    }
}

/// Enters a response that is no answer or not a whole one. Names that do not exist are asked for in masses: for these it
/// allocates nothing.
#[inline(never)]
fn enter_failure(resolver: &Resolver, ledger: &mut Ledger, outcome: &Outcome<'_>, timing: Timing) {
    let &Outcome { client, question, route, rcode, source, truncated_to, .. } = outcome;
    let Asked { name, qtype, hash } = question;
    let (Timing::AtOnce(at, _) | Timing::Deferred(at, ..)) = timing;
    if rcode != rcode::NOERROR {
        let failed = Failed { name, hash, qtype, route, rcode, source };
        return ledger.fail(client, failed, at, || match outcome.reason {
            Reason::OnlyLogged(_) => None,
            _ => errors(resolver, outcome),
        });
    }
    if let Some(size) = truncated_to {
        resolver.jobs.truncated.cut(client, name, qtype, ledger.route(route).cloned(), size, at);
    }
}

/// Copies what came of a query into the log of queries.
#[cold]
fn enter_log(resolver: &Resolver, ledger: &mut Ledger, outcome: &Outcome<'_>, timing: Timing) {
    let &Outcome { client, over_tcp, question, route, rcode, source, .. } = outcome;
    let (asked, took, by) = match timing {
        Timing::AtOnce(now, began) => (now, began.elapsed(), None),
        Timing::Deferred(asked, took, by) => (asked, took, by),
    };
    let errors = errors(resolver, outcome);
    ledger.log.take(asked + took.as_millis() as Millis, || {
        let (name, qtype) = (Name::new(question.name), question.qtype);
        Record { client, asked, took, over_tcp, name, qtype, rcode, source, route, by, errors }
    });
}

/// The extended errors of an outcome, as whole options.
fn errors(resolver: &Resolver, outcome: &Outcome<'_>) -> Option<Box<[u8]>> {
    let errors: Option<Box<[u8]>> = match outcome.reason {
        Reason::None => None,
        Reason::Error(code, text) => Some(make::extended_error(code, text).into()),
        Reason::Options(options) | Reason::OnlyLogged(options) => Some(options.into()),
        // Nothing in the cache but a failure has any to say.
        Reason::Remembered(key) if outcome.source == Source::Hit && outcome.rcode == rcode::SERVFAIL => {
            let said = |entry: &mut Entry| Box::<[u8]>::from(entry.kept().extended_errors);
            resolver.cache.with(outcome.question.hash, key, said)
        }
        Reason::Remembered(_) => None,
    };
    errors.filter(|errors| !errors.is_empty())
}

//! Results of one target's queries: counts, latencies and their course over time.
//!
//! Latencies are recorded in HDR histograms, which need constant memory for any number of queries and keep three
//! significant digits. The course over time is recorded in at most [`POINTS`] smaller histograms, one for each part of the
//! run; a query belongs to the part of its scheduled time of sending.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::pace::Nanos;
use super::pending::SentQuery;
use crate::wire::{flag, u16_at};

/// Maximum points of a chart over time.
pub const POINTS: usize = 60;

/// Lowest latency that is distinguished from 0, in nanoseconds.
const LEAST: u64 = 100;
/// Highest recorded latency, in nanoseconds: longer than the longest timeout plus the delay before sending.
const LONGEST: u64 = 600 * super::pace::SECOND;

/// Reason why a query failed, other than a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossReason {
    /// The port is closed.
    Refused,
    /// The connection was closed or reset before the response.
    Closed,
    /// The network or the host is unreachable, or the system reports any other error.
    Unreachable,
}

impl LossReason {
    /// Classifies an error of the system.
    pub fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => Self::Closed,
            _ => Self::Unreachable,
        }
    }

    /// Returns the name in tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Results of one target. After a run `sent` is the sum of answers, lost, errors and unresolved.
#[derive(Clone, Debug)]
pub struct TargetStats {
    /// Queries sent.
    pub sent: u64,
    /// Queries sent whose question was new to the target.
    pub sent_first: u64,
    /// Queries that were due and not sent: the sender could not keep up, or a connection accepted no more.
    pub unsent: u64,
    /// Queries without a response within the timeout.
    pub lost: u64,
    /// Failed queries, by reason.
    pub errors: BTreeMap<LossReason, u64>,
    /// Queries in flight at the end of an interrupted run.
    pub unresolved: u64,
    /// Responses by response code, the four bits of the header.
    pub rcodes: [u64; 16],
    pub(crate) truncated: u64,
    /// Responses without a query in flight: late, duplicate, or to another question.
    pub stray: u64,
    /// Latencies of questions that were new to the target, in nanoseconds.
    pub first: Histogram<u64>,
    /// Latencies of repeated questions, in nanoseconds.
    pub repeated: Histogram<u64>,
    /// Delays from the scheduled to the actual time of sending, in nanoseconds: the sender's own share of the latencies.
    pub lag: Histogram<u64>,
    points: Vec<Option<Histogram<u32>>>,
    width: Nanos,
}

impl TargetStats {
    /// Returns an empty record for a run of about `span`. A part is not shorter than `round`, in which each target has one
    /// turn.
    pub fn new(span: Nanos, round: Nanos) -> Self {
        Self {
            sent: 0,
            sent_first: 0,
            unsent: 0,
            lost: 0,
            errors: BTreeMap::new(),
            unresolved: 0,
            rcodes: [0; 16],
            truncated: 0,
            stray: 0,
            first: histogram(3),
            repeated: histogram(3),
            lag: histogram(2),
            points: vec![None; POINTS],
            width: (span / POINTS as u64).max(round).max(1),
        }
    }

    /// Records a sent query.
    #[inline]
    pub fn left(&mut self, query: &SentQuery) {
        self.sent += 1;
        self.sent_first += u64::from(query.first);
        self.lag.saturating_record(query.sent.saturating_sub(query.intended));
    }

    /// Records the response to a query.
    #[inline]
    pub fn answered(&mut self, query: &SentQuery, now: Nanos, response: &[u8]) {
        let flags = u16_at(response, 2).unwrap_or_default();
        self.rcodes[usize::from(flags & flag::RCODE)] += 1;
        self.truncated += u64::from(flags & flag::TC != 0);
        let latency = now.saturating_sub(query.intended);
        let histogram = if query.first { &mut self.first } else { &mut self.repeated };
        histogram.saturating_record(latency);
        let point = ((query.intended / self.width) as usize).min(POINTS - 1);
        self.points[point].get_or_insert_with(|| histogram_of(2)).saturating_record(latency);
    }

    /// Records a failed query.
    pub fn failed(&mut self, trouble: LossReason) {
        *self.errors.entry(trouble).or_default() += 1;
    }

    /// Returns the number of responses.
    pub fn answers(&self) -> u64 {
        self.rcodes.iter().sum()
    }

    /// Returns the number of failed queries.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Returns the latencies of all responses.
    pub fn all(&self) -> Histogram<u64> {
        let mut all = self.first.clone();
        // Cannot fail: both histograms have the same bounds.
        let _ = all.add(&self.repeated);
        all
    }

    /// Returns the start of each part, in nanoseconds, and its latencies.
    pub fn over_time(&self) -> impl Iterator<Item = (Nanos, &Histogram<u32>)> {
        let parts = self.points.iter().enumerate();
        parts.filter_map(|(at, point)| point.as_ref().map(|point| (at as u64 * self.width, point)))
    }
}

fn histogram(digits: u8) -> Histogram<u64> {
    histogram_of(digits)
}

fn histogram_of<C: hdrhistogram::Counter>(digits: u8) -> Histogram<C> {
    match Histogram::new_with_bounds(LEAST, LONGEST, digits) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("the bounds are valid constants: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pace::{Pace, SECOND, SLICE, Slice};
    use super::super::pending::InFlightQueries;
    use super::*;

    const MS: Nanos = 1_000_000;
    const REPLY: &[u8] = b"\0\0\x82\x03";

    fn query(intended: Nanos, first: bool) -> SentQuery {
        SentQuery { intended, sent: intended, question: 0, first }
    }

    #[test]
    fn both_kinds_are_merged() {
        let mut record = TargetStats::new(SECOND, 0);
        for ms in 1..=50 {
            record.answered(&query(0, true), ms * MS, REPLY);
            record.answered(&query(0, false), (50 + ms) * MS, REPLY);
        }
        let all = record.all();
        assert_eq!(all.len(), 100);
        assert!(all.equivalent(all.value_at_quantile(0.5), 50 * MS));
        assert!(all.equivalent(all.max(), 100 * MS));
        assert_eq!((record.answers(), record.rcodes[3], record.truncated), (100, 100, 100));
    }

    #[test]
    fn a_reply_belongs_to_when_its_query_should_have_left() {
        let mut record = TargetStats::new(60 * SECOND, 0);
        record.answered(&query(SECOND / 2, true), 9 * SECOND, REPLY);
        record.answered(&query(59 * SECOND, true), 60 * SECOND, REPLY);
        record.answered(&query(99 * SECOND, true), 99 * SECOND + 9, REPLY);
        let points: Vec<(Nanos, u64)> = record.over_time().map(|(at, point)| (at, point.len())).collect();
        assert_eq!(points, [(0, 1), (59 * SECOND, 2)]);
    }

    #[test]
    fn a_stall_is_seen_by_all_that_it_holds_up() {
        // The client cannot send while the server stalls, for 200 ms of 2 s. It sends 1,000 queries a second, and a
        // response takes 1 ms. The time is simulated in steps of 0.1 ms.
        const STALL: std::ops::Range<Nanos> = 500 * MS..700 * MS;
        let mut record = TargetStats::new(2 * SECOND, 0);
        let mut from_leaving = TargetStats::new(2 * SECOND, 0);
        let mut pending = InFlightQueries::new(1000);
        for turn in 0..8 {
            let mut slice = Slice::new(Pace::Open { rate: 1000 }, turn * SLICE, SLICE, turn);
            let mut now = turn * SLICE;
            while !slice.is_over(now) {
                if !STALL.contains(&now) {
                    for _ in 0..slice.due(now, pending.len()) {
                        let query =
                            SentQuery { intended: slice.intended(0, now), sent: now, question: 0, first: false };
                        slice.sent(1);
                        record.left(&query);
                        pending.push(query);
                    }
                    while let Some(query) = pending.expired(now.saturating_sub(MS) + 1) {
                        record.answered(&query, now, REPLY);
                        from_leaving.answered(&SentQuery { intended: query.sent, ..query }, now, REPLY);
                    }
                }
                now += MS / 10;
            }
        }
        assert!(record.sent > 1900 && record.answers() > 1900);
        let p99 = |record: &TargetStats| record.all().value_at_quantile(0.99) / MS;
        assert!((150..=202).contains(&p99(&record)), "{} ms", p99(&record));
        assert!(p99(&from_leaving) < 10, "{} ms: what coordinated omission would show", p99(&from_leaving));
        assert!(record.lag.max() / MS >= 190, "and that the sender was held up is told");
    }
}

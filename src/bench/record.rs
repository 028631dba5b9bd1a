//! What happened to one target's queries: counts, latencies and their course over time.
//!
//! Latencies are kept in HDR histograms: fixed memory, every value to three digits, whatever the number of queries. Over
//! time there are at most [`POINTS`] smaller ones, each for one part of the run; a query belongs to the part in which it
//! should have left.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::pace::Nanos;
use super::pending::Waiting;
use crate::wire::{flag, u16_at};

/// Points of a chart over time, at most.
pub const POINTS: usize = 60;

/// The least latency that is told apart from 0, in nanoseconds.
const LEAST: u64 = 100;
/// The longest: longer than the longest timeout, and what a query waits for its turn.
const LONGEST: u64 = 600 * super::pace::SECOND;

/// Why a query got no reply, other than that none came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Nobody listens there.
    Refused,
    /// The connection was closed or reset before the reply.
    Closed,
    /// The network or the host cannot be reached, or the system refuses.
    Unreachable,
}

impl Trouble {
    /// What the system's error means.
    pub fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => Self::Closed,
            _ => Self::Unreachable,
        }
    }

    /// A word for tables and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Everything about one target. After a run `sent` is the sum of answers, lost, errors and unresolved.
#[derive(Clone, Debug)]
pub struct Record {
    /// Queries that left.
    pub sent: u64,
    /// Of those, the ones whose question this target had not been asked before.
    pub sent_first: u64,
    /// Queries that were due and never left: the sender could not keep up, or a connection took no more.
    pub unsent: u64,
    /// Queries without a reply in time.
    pub lost: u64,
    /// Queries without a reply for another reason.
    pub errors: BTreeMap<Trouble, u64>,
    /// Queries that still waited when the user ended the run.
    pub unresolved: u64,
    /// Replies by response code: the header's four bits.
    pub rcodes: [u64; 16],
    /// Replies that were cut to fit (TC).
    pub truncated: u64,
    /// Replies to nothing that waited: too late, twice, or to another question.
    pub stray: u64,
    /// Latencies of questions asked for the first time, in nanoseconds.
    pub first: Histogram<u64>,
    /// Latencies of questions asked before, in nanoseconds.
    pub repeated: Histogram<u64>,
    /// How late queries left, in nanoseconds: how far the figures are the sender's own doing.
    pub lag: Histogram<u64>,
    points: Vec<Option<Histogram<u32>>>,
    width: Nanos,
}

impl Record {
    /// An empty record for a run that takes about `span` in all; a part is no shorter than `round`, in which each target
    /// has its turn.
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

    /// A query has left.
    #[inline]
    pub fn left(&mut self, query: &Waiting) {
        self.sent += 1;
        self.sent_first += u64::from(query.first);
        self.lag.saturating_record(query.sent.saturating_sub(query.intended));
    }

    /// The reply to a query has come.
    #[inline]
    pub fn answered(&mut self, query: &Waiting, now: Nanos, reply: &[u8]) {
        let flags = u16_at(reply, 2).unwrap_or_default();
        self.rcodes[usize::from(flags & flag::RCODE)] += 1;
        self.truncated += u64::from(flags & flag::TC != 0);
        let latency = now.saturating_sub(query.intended);
        let histogram = if query.first { &mut self.first } else { &mut self.repeated };
        histogram.saturating_record(latency);
        let point = ((query.intended / self.width) as usize).min(POINTS - 1);
        self.points[point].get_or_insert_with(|| histogram_of(2)).saturating_record(latency);
    }

    /// A query got no reply, for this reason.
    pub fn failed(&mut self, trouble: Trouble) {
        *self.errors.entry(trouble).or_default() += 1;
    }

    /// How many got a reply.
    pub fn answers(&self) -> u64 {
        self.rcodes.iter().sum()
    }

    /// How many failed.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latencies of all replies.
    pub fn all(&self) -> Histogram<u64> {
        let mut all = self.first.clone();
        // Both have the same bounds, so there is room for every value.
        let _ = all.add(&self.repeated);
        all
    }

    /// The course over time: when each part began, in nanoseconds, and its latencies.
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
        Err(error) => unreachable!("the bounds are constants, and good: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pace::{Pace, SECOND, SLICE, Slice};
    use super::super::pending::Pending;
    use super::*;

    const MS: Nanos = 1_000_000;
    const REPLY: &[u8] = b"\0\0\x82\x03";

    fn query(intended: Nanos, first: bool) -> Waiting {
        Waiting { intended, sent: intended, question: 0, first }
    }

    #[test]
    fn both_kinds_are_merged() {
        let mut record = Record::new(SECOND, 0);
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
        let mut record = Record::new(60 * SECOND, 0);
        record.answered(&query(SECOND / 2, true), 9 * SECOND, REPLY);
        record.answered(&query(59 * SECOND, true), 60 * SECOND, REPLY);
        record.answered(&query(99 * SECOND, true), 99 * SECOND + 9, REPLY);
        let points: Vec<(Nanos, u64)> = record.over_time().map(|(at, point)| (at, point.len())).collect();
        assert_eq!(points, [(0, 1), (59 * SECOND, 2)]);
    }

    #[test]
    fn a_stall_is_seen_by_all_that_it_holds_up() {
        // A client that cannot send while the server stalls, for 200 ms of 2 s: it asks 1,000 a second, a reply takes
        // 1 ms. Scripted time: one step is 0.1 ms.
        const STALL: std::ops::Range<Nanos> = 500 * MS..700 * MS;
        let mut record = Record::new(2 * SECOND, 0);
        let mut from_leaving = Record::new(2 * SECOND, 0);
        let mut pending = Pending::new(1000);
        for turn in 0..8 {
            let mut slice = Slice::new(Pace::Open { rate: 1000 }, turn * SLICE, SLICE, turn);
            let mut now = turn * SLICE;
            while !slice.is_over(now) {
                if !STALL.contains(&now) {
                    for _ in 0..slice.due(now, pending.len()) {
                        let query = Waiting { intended: slice.intended(0, now), sent: now, question: 0, first: false };
                        slice.sent(1);
                        record.left(&query);
                        pending.push(query);
                    }
                    while let Some(query) = pending.expired(now.saturating_sub(MS) + 1) {
                        record.answered(&query, now, REPLY);
                        from_leaving.answered(&Waiting { intended: query.sent, ..query }, now, REPLY);
                    }
                }
                now += MS / 10;
            }
        }
        assert!(record.sent > 1900 && record.answers() > 1900);
        let p99 = |record: &Record| record.all().value_at_quantile(0.99) / MS;
        assert!((150..=202).contains(&p99(&record)), "{} ms", p99(&record));
        assert!(p99(&from_leaving) < 10, "{} ms: what coordinated omission would show", p99(&from_leaving));
        assert!(record.lag.max() / MS >= 190, "and that the sender was held up is told");
    }
}

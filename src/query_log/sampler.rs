//! Selection of the queries that are logged. A query that is not selected costs a countdown; a selected one is copied.

use std::sync::Arc;
use std::sync::mpsc::TrySendError;

use super::channel::WriterChannel;
use super::record::{LoggedQuery, QueryBatch};
use crate::cache::Millis;
use crate::config::{Logged, QueryLogConfig as Settings};
use crate::snapshot::Snapshot;
use crate::wire::{Rcode, rcode};

/// Most copies that one worker collects before it hands them over.
pub const BUFFER: usize = 256;
/// Countdown that never ends: a query each nanosecond would take centuries.
const NEVER: u64 = u64::MAX;

/// Selects the queries of one worker.
pub struct Sampler {
    /// Responses until the next selected one, by response code: see [`Rcode::slot`].
    left: [u64; SLOTS],
    on: Option<Box<On>>,
}

/// Number of slots: one for each response code of the header except the last, and one for all other codes.
const SLOTS: usize = 16;

struct On {
    way: Arc<WriterChannel>,
    only: Logged,
    share: f64,
    most: u32,
    snapshot: Arc<Snapshot>,
    records: Vec<LoggedQuery>,
    /// Number of selected queries that exceeded the rate limit.
    over: u64,
}

impl Sampler {
    /// Returns a sampler that selects nothing.
    pub fn off() -> Self {
        Self { left: [NEVER; SLOTS], on: None }
    }

    pub(super) fn new(way: Arc<WriterChannel>, settings: &Settings, snapshot: &Arc<Snapshot>) -> Self {
        let on = On {
            way,
            only: settings.only,
            share: f64::from(settings.sample) / 1e6,
            most: settings.max_per_second,
            snapshot: Arc::clone(snapshot),
            records: Vec::with_capacity(BUFFER),
            over: 0,
        };
        let left = std::array::from_fn(|slot| on.gap(slot));
        Self { left, on: Some(Box::new(on)) }
    }

    /// Returns whether a response with this code is selected. The caller must then call [`Self::take`].
    #[inline]
    pub fn draws(&mut self, code: Rcode) -> bool {
        let left = &mut self.left[code.slot(SLOTS)];
        *left = left.wrapping_sub(1);
        *left == 0
    }

    /// Copies a selected query, unless the rate limit of this second is exhausted.
    #[cold]
    pub fn take(&mut self, now: Millis, record: impl FnOnce() -> LoggedQuery) {
        let Some(on) = &mut self.on else { return };
        // Each selection is followed by this call, so the slot whose countdown is zero is that of the response code.
        for (slot, left) in self.left.iter_mut().enumerate().filter(|(_, left)| **left == 0) {
            *left = on.gap(slot);
        }
        if !on.way.budget.admits(now, on.most) {
            on.over += 1;
            return;
        }
        on.records.push(record());
        if on.records.len() == BUFFER {
            on.hand_over();
        }
    }

    /// Hands over the copies.
    pub fn hand_over(&mut self) {
        if let Some(on) = &mut self.on {
            on.hand_over();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.hand_over();
    }
}

impl On {
    /// Returns the number of responses in a slot up to the next selected one, which is included. Each response is
    /// selected with the same probability, independently of the ones before. To select every hundredth could select the
    /// same one of five search-list queries each time.
    fn gap(&self, slot: usize) -> u64 {
        let wanted = match self.only {
            Logged::All => true,
            Logged::Failures => slot != rcode::NOERROR.slot(SLOTS),
            Logged::Errors => [rcode::NOERROR, rcode::NXDOMAIN].iter().all(|code| slot != code.slot(SLOTS)),
        };
        if !wanted {
            return NEVER;
        }
        // At least 2^-53, which keeps the logarithm finite.
        let chance = 1.0 - rand::random::<f64>();
        // A share of 1 divides by minus infinity: always the next one.
        1 + (chance.ln() / (-self.share).ln_1p()) as u64
    }

    fn hand_over(&mut self) {
        let dropped = &self.way.metrics;
        if self.over > 0 {
            dropped.rate.inc_by(std::mem::take(&mut self.over));
        }
        if self.records.is_empty() {
            return;
        }
        // The new vector has the right size, and the buffer keeps its capacity.
        let batch = QueryBatch { records: self.records.drain(..).collect(), snapshot: Arc::clone(&self.snapshot) };
        match self.way.sender.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => dropped.full.inc_by(batch.records.len() as u64),
            Err(TrySendError::Disconnected(batch)) => dropped.failed.inc_by(batch.records.len() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;
    use crate::config::parse::parse;
    use crate::metrics::AnswerSource;
    use crate::metrics::Metrics;
    use crate::query_log::LineRate;
    use crate::query_log::record::InlineName;
    use crate::wire::rtype;

    const REST: &str = "[upstreams.up]\nservers = [\"192.0.2.1\"]\n[[route]]\nzones = [\".\"]\nto = \"up\"\n";

    /// Returns a sampler with these settings, and a channel of this size.
    fn sampler(settings: &str, waiting: usize) -> (Sampler, Receiver<QueryBatch>, Metrics) {
        let config = parse(&format!("[query_log]\nto = \"stdout\"\n{settings}\n{REST}"), &[]).expect("good");
        let metrics = Metrics::new().expect("metrics");
        let snapshot = Arc::new(Snapshot::new(config, &metrics, None));
        let (sender, receiver) = sync_channel(waiting);
        let way = Arc::new(WriterChannel { sender, budget: LineRate::default(), metrics: metrics.query_log.clone() });
        let settings = snapshot.config.query_log.clone().expect("a query log");
        (Sampler::new(way, &settings, &snapshot), receiver, metrics)
    }

    fn record(rcode: Rcode) -> LoggedQuery {
        LoggedQuery {
            client: [10, 0, 0, 1].into(),
            asked: 0,
            took: std::time::Duration::ZERO,
            over_tcp: false,
            name: InlineName::new(b"\x01a\x00"),
            qtype: rtype::A,
            rcode,
            source: AnswerSource::Hit,
            route: None,
            by: None,
            cause: None,
            words: None,
        }
    }

    fn answer(sampler: &mut Sampler, rcode: Rcode, now: Millis) -> bool {
        let drawn = sampler.draws(rcode);
        if drawn {
            sampler.take(now, || record(rcode));
        }
        drawn
    }

    #[test]
    fn only_what_is_wanted_is_drawn() {
        for (settings, expected) in [
            ("", [true, true, true, true]),
            ("only = \"failures\"", [false, true, true, true]),
            ("only = \"errors\"", [false, false, true, true]),
        ] {
            let (mut sampler, ..) = sampler(settings, 8);
            for _ in 0..50 {
                let codes = [rcode::NOERROR, rcode::NXDOMAIN, rcode::SERVFAIL, rcode::BADVERS];
                assert_eq!(codes.map(|code| answer(&mut sampler, code, 1_000)), expected, "{settings}");
            }
        }
        let mut off = Sampler::off();
        assert!((0..1_000).all(|_| !answer(&mut off, rcode::SERVFAIL, 1_000)));
    }

    #[test]
    fn a_share_is_drawn_by_chance_alone() {
        let (mut sampler, ..) = sampler("sample = 0.1", 8);
        let drawn: Vec<bool> = (0..100_000).map(|_| answer(&mut sampler, rcode::NOERROR, 1_000)).collect();
        let count = |step: usize, from: usize| drawn.iter().skip(from).step_by(step).filter(|drawn| **drawn).count();
        // The standard deviation is 95, that of each fifth 42: ten of them are practically impossible.
        assert!(count(1, 0).abs_diff(10_000) < 950, "{}", count(1, 0));
        assert!((0..5).all(|from| count(5, from).abs_diff(2_000) < 420));
    }

    #[test]
    fn what_finds_no_room_is_counted_by_its_reason() {
        let (mut sampler, receiver, metrics) = sampler("max_per_second = 1000", 1);
        for _ in 0..2_000 {
            answer(&mut sampler, rcode::NOERROR, 1_000);
        }
        // The channel holds one full buffer, two buffers find no room, and the rest is in the sampler.
        let dropped = &metrics.query_log;
        let records = receiver.try_recv().expect("a batch").records.len();
        assert_eq!((records, dropped.full.get(), dropped.rate.get()), (BUFFER, 2 * BUFFER as u64, 0));
        drop(sampler);
        let rest = receiver.try_recv().expect("a batch").records.len();
        assert_eq!((records * 3 + rest, dropped.rate.get()), (1_000, 1_000));
    }
}

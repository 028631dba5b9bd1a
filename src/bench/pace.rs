//! Schedule of queries: the pace within one slice, and the slices of a run. The module is pure arithmetic; the time is
//! an argument, in nanoseconds since the run began.
//!
//! Open loop: query k is due at start + k / rate, independent of earlier queries. Its latency counts from the due time,
//! not from the time of sending: a client that is delayed (because the server stalls, a buffer is full, or the machine is
//! busy) sends late, and its user experiences the delay. Leaving the delay out is the error that Gil Tene named
//! coordinated omission: a stall of one second would then count as one slow query instead of a thousand.
//!
//! Closed loop: the number of queries in flight is constant; a response causes the next query. The server determines the
//! rate, and a stall shows in the rate, not in the latencies.

use super::draw::Random;

/// Nanoseconds since the run began.
pub type Nanos = u64;

pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Maximum length of a target's turn.
pub const SLICE: Nanos = SECOND / 4;
/// Minimum number of slices of a target, for short runs.
const LEAST_SLICES: u64 = 4;
/// Divisor of a slice's length: its due queries may be sent until half of the length after its end, and are then dropped.
const GRACE: u64 = 2;

/// Pace of queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Open loop: a fixed rate.
    Open {
        /// Queries per second.
        rate: u64,
    },
    /// Closed loop: a fixed number of queries in flight.
    Closed {
        /// Queries in flight.
        in_flight: u64,
    },
}

/// One turn of a target.
///
/// A target's own time counts only its turns, and its queries are spaced evenly over that time. The rate therefore holds
/// exactly over the run, even if it is below one query per slice.
/// rate holds exactly over the run, even one that gives less than one query to a slice.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pace: Pace,
    start: Nanos,
    length: Nanos,
    /// The target's own time at the start of the slice.
    before: Nanos,
    /// Numbers of the next query, and of the first query after this slice.
    next: u64,
    end: u64,
}

impl Slice {
    /// Returns turn number `turn` of a target, counted from 0, which begins at `start`.
    pub fn new(pace: Pace, start: Nanos, length: Nanos, turn: u64) -> Self {
        let before = turn * length;
        let first_at = |time: Nanos| match pace {
            Pace::Open { rate } => scale(time, rate, SECOND) + u64::from(!exact(time, rate)),
            Pace::Closed { .. } => 0,
        };
        Self { pace, start, length, before, next: first_at(before), end: first_at(before + length) }
    }

    /// Returns how many queries are due now, while `in_flight` queries wait for a response.
    #[inline]
    pub fn due(&self, now: Nanos, in_flight: u64) -> u64 {
        match self.pace {
            Pace::Open { rate } => {
                let elapsed = now.saturating_sub(self.start).min(self.length);
                (scale(self.before + elapsed, rate, SECOND) + 1).min(self.end).saturating_sub(self.next)
            }
            Pace::Closed { in_flight: most } if now < self.start + self.length => most.saturating_sub(in_flight),
            Pace::Closed { .. } => 0,
        }
    }

    /// Returns the due time of the query `ahead` positions after the next one.
    #[inline]
    pub fn intended(&self, ahead: u64, now: Nanos) -> Nanos {
        match self.pace {
            Pace::Open { rate } => self.start + scale(self.next + ahead, SECOND, rate).saturating_sub(self.before),
            Pace::Closed { .. } => now,
        }
    }

    /// Records that `count` queries were sent.
    #[inline]
    pub fn sent(&mut self, count: u64) {
        self.next += count;
    }

    /// Returns whether the turn is over: its length has passed, and all queries were sent or the grace period ended.
    pub fn is_over(&self, now: Nanos) -> bool {
        let end = self.start + self.length;
        now >= end && (self.next >= self.end || now >= end + self.length / GRACE)
    }

    /// Returns how many due queries were not sent.
    pub fn unsent(&self, now: Nanos) -> u64 {
        match self.pace {
            Pace::Open { .. } => self.due(now, 0),
            Pace::Closed { .. } => 0,
        }
    }

    /// Returns the due time of the next query, or the end of the turn if there is none.
    pub fn wake(&self) -> Nanos {
        if self.next < self.end { self.intended(0, 0) } else { self.start + self.length }
    }
}

/// Turns of a run: rounds in which each target has one turn. The order is drawn for each round, which cancels the effects
/// of drift and of the preceding target.
#[derive(Clone, Debug)]
pub struct Rounds {
    order: Vec<usize>,
    random: Random,
    at: usize,
    left: u64,
    length: Nanos,
}

impl Rounds {
    /// Returns the turns that query each of `targets` for `duration` in total.
    pub fn new(targets: usize, duration: Nanos, seed: u64) -> Self {
        let slices = duration.div_ceil(SLICE).max(LEAST_SLICES);
        let (order, random) = ((0..targets).collect(), Random::new(seed));
        Self { order, random, at: targets, left: slices, length: duration / slices }
    }

    /// Returns the length of each turn.
    pub fn length(&self) -> Nanos {
        self.length
    }

    /// Returns the number of remaining rounds.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl Iterator for Rounds {
    type Item = usize;

    /// Returns the index of the next target.
    fn next(&mut self) -> Option<usize> {
        if self.at >= self.order.len() {
            self.left = self.left.checked_sub(1)?;
            self.random.shuffle(&mut self.order);
            self.at = 0;
        }
        self.at += 1;
        self.order.get(self.at - 1).copied()
    }
}

/// Returns whether a query is due exactly at `time`.
fn exact(time: Nanos, rate: u64) -> bool {
    (u128::from(time) * u128::from(rate)).is_multiple_of(u128::from(SECOND))
}

/// Returns `value * factor / divisor` without overflow of the product.
#[inline]
fn scale(value: u64, factor: u64, divisor: u64) -> u64 {
    match value.checked_mul(factor) {
        Some(product) => product / divisor,
        None => (u128::from(value) * u128::from(factor) / u128::from(divisor)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_sends_what_is_due_and_no_more() {
        let mut slice = Slice::new(Pace::Open { rate: 1000 }, SECOND, SLICE, 0);
        assert_eq!(slice.due(SECOND, 0), 1);
        slice.sent(1);
        assert_eq!(slice.due(SECOND + 999_999, 1), 0);
        assert_eq!(slice.wake(), SECOND + 1_000_000);
        assert_eq!(slice.due(SECOND + 10_000_000, 1), 10);
        assert_eq!(slice.intended(0, 0), SECOND + 1_000_000);
        assert_eq!(slice.intended(9, 0), SECOND + 10_000_000);
        assert_eq!(slice.due(9 * SECOND, 0), 249, "250 in a quarter of a second");
        assert!(!slice.is_over(SECOND + SLICE));
        assert!(slice.is_over(SECOND + SLICE + SLICE / 2), "however much is left");
        assert_eq!(slice.unsent(SECOND + SLICE + SLICE / 2), 249);
        slice.sent(249);
        assert!(slice.is_over(SECOND + SLICE) && !slice.is_over(SECOND + SLICE - 1));
    }

    #[test]
    fn a_rate_holds_over_the_slices() {
        for rate in [1, 3, 7, 999, 1001, 123_457] {
            let mut total = 0;
            for turn in 0..40 {
                let start = turn * 3 * SLICE;
                let mut slice = Slice::new(Pace::Open { rate }, start, SLICE, turn);
                let due = slice.due(start + SLICE, 0);
                if due > 0 {
                    assert!(slice.intended(0, 0) >= start && slice.intended(due - 1, 0) < start + SLICE, "{rate}");
                }
                slice.sent(due);
                assert!(slice.is_over(start + SLICE));
                total += due;
            }
            assert_eq!(total, 10 * rate);
        }
    }

    #[test]
    fn a_closed_loop_keeps_so_many_under_way() {
        let mut slice = Slice::new(Pace::Closed { in_flight: 10 }, 0, SLICE, 0);
        assert_eq!(slice.due(5, 3), 7);
        slice.sent(7);
        assert_eq!(slice.due(SLICE, 3), 0);
        assert!(slice.is_over(SLICE) && !slice.is_over(SLICE - 1));
        assert_eq!(slice.intended(3, 5), 5);
        assert_eq!(slice.wake(), SLICE);
    }

    #[test]
    fn each_target_has_one_turn_in_each_round() {
        let turns: Vec<usize> = Rounds::new(3, SECOND, 1).collect();
        assert_eq!(turns.len(), 12);
        for round in turns.chunks(3) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2]);
        }
        assert_eq!(Rounds::new(2, SECOND / 10, 1).length(), SECOND / 40);
        assert_eq!(Rounds::new(2, 30 * SECOND, 1).left(), 120);
    }
}

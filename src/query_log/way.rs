//! The way from the workers to one writer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use super::record::Batch;
use crate::clock::Millis;
use crate::metrics::QueryLogMetrics;

/// The way to one writer, which ends when all who know the way are gone.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) sender: SyncSender<Batch>,
    pub(super) budget: Budget,
    pub(super) metrics: QueryLogMetrics,
}

/// How many lines this second has seen: the second above, the count below.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicU64);

impl Budget {
    /// Takes one of the `most` of this second; whether there was one left.
    pub(super) fn admits(&self, now: Millis, most: u32) -> bool {
        let second = now / 1_000;
        let take = |state: u64| match (state >> 32, state as u32) {
            // A worker whose clock was read a moment earlier does not begin an old second anew.
            (then, used) if second <= then => (used < most).then_some(state + 1),
            _ => Some(second << 32 | 1),
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_and_no_more() {
        let budget = Budget::default();
        let admitted = |at: &[Millis]| at.iter().map(|at| budget.admits(*at, 2)).collect::<Vec<_>>();
        assert_eq!(admitted(&[0, 500, 999, 0]), [true, true, false, false]);
        assert_eq!(admitted(&[1_000, 999, 1_999, 2_000]), [true, true, false, true]);
    }
}

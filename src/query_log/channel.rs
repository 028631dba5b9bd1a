//! Connection from the workers to one writer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use super::record::QueryBatch;
use crate::clock::Millis;
use crate::metrics::QueryLogMetrics;

/// Connection to one writer. The writer ends when all references are dropped.
#[derive(Debug)]
pub(super) struct WriterChannel {
    pub(super) sender: SyncSender<QueryBatch>,
    pub(super) budget: LineRate,
    pub(super) metrics: QueryLogMetrics,
}

/// Rate limiter: the second in the upper half, the number of lines in it in the lower half.
#[derive(Debug, Default)]
pub(super) struct LineRate(AtomicU64);

impl LineRate {
    /// Counts one of the `most` lines of this second. Returns whether there was one left.
    pub(super) fn admits(&self, now: Millis, most: u32) -> bool {
        let second = now / 1_000;
        let take = |state: u64| match (state >> 32, state as u32) {
            // A worker with a slightly older clock must not start an earlier second again.
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
        let budget = LineRate::default();
        let admitted = |at: &[Millis]| at.iter().map(|at| budget.admits(*at, 2)).collect::<Vec<_>>();
        assert_eq!(admitted(&[0, 500, 999, 0]), [true, true, false, false]);
        assert_eq!(admitted(&[1_000, 999, 1_999, 2_000]), [true, true, false, true]);
    }
}

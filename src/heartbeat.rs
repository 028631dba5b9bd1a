//! Heartbeats of the workers: whether each of them still runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Millis;

/// Interval of the heartbeats.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(250);
/// Age of the last heartbeat, in milliseconds, beyond which a worker is stuck, and nodens should be restarted.
pub(crate) const STUCK_AFTER: Millis = 5_000;

/// Time of each worker's last heartbeat.
#[derive(Debug)]
pub(crate) struct Heartbeats(Box<[AtomicU64]>);

impl Heartbeats {
    /// Creates the heartbeats of workers that start now.
    pub(crate) fn new(workers: usize, now: Millis) -> Self {
        Self((0..workers).map(|_| AtomicU64::new(now)).collect())
    }

    /// Records a heartbeat of this worker.
    pub(crate) fn record(&self, worker: usize, now: Millis) {
        if let Some(last) = self.0.get(worker) {
            last.store(now, Ordering::Relaxed);
        }
    }

    /// Returns the first worker whose last heartbeat is older than `age`.
    pub(crate) fn late(&self, now: Millis, age: Millis) -> Option<usize> {
        self.0.iter().position(|last| now.saturating_sub(last.load(Ordering::Relaxed)) > age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_late_worker_is_found() {
        let heartbeats = Heartbeats::new(2, 1_000);
        assert_eq!(heartbeats.late(1_600, 600), None);
        assert_eq!(heartbeats.late(1_601, 600), Some(0));
        heartbeats.record(0, 1_500);
        heartbeats.record(7, 1_500);
        assert_eq!(heartbeats.late(1_601, 600), Some(1));
    }
}

//! Transfer of filled buffers from the workers to the control thread.
//!
//! ```text
//! worker ── flush: try the lock, swap the filled buffer with an empty one ──► filled ──► take ──► merge
//!                                          empty ◄──────────────────────────────────────────────────┘
//! ```
//!
//! The lock is held for a push and a pop only, never during merging or allocation. A worker that does not get the lock at
//! once, or finds no room, keeps its records and tries again with its next batch. No worker ever waits here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::buffer::Buffer;
use super::stats_buffer::StatsBuffer;
use crate::clock::Millis;

/// Most filled buffers that wait, of about 180 KiB each. A worker fills ten a second at most, and the control thread
/// takes all of them twenty times a second.
const MOST_FILLED: usize = 32;
/// Most empty buffers kept for reuse; further ones are freed.
const MOST_EMPTY: usize = 8;

/// Filled buffers for the control thread, and empty ones for the workers.
#[derive(Debug)]
pub(super) struct Handoff {
    buffers: Mutex<HandoffBuffers>,
    /// Number of buffers handed over since the start.
    handed_over: AtomicU64,
    /// Number of buffers merged since the start.
    settled: AtomicU64,
}

#[derive(Debug)]
struct HandoffBuffers {
    filled: VecDeque<Buffer>,
    empty: Vec<Buffer>,
}

impl Handoff {
    pub(super) fn new() -> Self {
        // With this capacity, a push does not allocate.
        let buffers =
            HandoffBuffers { filled: VecDeque::with_capacity(MOST_FILLED), empty: Vec::with_capacity(MOST_EMPTY) };
        Self { buffers: Mutex::new(buffers), handed_over: AtomicU64::new(0), settled: AtomicU64::new(0) }
    }

    /// Hands over a worker's records without waiting. Returns whether all of them were handed over.
    pub(super) fn flush(&self, stats_buffer: &mut StatsBuffer, now: Millis) -> bool {
        let mut spare = None;
        while stats_buffer.filled().is_some() {
            let Some(mut buffers) = self.try_lock() else { return false };
            if buffers.filled.len() >= MOST_FILLED {
                return false;
            }
            let Some(empty) = spare.take().or_else(|| buffers.empty.pop()) else {
                drop(buffers);
                spare = Some(Buffer::empty());
                continue;
            };
            buffers.filled.push_back(stats_buffer.swap(empty));
            self.handed_over.fetch_add(1, Ordering::Release);
        }
        stats_buffer.flushed(now);
        true
    }

    /// Removes the oldest filled buffer.
    pub(super) fn take(&self) -> Option<Buffer> {
        self.lock().filled.pop_front()
    }

    /// Takes back a buffer that has been merged.
    pub(super) fn put_back(&self, mut buffer: Buffer) {
        buffer.clear();
        let mut buffers = self.lock();
        if buffers.empty.len() < MOST_EMPTY {
            buffers.empty.push(buffer);
        }
        drop(buffers);
        self.settled.fetch_add(1, Ordering::Release);
    }

    /// Returns the number of buffers handed over since the start.
    pub(super) fn handed_over(&self) -> u64 {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Returns the number of buffers merged since the start; buffers are merged in the order of their arrival.
    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, HandoffBuffers>> {
        match self.buffers.try_lock() {
            Ok(buffers) => Some(buffers),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits for the lock; for the control thread only. Ignores poisoning: both lists are consistent between any two
    /// calls.
    fn lock(&self) -> MutexGuard<'_, HandoffBuffers> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::AnswerSource;
    use crate::wire::rcode;

    fn count(stats_buffer: &mut StatsBuffer) {
        stats_buffer.count([10, 0, 0, 1].into(), None, rcode::NOERROR, AnswerSource::Hit, 1);
    }

    #[test]
    fn a_worker_never_waits_and_keeps_the_remainder() {
        let (handoff, mut stats_buffer) = (Handoff::new(), StatsBuffer::new(["."]));
        count(&mut stats_buffer);
        let held = handoff.lock();
        assert!(!handoff.flush(&mut stats_buffer, 500) && !stats_buffer.is_empty() && stats_buffer.is_due(500));
        drop(held);
        assert!(handoff.flush(&mut stats_buffer, 500) && stats_buffer.is_empty() && !stats_buffer.is_due(500));
        assert_eq!((handoff.handed_over(), handoff.settled()), (1, 0));
        // The room is used up if no buffer is taken.
        for _ in 1..MOST_FILLED {
            count(&mut stats_buffer);
            assert!(handoff.flush(&mut stats_buffer, 500));
        }
        count(&mut stats_buffer);
        assert!(!handoff.flush(&mut stats_buffer, 600) && !stats_buffer.is_empty());
        while let Some(buffer) = handoff.take() {
            assert_eq!(buffer.counts().count(), 1);
            handoff.put_back(buffer);
        }
        assert_eq!(handoff.handed_over(), handoff.settled());
        assert!(handoff.lock().empty.len() == MOST_EMPTY);
        assert!(handoff.flush(&mut stats_buffer, 600) && handoff.lock().empty.len() == MOST_EMPTY - 1);
    }
}

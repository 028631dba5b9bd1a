//! A line of JSON for each query, or for some of them.
//!
//! ```text
//! a worker's turn ──► sampler ──── copies one of so many ──► buffer ── with the ledger, every 100 ms ──► channel ──┐
//!                     a countdown                            bounded                                     bounded   │
//!          file or stdout ◄── line ◄── who was that at that time? ◄── writer, in a thread of its own ◄─────────────┘
//! ```
//!
//! No worker ever waits for any of this: what finds no room is counted, and gone.
//!
//! - [`sampler`] which queries are copied, and what of them: the part on the hot path;
//! - [`mod@line`] a copy as text;
//! - [`writer`] the thread, and the file that it writes to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::answer::Resolver;
use crate::cache::Millis;
use crate::config::{Config, LogTarget};
use crate::metrics::QueryLogMetrics;
use crate::snapshot::Snapshot;

pub mod line;
pub mod sampler;
pub mod writer;

pub use sampler::Sampler;

use sampler::Batch;

/// Batches of all workers that wait for the writer, each of at most [`sampler::BUFFER`] copies of some 400 bytes.
const WAITING: usize = 32;
/// How long the end of the server waits for the writer: what it writes to may be stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// The log of a server, if it has one.
#[derive(Debug, Default)]
pub struct QueryLog {
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    to: LogTarget,
    way: Arc<Way>,
    /// Ends when the writer has.
    ended: Receiver<()>,
}

/// The way to one writer, which ends when all who know the way are gone.
#[derive(Debug)]
struct Way {
    sender: SyncSender<Batch>,
    budget: Budget,
    metrics: QueryLogMetrics,
}

/// How many lines this second has seen: the second above, the count below.
#[derive(Debug, Default)]
struct Budget(AtomicU64);

impl QueryLog {
    /// Has a writer for what a configuration wants, or none; before it is in force, so that no sampler for it finds
    /// none. Those of before keep theirs until they are gone.
    pub fn follow(&self, resolver: &Arc<Resolver>, config: &Config) {
        let wanted = config.query_log.as_ref().map(|log| log.to.clone());
        let mut open = self.open();
        if open.as_ref().map(|open| &open.to) == wanted.as_ref() {
            return;
        }
        *open = wanted.and_then(|to| {
            let (sender, receiver) = sync_channel(WAITING);
            let (ending, ended) = sync_channel(0);
            let metrics = resolver.metrics.query_log.clone();
            match writer::start(to.clone(), receiver, Arc::downgrade(resolver), ending) {
                Ok(()) => Some(Open { to, way: Arc::new(Way { sender, budget: Budget::default(), metrics }), ended }),
                Err(error) => {
                    tracing::error!(%error, "queries are not logged: no thread");
                    None
                }
            }
        });
    }

    /// What draws queries for it in one worker, under one configuration.
    pub fn sampler(&self, snapshot: &Arc<Snapshot>) -> Sampler {
        match (&*self.open(), &snapshot.config.query_log) {
            (Some(Open { to, way, .. }), Some(settings)) if *to == settings.to => {
                Sampler::new(Arc::clone(way), settings, snapshot)
            }
            _ => Sampler::off(),
        }
    }

    /// Lets the writer write what it has, once all samplers are gone; waits for that a while.
    pub fn close(&self) {
        if let Some(Open { way, ended, .. }) = self.open().take() {
            drop(way);
            // It says nothing but that it has ended.
            let _ = ended.recv_timeout(PATIENCE);
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    /// Takes one of the `most` of this second; whether there was one left.
    fn admits(&self, now: Millis, most: u32) -> bool {
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

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
//! - [`sampler`] which queries are copied: the part on the hot path;
//! - [`record`] what of them;
//! - [`mod@line`] a copy as text;
//! - [`writer`] the thread, and the file that it writes to.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clients::Clients;
use crate::config::{Config, LogTarget};
use crate::epoch::Epoch;
use crate::metrics::QueryLogMetrics;
use crate::snapshot::Snapshot;

pub mod line;
pub mod record;
pub mod sampler;
mod way;
pub mod writer;

pub use sampler::Sampler;

use way::{Budget, Way};
use writer::Writer;

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

impl QueryLog {
    /// Has a writer for what a configuration wants, or none; before it is in force, so that no sampler for it finds
    /// none. Those of before keep theirs until they are gone.
    ///
    /// A writer looks clients up among `clients`, at times since `epoch`.
    pub fn follow(&self, config: &Config, clients: &Arc<Clients>, epoch: Epoch, metrics: &QueryLogMetrics) {
        let wanted = config.query_log.as_ref().map(|log| log.to.clone());
        let mut open = self.open();
        if open.as_ref().map(|open| &open.to) == wanted.as_ref() {
            return;
        }
        *open = wanted.and_then(|to| {
            let (sender, receiver) = sync_channel(WAITING);
            let (ending, ended) = sync_channel(0);
            let (metrics, clients) = (metrics.clone(), Arc::clone(clients));
            let writer = Writer { clients, epoch, metrics: metrics.clone() };
            match writer::start(to.clone(), receiver, writer, ending) {
                Ok(()) => Some(Open { to, way: Arc::new(Way { sender, budget: Budget::default(), metrics }), ended }),
                Err(error) => {
                    tracing::error!(%error, "query log disabled: cannot start its thread");
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

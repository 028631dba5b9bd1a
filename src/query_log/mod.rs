//! Query log: a line of JSON for each query, or for a sample of the queries.
//!
//! ```text
//! batch ──► sampler ──── copies the selected ones ──► buffer ── after a flush, every 100 ms ──► channel ───┐
//!           countdown                                 bounded                                   bounded    │
//!          file or stdout ◄── line ◄── attribution at the time of the query ◄── writer thread ◄────────────┘
//! ```
//!
//! No worker ever waits for the log: a record that finds no room is counted and dropped.
//!
//! - [`sampler`]: selection of queries, the part on the hot path;
//! - [`record`]: a copy of a query;
//! - [`mod@line`]: a copy as text;
//! - [`writer`]: the thread, and the file that it writes.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clients::Clients;
use crate::config::{Config, LogTarget};
use crate::epoch::Epoch;
use crate::metrics::QueryLogMetrics;
use crate::snapshot::Snapshot;

mod channel;
pub(crate) mod line;
pub mod record;
pub mod sampler;
pub(crate) mod writer;

pub use sampler::Sampler;

use channel::{LineRate, WriterChannel};
use writer::LogWriter;

/// Most batches of all workers that wait for the writer, each of at most [`sampler::BUFFER`] copies of about 400 bytes.
const WAITING: usize = 32;
/// Longest time that the shutdown waits for the writer: its target may be stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// Query log of a nodens process; may be disabled.
#[derive(Debug, Default)]
pub struct QueryLog {
    open: Mutex<Option<OpenLog>>,
}

#[derive(Debug)]
struct OpenLog {
    to: LogTarget,
    way: Arc<WriterChannel>,
    /// Disconnected when the writer has ended.
    ended: Receiver<()>,
}

impl QueryLog {
    /// Starts a writer for the log of a configuration, or drops the writer if the configuration has no log. Call this
    /// before the configuration is in force: its samplers then find the writer. Earlier samplers keep their writer
    /// until they are dropped.
    ///
    /// A writer attributes queries with `clients`, at times since `epoch`.
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
            let writer = LogWriter { clients, epoch, metrics: metrics.clone() };
            match writer::start(to.clone(), receiver, writer, ending) {
                Ok(()) => Some(OpenLog {
                    to,
                    way: Arc::new(WriterChannel { sender, budget: LineRate::default(), metrics }),
                    ended,
                }),
                Err(error) => {
                    tracing::error!(%error, "query log disabled: cannot start its thread");
                    None
                }
            }
        });
    }

    /// Returns the sampler for one worker under one configuration.
    pub fn sampler(&self, snapshot: &Arc<Snapshot>) -> Sampler {
        match (&*self.open(), &snapshot.config.query_log) {
            (Some(OpenLog { to, way, .. }), Some(settings)) if *to == settings.to => {
                Sampler::new(Arc::clone(way), settings, snapshot)
            }
            _ => Sampler::off(),
        }
    }

    /// Waits, for a limited time, until the writer has written everything. All samplers must have been dropped before.
    pub fn close(&self) {
        if let Some(OpenLog { way, ended, .. }) = self.open().take() {
            drop(way);
            // The only possible outcomes are the end of the writer and a timeout.
            let _ = ended.recv_timeout(PATIENCE);
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<OpenLog>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Configurations that are no longer in force, freed by a thread on which nothing waits.
//!
//! Queries in flight and workers between two batches may still hold an old configuration. The thread that drops the last
//! reference frees it, however large it is, so the last reference is that of a thread with no other work.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::thread;
use crate::snapshot::Snapshot;

/// Interval between checks for other references to a configuration.
const LOOK: Duration = Duration::from_millis(20);
/// Most time that a reload waits for the memory of the configurations before it. A query in flight may hold one for longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Configurations that are not freed yet.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// Channel to the thread that frees; without it, any thread may free.
    sender: Option<Sender<Arc<Snapshot>>>,
    held: Arc<HeldCount>,
}

/// Number of configurations that are not freed yet.
#[derive(Debug, Default)]
struct HeldCount {
    count: Mutex<usize>,
    freed: Condvar,
}

impl HeldCount {
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = change(*count);
        self.freed.notify_all();
    }
}

impl Retired {
    /// Waits until all earlier configurations are freed, for a limited time.
    pub(super) fn wait(&self) {
        let count = self.held.count.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.held.freed.wait_timeout_while(count, PATIENCE, |count| *count > 0);
    }

    /// Starts the thread, unless it is running. Must be called before another configuration is put in force: then no other
    /// holder of the old one is the last.
    pub(super) fn expect(&mut self) {
        if self.sender.is_none() {
            let (sender, receiver) = channel::<Arc<Snapshot>>();
            let counted = Arc::clone(&self.held);
            let free = move || {
                let mut held: Vec<Arc<Snapshot>> = Vec::new();
                loop {
                    let next = match held.is_empty() {
                        true => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                        false => receiver.recv_timeout(LOOK),
                    };
                    match next {
                        Ok(snapshot) => held.push(snapshot),
                        Err(RecvTimeoutError::Timeout) => {}
                        // The server is gone, with all threads that could be delayed.
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                    // It is in force nowhere, so a sole reference stays the only one.
                    let before = held.len();
                    held.retain(|snapshot| Arc::strong_count(snapshot) > 1);
                    counted.change(|count| count.saturating_sub(before - held.len()));
                }
            };
            match thread::spawn("nodens-free".into(), free) {
                Ok(_) => self.sender = Some(sender),
                Err(error) => {
                    tracing::warn!(%error, "cannot start the thread that frees old configurations; workers free them")
                }
            }
        }
    }

    /// Frees a configuration that was replaced, once nothing else refers to it.
    pub(super) fn free(&self, snapshot: Arc<Snapshot>) {
        if let Some(sender) = &self.sender {
            self.held.change(|count| count + 1);
            // The thread ends only when `self` is gone.
            let _ = sender.send(snapshot);
        }
    }
}

//! Configurations that are no longer in force, freed by a thread on which nothing waits.
//!
//! Queries in flight and workers between two batches may still hold an old configuration. The thread that drops the last
//! reference frees it, however large it is, so the last reference is that of a thread with no other work.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::thread;
use crate::snapshot::Snapshot;

/// Interval between checks for other references to a configuration.
const LOOK: Duration = Duration::from_millis(20);

/// Channel to the thread that frees; without it, any thread may free.
#[derive(Debug, Default)]
pub(super) struct Retired(Option<Sender<Arc<Snapshot>>>);

impl Retired {
    /// Starts the thread, unless it is running. Must be called before another configuration is put in force: then no other
    /// holder of the old one is the last.
    pub(super) fn expect(&mut self) {
        if self.0.is_none() {
            let (sender, receiver) = channel::<Arc<Snapshot>>();
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
                    held.retain(|snapshot| Arc::strong_count(snapshot) > 1);
                }
            };
            match thread::spawn("nodens-free".into(), free) {
                Ok(_) => self.0 = Some(sender),
                Err(error) => {
                    tracing::warn!(%error, "cannot start the thread that frees old configurations; workers free them")
                }
            }
        }
    }

    /// Frees a configuration that was replaced, once nothing else refers to it.
    pub(super) fn free(&self, snapshot: Arc<Snapshot>) {
        if let Some(sender) = &self.0 {
            // The thread ends only when `self` is gone.
            let _ = sender.send(snapshot);
        }
    }
}

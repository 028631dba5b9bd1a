//! Configurations that are in force no more, freed where nobody waits for it.
//!
//! Those who answered under one may still hold it: queries under way, a worker between two batches. The last to let go
//! frees it, however large it is, so the last is a thread that has nothing else to do.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::thread;
use crate::snapshot::Snapshot;

/// Interval between looks whether others still hold what is to be freed.
const LOOK: Duration = Duration::from_millis(20);

/// The way to the thread that frees; without it everybody frees.
#[derive(Debug, Default)]
pub(super) struct Retired(Option<Sender<Arc<Snapshot>>>);

impl Retired {
    /// Begins the thread, if it does not run yet. Before another configuration is put in force: whoever holds the old one
    /// then is not the last.
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
                        // The server is gone, and all who could wait.
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                    // It is in force nowhere, so whoever holds it alone is joined by none.
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

    /// Frees a configuration that was replaced, once nobody else holds it.
    pub(super) fn free(&self, snapshot: Arc<Snapshot>) {
        if let Some(sender) = &self.0 {
            // The thread ends only when `self` is gone.
            let _ = sender.send(snapshot);
        }
    }
}

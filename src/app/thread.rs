//! Threads: each has a name and a runtime of its own, and a premature end is noticed.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::server::Phase;

/// Guard that reports a premature end of a thread.
pub(super) struct ThreadGuard {
    pub(super) what: &'static str,
    pub(super) failed: watch::Sender<Option<&'static str>>,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    pub(super) well: bool,
}

impl ThreadGuard {
    /// Records the end of the thread, which is regular if `well` is set and the server is stopping.
    pub(super) fn ended(mut self, well: bool) {
        self.well = well && *self.phase.borrow() == Phase::Stopping;
    }
}

impl Drop for ThreadGuard {
    /// Reports a failure, also after a panic.
    fn drop(&mut self) {
        if !self.well {
            self.failed.send_replace(Some(self.what));
        }
    }
}

/// Starts a named thread.
pub(super) fn spawn<R: Send + 'static>(
    name: String,
    run: impl FnOnce() -> R + Send + 'static,
) -> io::Result<JoinHandle<R>> {
    Builder::new().name(name).spawn(run)
}

/// Runs a future on a single-threaded runtime; returns `None` and logs an error if the system provides no event queue.
pub(super) fn block_on_local<R>(future: impl Future<Output = R>) -> Option<R> {
    match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let result = LocalSet::new().block_on(&runtime, future);
            // A library's name lookups may still run in threads of their own.
            runtime.shutdown_timeout(Duration::from_millis(100));
            Some(result)
        }
        Err(error) => {
            tracing::error!(%error, "cannot start a worker's runtime");
            None
        }
    }
}

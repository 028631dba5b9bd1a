//! The threads: each has a name and a runtime of its own, and one that ends before its time is seen.

use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::server::Phase;

/// Sees how a thread ends.
pub(super) struct Watch {
    pub(super) what: &'static str,
    pub(super) failed: watch::Sender<Option<&'static str>>,
    pub(super) phase: Arc<watch::Sender<Phase>>,
    pub(super) well: bool,
}

impl Watch {
    /// The thread is about to end, as it should or not.
    pub(super) fn ended(mut self, well: bool) {
        self.well = well && *self.phase.borrow() == Phase::Stopping;
    }
}

impl Drop for Watch {
    /// A panic leads here too.
    fn drop(&mut self) {
        if !self.well {
            self.failed.send_replace(Some(self.what));
        }
    }
}

/// Begins a thread of this name.
pub(super) fn spawn<R: Send + 'static>(
    name: String,
    run: impl FnOnce() -> R + Send + 'static,
) -> io::Result<JoinHandle<R>> {
    Builder::new().name(name).spawn(run)
}

/// Runs a future on a runtime of this thread alone; none, with a line in the log, if the system gives no event queue.
pub(super) fn block_on_local<R>(future: impl Future<Output = R>) -> Option<R> {
    match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let result = LocalSet::new().block_on(&runtime, future);
            // Name look-ups of a library may still run in threads of their own.
            runtime.shutdown_timeout(Duration::from_millis(100));
            Some(result)
        }
        Err(error) => {
            tracing::error!(%error, "cannot start a worker's runtime");
            None
        }
    }
}

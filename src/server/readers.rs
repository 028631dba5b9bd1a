//! Count of the readers of queries: a handover is complete only when nothing in the predecessor reads queries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::phase::Phase;

/// Count of listeners and connections that read queries, in all workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers(Arc<AtomicUsize>);

/// Guard that counts one reader until it is dropped.
#[derive(Debug)]
pub(crate) struct Reading(Readers);

impl Readers {
    /// Counts one more reader.
    pub(crate) fn enter(&self) -> Reading {
        self.0.fetch_add(1, Ordering::SeqCst);
        Reading(self.clone())
    }

    /// Counts one more reader, if the server serves.
    ///
    /// The count is raised before the phase is read. A thread that sets the phase and then counts the readers misses none.
    pub(crate) fn enter_if_serving(&self, phase: &watch::Receiver<Phase>) -> Option<Reading> {
        let reading = self.enter();
        (*phase.borrow() == Phase::Serving).then_some(reading)
    }

    /// Returns the number of readers.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_that_serves_has_readers() {
        let (phase, phases) = watch::channel(Phase::Serving);
        let readers = Readers::default();
        let one = readers.enter_if_serving(&phases).expect("it serves");
        let two = readers.enter();
        assert_eq!(readers.count(), 2);
        phase.send_replace(Phase::Resting);
        assert!(readers.enter_if_serving(&phases).is_none());
        drop(one);
        assert_eq!(readers.count(), 1);
        drop(two);
        assert_eq!(readers.count(), 0);
    }
}

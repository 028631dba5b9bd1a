//! Outcomes of the attempts of one query, for the task that runs its race.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::time::Instant;

use super::failure::FailureKind;
use super::message::ResponseSummary;

/// Event of an attempt.
#[derive(Debug)]
pub(crate) enum AttemptEvent {
    /// Over a connection: the query has been written to it only now.
    Written(Rc<ConnectionActivity>),
    /// The response and its summary.
    Reply(Vec<u8>, ResponseSummary),
    /// A message that may be the response or a forgery: see
    /// [`MatchResult::Doubtful`](super::message::MatchResult::Doubtful). The attempt stays open.
    Doubtful {
        /// Repeats the question in other letters.
        folded: bool,
        /// Says that the query was not understood.
        formerr: bool,
    },
    Failed(FailureKind),
}

/// State of the connections of one worker to a server.
#[derive(Debug, Default)]
pub(crate) struct ConnectionActivity {
    /// Time at which the server last sent anything over any of them.
    pub heard: Cell<Option<Instant>>,
}

/// Event queue of one query. At most three events per attempt arrive, so it is bounded by the attempts of the race.
#[derive(Debug, Default)]
pub(crate) struct RaceEvents {
    events: RefCell<VecDeque<(usize, AttemptEvent)>>,
    waker: RefCell<Option<Waker>>,
    /// A query of nodens's own, for which no client waits.
    pub probe: bool,
}

impl RaceEvents {
    /// Creates the event queue for a query of nodens's own.
    pub(crate) fn of_probe() -> Self {
        Self { probe: true, ..Self::default() }
    }

    /// Adds an event of an attempt, and wakes the waiting task.
    pub(crate) fn put(&self, attempt: usize, event: AttemptEvent) {
        self.events.borrow_mut().push_back((attempt, event));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits for the next event. Only one task may wait at a time.
    pub(crate) async fn next(&self) -> (usize, AttemptEvent) {
        std::future::poll_fn(|cx| match self.events.borrow_mut().pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

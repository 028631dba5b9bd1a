//! Where the attempts of one query report to the task that runs its race.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::time::Instant;

use super::failure::FailureKind;
use super::message::Verdict;

/// What became of an attempt.
#[derive(Debug)]
pub enum Event {
    /// Over a connection: only now it was written, there.
    Written(Rc<Line>),
    /// The reply and what it says.
    Reply(Vec<u8>, Verdict),
    /// What may be the reply, or a guess: see [`MatchResult::Doubtful`](super::message::MatchResult::Doubtful). The attempt stays
    /// open.
    Doubtful {
        /// Whether it bears the question in other letters.
        folded: bool,
        /// Whether it says that the query was not understood.
        formerr: bool,
    },
    /// No reply.
    Failed(FailureKind),
}

/// What is known of the connections of one worker to a server.
#[derive(Debug, Default)]
pub struct Line {
    /// When the server last sent anything over any of them.
    pub heard: Cell<Option<Instant>>,
}

/// The inbox of one query. At most three events per attempt arrive, so it is bounded by the race's tries.
#[derive(Debug, Default)]
pub struct RaceEvents {
    events: RefCell<VecDeque<(usize, Event)>>,
    waker: RefCell<Option<Waker>>,
    /// Whether nodens asks for itself, and no client waits.
    pub probe: bool,
}

impl RaceEvents {
    /// The inbox of a query that nodens asks for itself.
    pub fn of_probe() -> Self {
        Self { probe: true, ..Self::default() }
    }

    /// Delivers what became of an attempt.
    pub fn put(&self, attempt: usize, event: Event) {
        self.events.borrow_mut().push_back((attempt, event));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The next event. Only one task waits at a time.
    pub async fn next(&self) -> (usize, Event) {
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

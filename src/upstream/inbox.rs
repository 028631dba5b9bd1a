//! Where the attempts of one query report to the task that runs its race.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Poll, Waker};

use super::failure::FailureKind;
use super::message::Verdict;

/// What became of an attempt.
#[derive(Debug)]
pub enum Event {
    /// The reply and what it says.
    Reply(Vec<u8>, Verdict),
    /// The letter case came back changed.
    CaseFolded,
    /// No reply.
    Failed(FailureKind),
}

/// The inbox of one query. At most one event per attempt arrives, so it is bounded by the race's tries.
#[derive(Debug, Default)]
pub struct Inbox {
    events: RefCell<VecDeque<(usize, Event)>>,
    waker: RefCell<Option<Waker>>,
    /// Whether nodens asks for itself, and no client waits.
    pub probe: bool,
}

impl Inbox {
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

//! Questions that wait for the warm-up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clients::Client;
use crate::jobs::query_history::HistoryKey;

/// Pods that are about to start, with their remaining questions.
#[derive(Debug, Default)]
pub struct Queue {
    pub(super) pods: Mutex<VecDeque<Expected>>,
    pub(super) woken: Notify,
}

#[derive(Debug)]
pub(super) struct Expected {
    pub(super) client: Arc<Client>,
    pub(super) questions: VecDeque<HistoryKey>,
}

impl Queue {
    /// Removes the next question. The pods take turns: the first questions of each pod come before the last ones of
    /// others.
    pub(super) fn next(&self) -> Option<(Arc<Client>, HistoryKey)> {
        let mut pods = self.pods();
        let mut pod = pods.pop_front()?;
        let question = pod.questions.pop_front()?;
        let client = Arc::clone(&pod.client);
        if !pod.questions.is_empty() {
            pods.push_back(pod);
        }
        Some((client, question))
    }

    pub(super) fn pods(&self) -> MutexGuard<'_, VecDeque<Expected>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

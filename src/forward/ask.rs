//! Query to one group, and the failure if there is no answer.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::answer::pending::PendingQuery;
use crate::cause::Cause;
use crate::upstream::{Answer, Ask, Failure, Group, LateAnswer, Question, Unanswered};

/// Failure to get an answer.
pub(super) struct NoAnswer {
    pub(super) cause: Cause,
    /// Extended errors that explain the failure to a client, as whole options (RFC 8914).
    pub(super) extended_errors: Vec<u8>,
    /// True if no query was sent, because of `max_qps` or of a fault of this machine: that says nothing about the name.
    pub(super) unasked: bool,
    /// Query whose answer may still come.
    pub(super) late: Option<LateAnswer>,
}

impl NoAnswer {
    pub(super) fn new(cause: Cause, text: &str) -> Self {
        Self { cause, extended_errors: cause.extended_error(text), unasked: false, late: None }
    }

    /// Returns the failure of an upstream group.
    pub(super) fn of(failure: &Failure, group: &str) -> Self {
        Self { unasked: failure.is_unasked(), ..Self::new(failure.cause(), &failure.explain(group)) }
    }
}

pub(super) async fn ask<U: Ask + 'static>(
    upstreams: &Rc<U>,
    pending_query: &PendingQuery,
    group: &Arc<Group>,
    deadline: Instant,
) -> Result<Answer, NoAnswer> {
    let asked = upstreams.ask(group, &Question::of(&pending_query.key), pending_query.client, deadline).await;
    asked.map_err(|Unanswered { failure, late }| NoAnswer { late, ..NoAnswer::of(&failure, &group.config.name) })
}

//! Asking one group, and why there may be no answer.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use crate::answer::pending::PendingQuery;
use crate::cause::Cause;
use crate::upstream::{Answer, Ask, Failure, Group, Late, Question, Unanswered};

/// Why there is no answer.
pub(super) struct NoAnswer {
    pub(super) cause: Cause,
    /// The extended errors that tell a client of it, as whole options (RFC 8914).
    pub(super) extended_errors: Vec<u8>,
    /// Nobody was asked, because of `max_qps` or of a fault of this machine: that says nothing of the name.
    pub(super) unasked: bool,
    /// An answer may still come.
    pub(super) late: Option<Late>,
}

impl NoAnswer {
    pub(super) fn new(cause: Cause, text: &str) -> Self {
        Self { cause, extended_errors: cause.extended_error(text), unasked: false, late: None }
    }

    /// An upstream group had none.
    pub(super) fn of(failure: &Failure, group: &str) -> Self {
        Self { unasked: failure.is_unasked(), ..Self::new(failure.cause(), &failure.explain(group)) }
    }
}

/// Asks one group.
pub(super) async fn ask<U: Ask + 'static>(
    upstreams: &Rc<U>,
    wanted: &PendingQuery,
    group: &Arc<Group>,
    deadline: Instant,
) -> Result<Answer, NoAnswer> {
    let asked = upstreams.ask(group, &Question::of(&wanted.key), wanted.client, deadline).await;
    asked.map_err(|Unanswered { failure, late }| NoAnswer { late, ..NoAnswer::of(&failure, &group.config.name) })
}

//! Query to another group for a name that the route's own group denies: `fallthrough`.
//!
//! Only a denial of the name itself falls through. A denial behind a CNAME is one of the target, which is resolved by itself
//! and may fall through then. The first group is the zone's own: if the other group has no answer either, the first group's
//! denial counts; the other group's answer may be cached no longer than that denial.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::ask::{NoAnswer, ask};
use crate::answer::pending::PendingQuery;
use crate::cache::entry::EntryLimits;
use crate::config::{Fallthrough, Route};
use crate::effective_view::EffectiveView;
use crate::snapshot::Snapshot;
use crate::upstream::{Answer, Ask, Group};
use crate::wire::rcode;
use crate::wire::response::{AnswerKind, ResponseMessage, Section};

/// Answer of the fallthrough group.
pub(super) struct FallthroughAnswer<'s> {
    pub(super) answer: Answer,
    pub(super) group: &'s Arc<Group>,
    /// Longest time that the answer may be cached, in seconds.
    pub(super) longest: u32,
}

/// Queries the fallthrough group, if the route has one and `answer` is a denial; returns `None` if `answer` remains valid.
pub(super) async fn next<'s, U: Ask + 'static>(
    upstreams: &Rc<U>,
    pending_query: &'s PendingQuery,
    route: &Route,
    answer: &Answer,
    deadline: Instant,
) -> Result<Option<FallthroughAnswer<'s>>, NoAnswer> {
    let snapshot = &pending_query.snapshot;
    let Some((group, denial)) = denial(snapshot, route, answer) else { return Ok(None) };
    let limits = snapshot.limits(pending_query.route);
    let longest = denial.seconds.unwrap_or(limits.negative_max_ttl).min(limits.negative_max_ttl);
    match ask(upstreams, pending_query, group, deadline).await {
        Ok(answer) => {
            let has_more = ResponseMessage::read(&answer.wire).is_ok_and(|response| {
                let exists = denial.of == AnswerKind::NxDomain && response.rcode == rcode::NOERROR;
                exists || response.section(Section::Answer).next().is_some()
            });
            Ok(has_more.then_some(FallthroughAnswer { answer, group, longest }))
        }
        // The name exists: a failure of the other group does not change that.
        Err(_) if denial.of == AnswerKind::NoData => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns whether the end of a chain of CNAMEs is to be resolved by itself, because it may fall through.
pub(super) fn is_denied_at_its_end(route: &Route, response: &ResponseMessage<'_>) -> bool {
    route.fallthrough.is_some_and(|next| falls_through(next, response.kind()))
}

/// Returns whether private addresses, and CNAMEs into other routes, are to be removed from a group's answers: whether any route
/// to this group requires it.
pub(super) fn strictest(snapshot: &Snapshot, effective_view: &EffectiveView, group: &Arc<Group>) -> (bool, bool) {
    let leads_there = |route: &&Route| snapshot.groups.get(route.to).is_some_and(|other| Arc::ptr_eq(other, group));
    snapshot.config.routes.iter().filter(leads_there).fold((false, false), |(addresses, names), route| {
        (addresses || effective_view.strips(route), names || route.deny_private_names)
    })
}

impl FallthroughAnswer<'_> {
    /// Returns the limits of the answer's lifetime.
    pub(super) fn limits(&self, of_route: EntryLimits) -> EntryLimits {
        let EntryLimits { max_ttl, negative_max_ttl, rotate } = of_route;
        EntryLimits { max_ttl: max_ttl.min(self.longest), negative_max_ttl: negative_max_ttl.min(self.longest), rotate }
    }
}

/// Kind of a denial, and its TTL in seconds.
struct Denial {
    of: AnswerKind,
    seconds: Option<u32>,
}

fn denial<'s>(snapshot: &'s Snapshot, route: &Route, answer: &Answer) -> Option<(&'s Arc<Group>, Denial)> {
    let next = route.fallthrough?;
    let group = snapshot.groups.get(next.to)?;
    let response = ResponseMessage::read(&answer.wire).ok()?;
    let of = response.kind();
    let is_of_the_name = falls_through(next, of) && response.section(Section::Answer).next().is_none();
    // A late answer may come from that group itself.
    let is_its_own = || group.servers.load().iter().any(|server| server.address == answer.server);
    (is_of_the_name && !is_its_own()).then(|| (group, Denial { of, seconds: response.negative_ttl() }))
}

fn falls_through(next: Fallthrough, kind: AnswerKind) -> bool {
    match kind {
        AnswerKind::NxDomain => true,
        AnswerKind::NoData => next.nodata,
        AnswerKind::Positive => false,
    }
}

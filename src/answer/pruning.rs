//! Verification of denials by form: whether the cluster has names of forms that Kubernetes does not have.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::pending::PendingQuery;
use super::state::Resolver;
use crate::metrics::events::EventKind;
use crate::task;
use crate::upstream::server_status::wall_clock;
use crate::upstream::{Ask, Question};
use crate::wire::name::DisplayName;
use crate::wire::rcode;
use crate::wire::response::{ResponseMessage, Section};

/// Reports whether a question was denied for the form of its name.
pub(crate) fn is_denied(pending_query: &PendingQuery) -> bool {
    let cluster = pending_query.snapshot.cluster(pending_query.route);
    cluster.is_some_and(|cluster| cluster.lacks(pending_query.key.name(), pending_query.key.qtype()))
}

/// Queries such a name in the background. If it exists, names of its route are no longer denied for their form.
pub(crate) fn check<U: Ask + 'static>(resolver: &Arc<Resolver>, upstreams: &Rc<U>, pending_query: PendingQuery) {
    let now = Instant::now();
    let group = pending_query
        .snapshot
        .group(pending_query.route)
        .filter(|group| group.is_alive() && group.below_threshold(now));
    let place = group.and_then(|_| resolver.limits.governor.pending.admit_prefetch());
    let (Some(group), Some(place)) = (group.map(Arc::clone), place) else { return came_to_nothing(&pending_query) };
    let (resolver, upstreams) = (Arc::clone(resolver), Rc::clone(upstreams));
    task::spawn_local(async move {
        let _place = place;
        let question = Question::of(&pending_query.key);
        let asked = upstreams.ask(&group, &question, None, now + group.config.deadline).await;
        let exists = asked.ok().and_then(|answer| {
            let response = ResponseMessage::read(&answer.wire).ok()?;
            let is_there = response.section(Section::Answer).next().is_some() || response.soa().is_some();
            match response.rcode {
                rcode::NXDOMAIN => Some(false),
                rcode::NOERROR if is_there => Some(true),
                // Neither data nor a denial.
                _ => None,
            }
        });
        let Some(exists) = exists else { return came_to_nothing(&pending_query) };
        resolver.metrics.search.checks[usize::from(exists)].inc();
        let Some(cluster) = pending_query.snapshot.cluster(pending_query.route).filter(|_| exists) else { return };
        if cluster.pruning.give_up() {
            let reason = format!(
                "{} exists, and no name of Kubernetes has its form; now all names below {} are asked for: set prune_search = \
                 false on this route",
                DisplayName(pending_query.key.name()),
                cluster.config.domain
            );
            resolver.metrics.events.record(
                wall_clock(),
                EventKind::PruningOff,
                (Some(&group.config.name), None),
                reason,
            );
        }
    });
}

fn came_to_nothing(pending_query: &PendingQuery) {
    let name = pending_query.key.name();
    if let Some(cluster) = pending_query.snapshot.cluster(pending_query.route) {
        cluster.pruning.came_to_nothing(cluster.form(name));
    }
}

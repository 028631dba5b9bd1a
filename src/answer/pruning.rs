//! Verification of denials by form: whether the cluster has names of forms that Kubernetes does not have.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::pending::PendingQuery;
use super::state::Resolver;
use crate::metrics::events::EventKind;
use crate::upstream::server_status::wall_clock;
use crate::upstream::{Ask, Question};
use crate::wire::name::DisplayName;
use crate::wire::rcode;
use crate::wire::response::{ResponseMessage, Section};

/// Reports whether a question was denied for the form of its name.
pub(crate) fn is_denied(wanted: &PendingQuery) -> bool {
    let cluster = wanted.snapshot.cluster(wanted.route);
    cluster.is_some_and(|cluster| cluster.lacks(wanted.key.name(), wanted.key.qtype()))
}

/// Queries such a name in the background. If it exists, names of its route are no longer denied for their form.
pub(crate) fn check<U: Ask + 'static>(resolver: &Arc<Resolver>, upstreams: &Rc<U>, wanted: PendingQuery) {
    let now = Instant::now();
    let group = wanted.snapshot.group(wanted.route).filter(|group| group.is_alive() && group.has_room(now));
    let place = group.and_then(|_| resolver.limits.governor.pending.admit_prefetch());
    let (Some(group), Some(place)) = (group.map(Arc::clone), place) else { return came_to_nothing(&wanted) };
    let (resolver, upstreams) = (Arc::clone(resolver), Rc::clone(upstreams));
    tokio::task::spawn_local(async move {
        let _place = place;
        let question = Question::of(&wanted.key);
        let asked = upstreams.ask(&group, &question, None, now + group.config.deadline).await;
        let exists = asked.ok().and_then(|answer| {
            let reply = ResponseMessage::read(&answer.wire).ok()?;
            let is_there = reply.section(Section::Answer).next().is_some() || reply.soa().is_some();
            match reply.rcode {
                rcode::NXDOMAIN => Some(false),
                rcode::NOERROR if is_there => Some(true),
                // Neither data nor a denial.
                _ => None,
            }
        });
        let Some(exists) = exists else { return came_to_nothing(&wanted) };
        resolver.metrics.search.checks[usize::from(exists)].inc();
        let Some(cluster) = wanted.snapshot.cluster(wanted.route).filter(|_| exists) else { return };
        if cluster.pruning.give_up() {
            let reason = format!(
                "{} exists, and no name of Kubernetes has its form; now all names below {} are asked for: set prune_search = \
                 false on this route",
                DisplayName(wanted.key.name()),
                cluster.config.domain
            );
            resolver.metrics.events.tell(wall_clock(), EventKind::PruningOff, (Some(&group.config.name), None), reason);
        }
    });
}

fn came_to_nothing(wanted: &PendingQuery) {
    let name = wanted.key.name();
    if let Some(cluster) = wanted.snapshot.cluster(wanted.route) {
        cluster.pruning.came_to_nothing(cluster.form(name));
    }
}

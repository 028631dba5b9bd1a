//! Answers that come after the deadline.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{NoAnswer, ask_and_follow, follow, from_now, settle};
use crate::answer::pending::Wanted;
use crate::answer::state::Resolver;
use crate::coalesce::Flight;
use crate::governor::pending::PrefetchPlace;
use crate::upstream::{Ask, Late};

/// How long those who asked together may take to see that their time is over.
const GRACE: Duration = Duration::from_millis(100);

/// A question that was not answered in time. No failure is remembered as long as an answer may come. Whoever asks meanwhile
/// waits for that, and has the servers asked once more: one that is slow gives the first answer, one that was away the second.
pub(super) struct Waiting {
    pub(super) wanted: Wanted,
    pub(super) flight: Flight,
    pub(super) late: Late,
    pub(super) trail: Vec<Vec<u8>>,
    pub(super) _place: PrefetchPlace,
}

impl Waiting {
    pub(super) async fn run<U: Ask + 'static>(self, resolver: Arc<Resolver>, upstreams: Rc<U>) {
        let Self { wanted, flight, mut late, mut trail, _place } = self;
        let group = wanted.snapshot.group(wanted.route).map_or("", |group| &group.config.name);
        let next = flight.next_joined();
        let joined = async {
            tokio::select! {
                Ok(()) = next => {}
                // Those who came before it was late, and still wait.
                () = async {
                    sleep(GRACE).await;
                    if !flight.has_waiting() {
                        std::future::pending().await
                    }
                } => {}
            }
        };
        let mut trail_again = Vec::new();
        let outcome = tokio::select! {
            late = &mut late => match late {
                Ok(answer) => follow(&resolver, &upstreams, &wanted, answer, from_now(&wanted), &mut trail).await,
                Err(failure) => Err(NoAnswer::of(&failure, group)),
            },
            () = joined => tokio::select! {
                Ok(answer) = &mut late => {
                    follow(&resolver, &upstreams, &wanted, answer, from_now(&wanted), &mut trail).await
                }
                again = ask_and_follow(&resolver, &upstreams, &wanted, from_now(&wanted), &mut trail_again) => again,
            },
        };
        let entry = settle(&resolver, &wanted, outcome);
        flight.land(&entry, wanted.by.get());
    }
}

//! Warm-up: the questions that a job is likely to ask are asked before it starts, and its first queries are hits.
//!
//! ```text
//! a job's pod is bound to this node ──► expect ──► queue ──► run ──► cached? ──► coalesce ──► forward ──► cache
//! hosts of its images, its GitLab ──────┘  ▲                  one at a time,                                │
//! questions of its project's jobs ─────────┘                  pods take turns         used? ◄───────────────┘
//!                 ▲                                                                     │
//!                 └────────────────────── query history ◄───────────────────────────────┘
//! ```
//!
//! Seconds pass between the binding and the first query, while images are pulled and containers are created. Warm-up queries
//! have the lowest priority. A question is asked once, and only if its answer is not fresh, a server of the upstream is
//! alive and `max_qps` has room. The rate and the number in flight are bounded. A client that asks meanwhile joins the
//! query in flight.
//!
//! [`queue`] holds the waiting questions, [`mod@file`] stores the query history beyond the end of the process.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::answer::own_answers::{Local, local};
use crate::answer::pending::PendingQuery;
use crate::answer::state::Resolver;
use crate::cache::Entry;
use crate::cache::entry::Freshness;
use crate::clients::{Client, ClientIdentity};
use crate::clock::Millis;
use crate::coalesce::CoalescedQuery;
use crate::forward::{self, entries};
use crate::jobs::query_history::HistoryKey;
use crate::task;
use crate::upstream::Ask;
use crate::wire::cache_key::CacheKey;
use crate::wire::name::Name;
use crate::wire::{rcode, rtype};

pub(crate) mod file;
pub(crate) mod queue;

use queue::Expected;

/// Most questions asked for one pod.
pub(crate) const MOST_QUESTIONS: usize = 64;
/// Most pods that wait; for further ones, nothing is asked.
const MOST_PODS: usize = 64;
/// Interval between two questions: 200 a second for all pods together.
const PACE: Duration = Duration::from_millis(5);
/// Most questions in flight.
const MOST_IN_FLIGHT: usize = 32;
/// Most answers whose use is watched.
const MOST_WATCHED: usize = 4_096;
/// Time that the use of an answer is watched: a job that asks later had no benefit.
const WATCHED_FOR: Millis = 600_000;

/// Queues the questions for a pod that is about to start: first `hosts`, which the pod names, then the questions of its
/// project's jobs.
pub(crate) fn expect(resolver: &Resolver, client: &Arc<Client>, hosts: &[Name]) {
    if !resolver.snapshot.load().config.warm_up.enabled {
        return;
    }
    let metrics = &resolver.metrics.warm_up;
    metrics.pods.inc();
    let hosts = hosts.iter().flat_map(|host| [rtype::A, rtype::AAAA].map(|qtype| (host.as_wire().into(), qtype)));
    let mut questions: VecDeque<HistoryKey> = hosts.collect();
    for question in resolver.accounts.jobs.query_history(|query_history| query_history.of(client)) {
        if !questions.contains(&question) {
            questions.push_back(question);
        }
    }
    questions.truncate(MOST_QUESTIONS);
    if questions.is_empty() {
        return;
    }
    let mut pods = resolver.warm_up.pods();
    if pods.len() >= MOST_PODS {
        metrics.skipped.with_label_values(&["queue_full"]).inc_by(questions.len() as u64);
        return;
    }
    pods.push_back(Expected { client: Arc::clone(client), questions });
    drop(pods);
    resolver.warm_up.woken.notify_one();
}

/// Asks the queued questions. Never returns.
pub(crate) async fn run<U: Ask + 'static>(resolver: Arc<Resolver>, upstreams: Rc<U>) {
    let places = Arc::new(Semaphore::new(MOST_IN_FLIGHT));
    let watched = Arc::new(Semaphore::new(MOST_WATCHED));
    loop {
        let Some((client, question)) = resolver.warm_up.next() else {
            resolver.warm_up.woken.notified().await;
            continue;
        };
        // While upstreams are slow, the remaining questions wait here.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (pending_query, leader) = match pending_query(&resolver, &client, &question) {
            Ok(pending_query) => pending_query,
            Err(reason) => {
                resolver.metrics.warm_up.skipped.with_label_values(&[reason]).inc();
                continue;
            }
        };
        resolver.metrics.warm_up.prefetches.inc();
        let (resolver, upstreams, watched) = (Arc::clone(&resolver), Rc::clone(&upstreams), Arc::clone(&watched));
        task::spawn_local(async move {
            let entry = forward::run(&resolver, &upstreams, &pending_query, leader).await;
            drop(place);
            let Ok(watched) = watched.try_acquire_owned() else { return };
            let (key, hash) = (pending_query.key.clone(), pending_query.hash);
            // The query holds a snapshot, which may be outdated by then.
            drop(pending_query);
            if entry.rcode == rcode::NOERROR && entry.is_kept() {
                watch(&resolver, &key, hash, entry, watched).await.then(|| {
                    resolver.metrics.warm_up.used.inc();
                    resolver
                        .accounts
                        .jobs
                        .query_history(|query_history| query_history.note(&client, &question.0, question.1));
                });
            }
        });
        tokio::time::sleep(PACE).await;
    }
}

/// Returns the query for a question, with the obligation to run it; or the reason why there is none, as a metric label.
fn pending_query(
    resolver: &Resolver,
    client: &Arc<Client>,
    (name, qtype): &HistoryKey,
) -> Result<(PendingQuery, CoalescedQuery), &'static str> {
    let snapshot = resolver.snapshot.load_full();
    let view = snapshot.views.wherever(&ClientIdentity::Known { client, since: None }).ok_or("view")?;
    let key = CacheKey::of_stub(name, *qtype, snapshot.sees(view));
    let (key, route) = match local(&snapshot, &key) {
        Local::Answer(..) | Local::Denied { .. } => return Err("local"),
        Local::Alias(_, target, route) => (key.for_name(&target), route),
        Local::Not { route, .. } => (key, route),
    };
    let (hash, asked) = (resolver.cache.hash(&key), Instant::now());
    let pending_query =
        PendingQuery { key, hash, route, snapshot, alias: None, path: None, asked, client: None, by: Cell::default() };
    // A recent failure is not retried so soon either.
    if let Some((_, Freshness::Fresh(_) | Freshness::Failed)) = entries::usable_entry(resolver, &pending_query, 0) {
        return Err("cached");
    }
    if !pending_query.snapshot.group(route).is_some_and(|group| group.is_alive() && group.below_threshold(asked)) {
        return Err("upstream");
    }
    // A client may be asking the same question now.
    let leader =
        resolver.coalescer.lead(pending_query.snapshot.generation, hash, &pending_query.key).ok_or("cached")?;
    Ok((pending_query, leader))
}

/// Waits, and returns whether a client used this answer from the cache while it was fresh.
async fn watch(resolver: &Resolver, key: &CacheKey, hash: u64, entry: Entry, place: OwnedSemaphorePermit) -> bool {
    let (born, until) = (entry.born, entry.expires.min(entry.born + WATCHED_FOR));
    drop(entry);
    tokio::time::sleep_until(resolver.instant(until)).await;
    drop(place);
    resolver.cache.with(hash, key, |kept| is_used(kept, born, until)) == Some(true)
}

/// Returns whether a client used the answer of the time `born` before `until`. `kept` is the entry in the cache now.
fn is_used(kept: &Entry, born: Millis, until: Millis) -> bool {
    match kept.born == born {
        true => kept.hits > 0,
        // A newer entry is evidence of use: only answers that clients use are prefetched while they are fresh.
        false => kept.born > born && kept.born < until,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::{CacheScope, CachedFailure};
    use crate::clients::client::ClientKind;
    use crate::config::parse::parse;
    use crate::metrics::Metrics;
    use crate::snapshot::Snapshot;

    fn client(name: &str) -> Arc<Client> {
        Arc::new(Client {
            kind: ClientKind::Pod,
            name: name.into(),
            namespace: None,
            uid: None,
            labels: Box::default(),
            more_labels: false,
            job: None,
            memo: Default::default(),
            search: None,
        })
    }

    fn hosts(count: usize) -> Vec<Name> {
        (0..count).map(|number| format!("n{number}.example").parse().expect("a name")).collect()
    }

    #[test]
    fn what_waits_is_bounded() {
        let config = parse(include_str!("../../config/minimal.toml"), &[]).expect("good");
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let resolver = Resolver::new(Snapshot::new(config, &metrics, None), metrics);
        let skipped = || resolver.metrics.warm_up.skipped.with_label_values(&["queue_full"]).get();
        expect(&resolver, &client("many"), &hosts(99));
        assert_eq!(resolver.warm_up.pods()[0].questions.len(), MOST_QUESTIONS);
        (0..MOST_PODS - 1).for_each(|_| expect(&resolver, &client("one"), &hosts(1)));
        assert_eq!((resolver.warm_up.pods().len(), skipped()), (MOST_PODS, 0));
        expect(&resolver, &client("late"), &hosts(3));
        assert_eq!((resolver.warm_up.pods().len(), skipped()), (MOST_PODS, 6));
        assert_eq!(resolver.metrics.warm_up.pods.get(), MOST_PODS as u64 + 1);
    }

    #[test]
    fn answers_count_as_used_by_hit_or_prefetch() {
        let scope = CacheScope::unconfirmed(0);
        let entry = |born, hits| {
            let mut entry = Entry::failure(
                &[0, 0, 1, 0, 1],
                (crate::cause::Cause::UpstreamFailed, &[]),
                scope,
                CachedFailure::unasked(0),
                born,
            );
            entry.hits = hits;
            entry
        };
        for (born, hits, used) in [(10, 0, false), (10, 1, true), (50, 0, true), (100, 3, false), (5, 3, false)] {
            assert_eq!(is_used(&entry(born, hits), 10, 100), used, "born {born}, hits {hits}");
        }
    }

    #[test]
    fn pods_take_turns() {
        let queue = queue::Queue::default();
        for (name, count) in [("a", 3), ("b", 1), ("c", 2)] {
            let questions = (0..count).map(|qtype: u16| (Box::from(&b"\0"[..]), qtype.into())).collect();
            queue.pods().push_back(Expected { client: client(name), questions });
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.next())
            .map(|(client, (_, qtype))| format!("{}{}", client.name, u16::from(qtype)))
            .collect();
        assert_eq!(order, ["a0", "b0", "c0", "a1", "c1", "a2"]);
    }
}

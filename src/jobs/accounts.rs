//! All accounts, and the merging of buffers into them; used by one thread at a time.
//!
//! The cost of a record does not depend on the number of accounts: an account is found by the key of its owner. For the
//! cost within an account see [`super::account`].

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use lru::LruCache;

use super::account::{ClientStats, Excerpt, FailedQuestion, Pick, ResponseKind, SlowQuestion};
use super::buffer::{Buffer, ResponseCount};
use super::existing_names::Existing;
use super::metric_key::MetricKey;
use super::projects::Projects;
use super::query_history::QueryHistory;
use super::truncated::{TruncatedKey, TruncatedQuestion};
use crate::cause::Cause;
use crate::clients::client::Field;
use crate::clients::{Client, ClientIdentity, Tables};
use crate::clock::Millis;
use crate::wire::name::OWN_ZONE;
use crate::wire::rcode;

/// Most accounts kept; the one that has been idle longest is evicted.
pub const MOST_ACCOUNTS: usize = 1_024;
/// Approximate limit for the size of all accounts in bytes; the one that has been idle longest is evicted.
pub const MOST_BYTES: usize = 8 << 20;
/// Time that the account of a client that is gone is kept after its last query.
pub const KEPT_FOR: Millis = 3_600_000;
/// Interval between removals of old accounts.
const TEND_EVERY: Millis = 60_000;
/// Owner of the account of all unknown clients.
const UNKNOWN: &str = "unknown";

/// Accounts, and the other data derived from the records.
#[derive(Debug)]
pub(super) struct Accounts {
    by_owner: LruCache<Box<str>, ClientStats>,
    pub(super) existing: Existing,
    pub(super) query_history: QueryHistory,
    pub(super) projects: Projects,
    bytes: usize,
    pub(super) dropped: u64,
    /// Visits of list items: the cost of merging.
    pub(super) steps: u64,
    maintained: Millis,
}

impl Accounts {
    pub(super) fn new(projects: Projects) -> Self {
        let (by_owner, query_history, existing) = (LruCache::unbounded(), QueryHistory::new(), Existing::new());
        Self { by_owner, existing, query_history, projects, bytes: 0, dropped: 0, steps: 0, maintained: 0 }
    }

    /// Merges the records of a worker.
    pub(super) fn merge_counts(&mut self, notes: &Buffer, tables: &Tables) {
        for count in notes.counts() {
            let (route, rcode, source) = (notes.route(count.route()).cloned(), count.rcode(), count.source());
            let kind = ResponseKind { route, rcode, source, times: count.times.into() };
            self.change(tables, count.address, count.first, count.last, |account| account.add(kind));
        }
        for failure in notes.failures() {
            let ResponseCount { address, first, last, times, .. } = failure.times;
            let ((name, qtype), rcode) = (failure.question(), failure.times.rcode());
            let failure = FailedQuestion {
                name: name.into(),
                qtype,
                route: notes.route(failure.times.route()).cloned(),
                rcode,
                cause: failure.cause,
                words: failure.words.clone().unwrap_or_default(),
                times: times.into(),
                first,
                last,
            };
            self.change(tables, address, first, last, |account| account.fail(failure));
        }
        for wait in notes.waits().iter().filter(|wait| !wait.name.ends_with(OWN_ZONE)) {
            if wait.rcode == rcode::NOERROR {
                self.steps += self.existing.answered(&wait.name);
                if let Some(client) = identify(tables, address(wait.address), wait.asked, wait.asked) {
                    self.query_history.note(client, &wait.name, wait.qtype);
                }
            }
            let route = notes.route(wait.route).cloned();
            let (name, qtype, rcode, took) = (wait.name.clone(), wait.qtype, wait.rcode, wait.took);
            let slow = SlowQuestion { name, qtype, route, rcode, took };
            self.change(tables, wait.address, wait.asked, wait.asked, |account| account.wait(slow));
        }
        self.dropped += notes.dropped();
    }

    /// Does the maintenance that is due at `now`, and records truncated responses key clients have not asked again
    /// over TCP as failures.
    pub(super) fn run_maintenance(
        &mut self,
        overdue: Vec<(TruncatedKey, TruncatedQuestion)>,
        tables: &Tables<'_>,
        now: Millis,
    ) {
        for ((address, name, qtype), cut) in overdue {
            let TruncatedQuestion { route, size, times, first, last, .. } = cut;
            let (rcode, cause, words) = (rcode::NOERROR, Cause::TooBig, format!("{size} bytes").into());
            let failure = FailedQuestion { name, qtype, route, rcode, cause, words, times, first, last };
            self.change(tables, address, first, last, |account| account.fail(failure));
        }
        for (_, account) in self.by_owner.iter_mut().filter(|(_, account)| account.reported.due) {
            self.projects.update_series(account, now, false);
        }
        if now >= self.maintained + TEND_EVERY {
            self.maintained = now;
            self.forget(tables, now);
        }
    }

    /// Returns all accounts, most recently active first.
    pub(super) fn each(&self) -> impl Iterator<Item = &ClientStats> {
        self.by_owner.iter().map(|(_, account)| account)
    }

    /// Returns an excerpt of the client's account.
    pub(super) fn look(&self, client: &Client, pick: Pick<'_>) -> Option<Excerpt> {
        self.by_owner.peek(&*owner(Some(client))).map(|account| self.excerpt(account, pick))
    }

    /// Finds an account by UID, job ID or name, in this order.
    pub(super) fn find(&self, id: &str) -> Option<Excerpt> {
        let find = |is: &dyn Fn(&Client) -> bool| {
            self.each().find(|account| account.client.as_ref().is_some_and(|client| is(client)))
        };
        let is_job = |client: &Client| {
            client.job.as_ref().and_then(|job| job.get(Field::JobId)).is_some_and(|fact| *fact.value == *id)
        };
        find(&|client| client.uid.as_deref() == Some(id))
            .or_else(|| find(&is_job))
            .or_else(|| find(&|client| *client.name == *id))
            .or_else(|| self.by_owner.peek(id).filter(|_| id == UNKNOWN))
            .map(|account| self.excerpt(account, Pick::All))
    }

    fn excerpt(&self, account: &ClientStats, pick: Pick<'_>) -> Excerpt {
        let account = account.excerpt(pick);
        let like = |failure: &FailedQuestion| match failure.cause {
            Cause::NoSuchName | Cause::SpecialUse | Cause::Pruned => self.existing.like(&failure.name),
            _ => Vec::new(),
        };
        Excerpt { like: account.failures.iter().map(like).collect(), account }
    }

    /// Changes the account of the client that had `address` from `first` to `last`.
    fn change(
        &mut self,
        tables: &Tables<'_>,
        address: u128,
        first: Millis,
        last: Millis,
        change: impl FnOnce(&mut ClientStats),
    ) {
        let address = self::address(address);
        let client = identify(tables, address, first, last);
        let owner = owner(client.map(|client| &**client));
        let before = self.by_owner.peek(&owner).map_or(0, ClientStats::weight);
        let account = self.by_owner.get_or_insert_mut(owner, || ClientStats::new(None, address, first));
        if let Some(client) = client
            && !account.client.as_ref().is_some_and(|known| Arc::ptr_eq(known, client))
        {
            account.belongs_to(client);
            account.reported.key = Some(Arc::new(MetricKey::of(client)));
        }
        account.reported.due = true;
        (account.first, account.last) = (account.first.min(first), account.last.max(last));
        account.address = address;
        change(account);
        self.steps += account.take_steps();
        self.bytes = (self.bytes + account.weight()).saturating_sub(before);
        while self.by_owner.len() > MOST_ACCOUNTS || self.bytes > MOST_BYTES {
            let Some((_, mut gone)) = self.by_owner.pop_lru() else { break };
            if gone.reported.due {
                self.projects.update_series(&mut gone, last, true);
            }
            self.bytes = self.bytes.saturating_sub(gone.weight());
        }
    }

    /// Removes the accounts of clients that no longer exist and have been idle for `KEPT_FOR`.
    fn forget(&mut self, tables: &Tables<'_>, now: Millis) {
        let is_gone = |account: &ClientStats| {
            let there = identify(tables, account.address, now, now);
            let there = there.zip(account.client.as_ref()).is_some_and(|(one, other)| same(one, other));
            now >= account.last + KEPT_FOR && !there
        };
        let gone = self.by_owner.iter().filter(|(_, account)| is_gone(account)).map(|(owner, _)| owner.clone());
        for owner in gone.collect::<Vec<_>>() {
            let account = self.by_owner.pop(&owner);
            self.bytes = self.bytes.saturating_sub(account.map_or(0, |account| account.weight()));
        }
    }
}

/// Converts an address from its form in a buffer.
fn address(number: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(number)).to_canonical()
}

/// Returns the client that had `address` at both times; `None` if the address changed hands.
fn identify<'t>(tables: &'t Tables<'_>, address: IpAddr, first: Millis, last: Millis) -> Option<&'t Arc<Client>> {
    match (tables.identify(address, first), tables.identify(address, last)) {
        (ClientIdentity::Known { client: one, .. }, ClientIdentity::Known { client: other, .. })
            if same(one, other) =>
        {
            Some(other)
        }
        _ => None,
    }
}

fn same(one: &Arc<Client>, other: &Arc<Client>) -> bool {
    Arc::ptr_eq(one, other) || (&one.uid, one.kind, &one.name) == (&other.uid, other.kind, &other.name)
}

/// Returns the key of an account.
fn owner(client: Option<&Client>) -> Box<str> {
    match client {
        None => UNKNOWN.into(),
        Some(Client { uid: Some(uid), .. }) => format!("pod {uid}").into(),
        Some(Client { name, .. }) => format!("client {name}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::client;
    use crate::clients::pods::{Pod, PodEvent, Pods};
    use crate::clients::{Clients, StaticClients};
    use crate::config::RouteId;
    use crate::jobs::{Jobs, StatsBuffer, stats_buffer};
    use crate::metrics::{AnswerSource, Metrics};
    use crate::wire::rtype;

    fn pod(uid: u32, address: [u8; 4], ended: bool) -> Pod {
        let client = Client {
            kind: client::ClientKind::Pod,
            name: format!("pod-{uid}").into(),
            namespace: None,
            uid: Some(uid.to_string().into()),
            labels: Box::default(),
            more_labels: false,
            job: None,
            memo: Default::default(),
            search: None,
        };
        let (uid, version) = (uid.to_string().into(), if ended { 2 } else { 1 });
        let addresses = vec![address.into()];
        Pod { uid, version, addresses, host_network: false, ended, deleting: false, client: Arc::new(client) }
    }

    fn jobs() -> Jobs {
        Jobs::new(Projects::new(&Metrics::new().expect("metrics").clients, 10))
    }

    fn count(stats_buffer: &mut StatsBuffer, address: [u8; 4], at: Millis) {
        stats_buffer.count(address.into(), RouteId::of_index(0), rcode::NOERROR, AnswerSource::Hit, at);
    }

    fn merge_counts(jobs: &Jobs, stats_buffer: &mut StatsBuffer, clients: &Clients, at: Millis) {
        assert!(jobs.flush(stats_buffer, at), "there is room");
        jobs.merge_counts(clients, &StaticClients::default(), at);
    }

    fn queries(jobs: &Jobs, id: &str) -> u64 {
        jobs.find(id).map_or(0, |found| found.account.count(|_| true))
    }

    #[test]
    fn queries_during_a_change_of_owner_are_unassigned() {
        const HERE: [u8; 4] = [10, 0, 0, 1];
        let (clients, jobs, mut stats_buffer) = (Clients::default(), jobs(), StatsBuffer::new(["."]));
        let mut pods = Pods::new(1, false);
        pods.apply(0, PodEvent::Seen(pod(1, HERE, false)), 10_000);
        pods.apply(0, PodEvent::Seen(pod(1, HERE, true)), 20_000);
        pods.apply(0, PodEvent::Seen(pod(2, HERE, false)), 30_000);
        clients.put_pods(pods.table());
        // Much later, the client at the time of the query still counts.
        for (times, at) in [(&[15_000, 15_050][..], 90_000), (&[40_000], 90_000), (&[19_990, 40_000, 40_010], 90_000)] {
            times.iter().for_each(|asked| count(&mut stats_buffer, HERE, *asked));
            merge_counts(&jobs, &mut stats_buffer, &clients, at);
        }
        let counts = ["pod-1", "pod-2", "unknown"].map(|id| queries(&jobs, id));
        assert_eq!(counts, [2, 1, 3]);
    }

    #[test]
    fn the_longest_idle_account_is_evicted() {
        let (clients, jobs, mut stats_buffer) = (Clients::default(), jobs(), StatsBuffer::new(["."]));
        let mut pods = Pods::new(1, false);
        let address = |number: u32| (0x0a00_0000 + number).to_be_bytes();
        let all = MOST_ACCOUNTS as u32 + 10;
        (0..all).for_each(|number| pods.apply(0, PodEvent::Seen(pod(number, address(number), false)), 1_000));
        clients.put_pods(pods.table());
        for number in 0..all {
            count(&mut stats_buffer, address(number), 5_000);
            // The first client queries all the time.
            count(&mut stats_buffer, address(0), 5_000);
            merge_counts(&jobs, &mut stats_buffer, &clients, 5_000);
        }
        assert_eq!(jobs.each(|_| ()).len(), MOST_ACCOUNTS);
        assert_eq!(["pod-0", "pod-1", "pod-1033"].map(|id| queries(&jobs, id)), [u64::from(all) + 1, 0, 1]);
    }

    #[test]
    fn search_list_tries_across_workers_are_no_failures() {
        let metrics = Metrics::new().expect("metrics");
        let (clients, jobs) = (Clients::default(), Jobs::new(Projects::new(&metrics.clients, MOST_ACCOUNTS)));
        let mut pods = Pods::new(1, false);
        let mut pod = pod(1, [10, 0, 0, 1], false);
        pod.client = Arc::new(Client { namespace: Some("ci".into()), ..Client::clone(&pod.client) });
        pods.apply(0, PodEvent::Seen(pod), 1_000);
        clients.put_pods(pods.table());
        let reported = |names: &[&str], at: Millis| {
            let mut stats_buffer = StatsBuffer::new(["."]);
            for (name, hash) in names.iter().zip(1..) {
                let name = name.parse::<crate::wire::name::Name>().expect("a name");
                let (rcode, source) = (rcode::NXDOMAIN, AnswerSource::Hit);
                let cause = Cause::NoSuchName;
                let failed = stats_buffer::RecordedFailure {
                    name: name.as_wire(),
                    hash,
                    qtype: rtype::A,
                    route: RouteId::of_index(0),
                    rcode,
                    source,
                    cause,
                };
                stats_buffer.count([10, 0, 0, 1].into(), RouteId::of_index(0), rcode, source, 5_000);
                stats_buffer.fail([10, 0, 0, 1].into(), failed, 5_000, || None);
            }
            merge_counts(&jobs, &mut stats_buffer, &clients, at);
            let text = metrics.render();
            let value = |family: &str| {
                let series = format!("nodens_client_{family}_total{{namespace=\"ci\",project=\"\",runner=\"\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&*series)?.parse::<u64>().ok())
            };
            (value("queries"), value("failures"))
        };
        assert_eq!(reported(&["typo.example.svc.x", "typo.example.x"], 5_100), (Some(2), Some(0)));
        assert_eq!(reported(&["typo.example.ci.svc.x", "typo.example"], 5_200), (Some(4), Some(0)));
        assert_eq!(reported(&[], 6_099), (Some(4), Some(0)), "it may still be explained");
        assert_eq!(reported(&[], 6_100), (Some(4), Some(1)), "of four, three were tries of one list");
        assert_eq!(reported(&[], 9_000), (Some(4), Some(1)));
    }

    #[test]
    fn accounts_of_deleted_pods_last_an_hour() {
        let (clients, jobs, mut stats_buffer) = (Clients::default(), jobs(), StatsBuffer::new(["."]));
        let mut pods = Pods::new(1, false);
        pods.apply(0, PodEvent::Seen(pod(1, [10, 0, 0, 1], false)), 1_000);
        pods.apply(0, PodEvent::Seen(pod(2, [10, 0, 0, 2], false)), 1_000);
        clients.put_pods(pods.table());
        count(&mut stats_buffer, [10, 0, 0, 1], 5_000);
        count(&mut stats_buffer, [10, 0, 0, 2], 5_000);
        merge_counts(&jobs, &mut stats_buffer, &clients, 5_000);
        pods.apply(0, PodEvent::Seen(pod(2, [10, 0, 0, 2], true)), 6_000);
        clients.put_pods(pods.table());
        for (now, expected) in [(5_000 + KEPT_FOR - 1, [1, 1]), (5_000 + KEPT_FOR + TEND_EVERY, [1, 0])] {
            merge_counts(&jobs, &mut stats_buffer, &clients, now);
            assert_eq!(["pod-1", "pod-2"].map(|id| queries(&jobs, id)), expected);
        }
    }
}

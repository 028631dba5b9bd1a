//! Which job asked what, and why it failed.
//!
//! ```text
//! a worker's turn ──► ledger ── at most every 100 ms ──► settle ──► who was that? ──► account of the pod
//!                     by address, no look-up                        clients           counts, slowest, failures
//! ```
//!
//! - [`ledger`] what a worker notes: the part on the hot path;
//! - [`account`] what is known of one client's queries;
//! - [`cause`] from a failure to its class and a sentence;
//! - [`habits`] what the jobs of a project ask for;
//! - [`truncated`] what was cut off over UDP, until its client comes back over TCP;
//! - [`projects`] which of them are counted by name in the metrics.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use lru::LruCache;

use crate::clients::client::Field;
use crate::clients::{Client, Tables, Who};
use crate::metrics::Source;
use crate::wire::rcode;

pub mod account;
pub mod cause;
pub mod habits;
pub mod ledger;
pub mod projects;
pub mod truncated;

pub use account::Account;
pub use ledger::Ledger;

use account::{Failure, Kind, Slow};
use cause::Cause;
use habits::Habits;
use ledger::Count;
use projects::{Projects, Whose};
use truncated::{Cut, Truncated};

/// Milliseconds since the process began to keep time.
pub type Millis = u64;

/// Accounts kept; then the one that asked nothing for the longest time goes.
pub const MOST_ACCOUNTS: usize = 1_024;
/// Bytes that they may take together, about; then the same.
pub const MOST_BYTES: usize = 8 << 20;
/// How long the account of a pod that is no more is kept after its last query.
pub const KEPT_FOR: Millis = 3_600_000;
/// How often old accounts are looked for.
const TEND_EVERY: Millis = 60_000;
/// The account of all that are not known.
const UNKNOWN: &str = "unknown";

/// All accounts, shared by workers and those who read them.
#[derive(Debug)]
pub struct Jobs {
    /// Answers that were cut off, until their clients come back over TCP.
    pub truncated: Truncated,
    accounts: Mutex<Accounts>,
}

#[derive(Debug)]
struct Accounts {
    by_owner: LruCache<Box<str>, Account>,
    habits: Habits,
    projects: Projects,
    bytes: usize,
    dropped: u64,
    tended: Millis,
}

impl Jobs {
    /// No accounts yet.
    pub fn new(projects: Projects) -> Self {
        let (by_owner, habits) = (LruCache::unbounded(), Habits::new());
        let accounts = Mutex::new(Accounts { by_owner, habits, projects, bytes: 0, dropped: 0, tended: 0 });
        Self { truncated: Truncated::default(), accounts }
    }

    /// From now on at most so many projects have series in the metrics.
    pub fn set_max_projects(&self, most: usize) {
        self.lock().projects.set_most(most);
    }

    /// Takes over what a worker noted; `tables` are those of the configuration that it noted under. If someone reads the
    /// accounts just now the worker keeps its notes for later.
    pub fn settle(&self, ledger: &mut Ledger, tables: &Tables<'_>, now: Millis) {
        let mut accounts = match self.accounts.try_lock() {
            Ok(accounts) => accounts,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        accounts.settle(ledger, &self.truncated, tables, now);
    }

    /// The same, and waits for its turn: for a reader who wants to see these notes.
    pub fn settle_now(&self, ledger: &mut Ledger, tables: &Tables<'_>, now: Millis) {
        self.lock().settle(ledger, &self.truncated, tables, now);
    }

    /// Looks at what the jobs of each project ask for, or changes it; `look` must be quick.
    pub fn habits<R>(&self, look: impl FnOnce(&mut Habits) -> R) -> R {
        look(&mut self.lock().habits)
    }

    /// Shows each account, those that asked last first, to `show`, which must be quick.
    pub fn each<R>(&self, show: impl FnMut(&Account) -> R) -> Vec<R> {
        self.lock().by_owner.iter().map(|(_, account)| account).map(show).collect()
    }

    /// Notes that found no room since the start.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Shows the account of this client, if there is one, to `look`, which must be quick.
    pub fn look<R>(&self, client: &Client, look: impl FnOnce(&Account) -> R) -> Option<R> {
        self.lock().by_owner.peek(&*owner(Some(client))).map(look)
    }

    /// The account that a person means: by UID, job id, or name; of several the one that asked last. "unknown" is that of
    /// all that are not known.
    pub fn find(&self, id: &str) -> Option<Account> {
        let accounts = self.lock();
        let find = |is: &dyn Fn(&Client) -> bool| {
            let mut all = accounts.by_owner.iter().map(|(_, account)| account);
            all.find(|account| account.client.as_ref().is_some_and(|client| is(client))).cloned()
        };
        let job = |client: &Client| Some(client.job.as_ref()?.get(Field::JobId)?.value.clone());
        find(&|client| client.uid.as_deref() == Some(id))
            .or_else(|| find(&|client| job(client).as_deref() == Some(id)))
            .or_else(|| find(&|client| *client.name == *id))
            .or_else(|| accounts.by_owner.peek(id).filter(|_| id == UNKNOWN).cloned())
    }

    /// Accounts are consistent enough between any two statements: a panic elsewhere loses a count at most.
    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn settle(&mut self, ledger: &mut Ledger, truncated: &Truncated, tables: &Tables<'_>, now: Millis) {
        for count in ledger.counts() {
            let (route, rcode, source) = (ledger.route(count.route()).cloned(), count.rcode(), count.source());
            let kind = Kind { route, rcode, source, times: count.times.into() };
            self.change(tables, count.address, count.first, count.last, |account| account.add(kind));
        }
        for failure in ledger.failures() {
            let Count { address, first, last, times, .. } = failure.times;
            let ((name, qtype), rcode, source) = (failure.question(), failure.times.rcode(), failure.times.source());
            let (code, mut text) = cause::read_errors(failure.errors.as_deref().unwrap_or_default());
            if rcode == rcode::NXDOMAIN && source == Source::Local && failure.times.route() != ledger::NO_ROUTE {
                text = cause::PRUNED.to_string();
            }
            let failure = Failure {
                name: name.into(),
                qtype,
                route: ledger.route(failure.times.route()).cloned(),
                rcode,
                cause: Cause::of(rcode, source, code, &text),
                text: text.into(),
                times: times.into(),
                first,
                last,
            };
            self.change(tables, address, first, last, |account| account.fail(failure));
        }
        for wait in ledger.waits() {
            if wait.rcode == rcode::NOERROR
                && let Some(client) = who(tables, address(wait.address), wait.asked, wait.asked)
            {
                self.habits.note(client, &wait.name, wait.qtype);
            }
            let route = ledger.route(wait.route).cloned();
            let (name, qtype, rcode, took) = (wait.name.clone(), wait.qtype, wait.rcode, wait.took);
            let slow = Slow { name, qtype, route, rcode, took };
            self.change(tables, wait.address, wait.asked, wait.asked, |account| account.wait(slow));
        }
        for ((address, name, qtype), cut) in truncated.overdue(now) {
            let Cut { route, size, times, first, last } = cut;
            let (rcode, cause, text) = (rcode::NOERROR, Cause::TooBig, format!("{size} bytes").into());
            let failure = Failure { name, qtype, route, rcode, cause, text, times, first, last };
            self.change(tables, address, first, last, |account| account.fail(failure));
        }
        self.dropped += ledger.dropped();
        ledger.clear(now);
        for (_, account) in self.by_owner.iter_mut().filter(|(_, account)| account.told.due) {
            self.projects.tell(account, now, false);
        }
        if now >= self.tended + TEND_EVERY {
            self.tended = now;
            self.forget(tables, now);
        }
    }

    /// Changes the account of whoever had `address` from `first` to `last`.
    fn change(
        &mut self,
        tables: &Tables<'_>,
        address: u128,
        first: Millis,
        last: Millis,
        change: impl FnOnce(&mut Account),
    ) {
        let address = self::address(address);
        let client = who(tables, address, first, last);
        let owner = owner(client.map(|client| &**client));
        let before = self.by_owner.peek(&owner).map_or(0, Account::weight);
        let account = self.by_owner.get_or_insert_mut(owner, || Account::new(None, address, first));
        if let Some(client) = client
            && !account.client.as_ref().is_some_and(|known| Arc::ptr_eq(known, client))
        {
            account.client = Some(Arc::clone(client));
            account.told.whose = Some(Arc::new(Whose::of(client)));
        }
        account.told.due = true;
        (account.first, account.last) = (account.first.min(first), account.last.max(last));
        account.address = address;
        change(account);
        self.bytes = (self.bytes + account.weight()).saturating_sub(before);
        while self.by_owner.len() > MOST_ACCOUNTS || self.bytes > MOST_BYTES {
            let Some((_, mut gone)) = self.by_owner.pop_lru() else { break };
            if gone.told.due {
                self.projects.tell(&mut gone, last, true);
            }
            self.bytes = self.bytes.saturating_sub(gone.weight());
        }
    }

    /// Drops the accounts of those who are no more and have asked nothing for long.
    fn forget(&mut self, tables: &Tables<'_>, now: Millis) {
        let is_gone = |account: &Account| {
            let there = who(tables, account.address, now, now);
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

/// The address that a ledger has as a number.
fn address(number: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(number)).to_canonical()
}

/// Who had `address` at both times; nobody if it changed hands.
fn who<'t>(tables: &'t Tables<'_>, address: IpAddr, first: Millis, last: Millis) -> Option<&'t Arc<Client>> {
    match (tables.who(address, first), tables.who(address, last)) {
        (Who::Known { client: one, .. }, Who::Known { client: other, .. }) if same(one, other) => Some(other),
        _ => None,
    }
}

fn same(one: &Arc<Client>, other: &Arc<Client>) -> bool {
    Arc::ptr_eq(one, other) || (&one.uid, one.kind, &one.name) == (&other.uid, other.kind, &other.name)
}

/// What an account is kept under.
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
    use crate::clients::pods::{Event, Pod, Pods};
    use crate::clients::{Clients, Fixed};
    use crate::metrics::{Metrics, Source};

    fn pod(uid: u32, address: [u8; 4], ended: bool) -> Pod {
        let client = Client {
            kind: client::Kind::Pod,
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

    fn count(ledger: &mut Ledger, address: [u8; 4], at: Millis) {
        ledger.count(address.into(), 0, rcode::NOERROR, Source::Hit, at);
    }

    fn queries(jobs: &Jobs, id: &str) -> u64 {
        jobs.find(id).map_or(0, |account| account.count(|_| true))
    }

    #[test]
    fn what_an_address_asked_while_it_changed_hands_is_nobodys() {
        const HERE: [u8; 4] = [10, 0, 0, 1];
        let (clients, jobs, mut ledger) = (Clients::default(), jobs(), Ledger::new(["."]));
        let mut pods = Pods::new(1, false);
        pods.apply(0, Event::Seen(pod(1, HERE, false)), 10_000);
        pods.apply(0, Event::Seen(pod(1, HERE, true)), 20_000);
        pods.apply(0, Event::Seen(pod(2, HERE, false)), 30_000);
        clients.put_pods(pods.table());
        // Long after: who it was then counts.
        for (times, at) in [(&[15_000, 15_050][..], 90_000), (&[40_000], 90_000), (&[19_990, 40_000, 40_010], 90_000)] {
            times.iter().for_each(|asked| count(&mut ledger, HERE, *asked));
            jobs.settle_now(&mut ledger, &clients.tables(&Fixed::default()), at);
        }
        let counts = ["pod-1", "pod-2", "unknown"].map(|id| queries(&jobs, id));
        assert_eq!(counts, [2, 1, 3]);
    }

    #[test]
    fn the_account_that_asked_nothing_for_the_longest_time_makes_room() {
        let (clients, jobs, mut ledger) = (Clients::default(), jobs(), Ledger::new(["."]));
        let mut pods = Pods::new(1, false);
        let address = |number: u32| (0x0a00_0000 + number).to_be_bytes();
        let all = MOST_ACCOUNTS as u32 + 10;
        (0..all).for_each(|number| pods.apply(0, Event::Seen(pod(number, address(number), false)), 1_000));
        clients.put_pods(pods.table());
        for number in 0..all {
            count(&mut ledger, address(number), 5_000);
            // The first one asks all the time.
            count(&mut ledger, address(0), 5_000);
            jobs.settle_now(&mut ledger, &clients.tables(&Fixed::default()), 5_000);
        }
        assert_eq!(jobs.each(|_| ()).len(), MOST_ACCOUNTS);
        assert_eq!(["pod-0", "pod-1", "pod-1033"].map(|id| queries(&jobs, id)), [u64::from(all) + 1, 0, 1]);
    }

    #[test]
    fn a_try_of_the_search_list_that_another_worker_explains_later_is_no_failure_in_the_metrics() {
        let metrics = Metrics::new().expect("metrics");
        let (clients, jobs) = (Clients::default(), Jobs::new(Projects::new(&metrics.clients, MOST_ACCOUNTS)));
        let mut pods = Pods::new(1, false);
        let mut pod = pod(1, [10, 0, 0, 1], false);
        pod.client = Arc::new(Client { namespace: Some("ci".into()), ..Client::clone(&pod.client) });
        pods.apply(0, Event::Seen(pod), 1_000);
        clients.put_pods(pods.table());
        let settle = |names: &[&str], at: Millis| {
            let mut ledger = Ledger::new(["."]);
            for (name, hash) in names.iter().zip(1..) {
                let name = name.parse::<crate::wire::name::Name>().expect("a name");
                let (rcode, source) = (rcode::NXDOMAIN, Source::Hit);
                let failed = ledger::Failed { name: name.as_wire(), hash, qtype: 1, route: 0, rcode, source };
                ledger.count([10, 0, 0, 1].into(), 0, rcode, source, 5_000);
                ledger.fail([10, 0, 0, 1].into(), failed, 5_000, || None);
            }
            jobs.settle_now(&mut ledger, &clients.tables(&Fixed::default()), at);
            let text = metrics.render();
            let value = |family: &str| {
                let series = format!("nodens_client_{family}_total{{namespace=\"ci\",project=\"\",runner=\"\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&*series)?.parse::<u64>().ok())
            };
            (value("queries"), value("failures"))
        };
        assert_eq!(settle(&["typo.example.svc.x", "typo.example.x"], 5_100), (Some(2), Some(0)));
        assert_eq!(settle(&["typo.example.ci.svc.x", "typo.example"], 5_200), (Some(4), Some(0)));
        assert_eq!(settle(&[], 6_099), (Some(4), Some(0)), "it may still be explained");
        assert_eq!(settle(&[], 6_100), (Some(4), Some(1)), "of four, three were tries of one list");
        assert_eq!(settle(&[], 9_000), (Some(4), Some(1)));
    }

    #[test]
    fn the_account_of_a_pod_that_is_gone_goes_an_hour_later() {
        let (clients, jobs, mut ledger) = (Clients::default(), jobs(), Ledger::new(["."]));
        let mut pods = Pods::new(1, false);
        pods.apply(0, Event::Seen(pod(1, [10, 0, 0, 1], false)), 1_000);
        pods.apply(0, Event::Seen(pod(2, [10, 0, 0, 2], false)), 1_000);
        clients.put_pods(pods.table());
        count(&mut ledger, [10, 0, 0, 1], 5_000);
        count(&mut ledger, [10, 0, 0, 2], 5_000);
        jobs.settle_now(&mut ledger, &clients.tables(&Fixed::default()), 5_000);
        pods.apply(0, Event::Seen(pod(2, [10, 0, 0, 2], true)), 6_000);
        clients.put_pods(pods.table());
        for (now, expected) in [(5_000 + KEPT_FOR - 1, [1, 1]), (5_000 + KEPT_FOR + TEND_EVERY, [1, 0])] {
            jobs.settle_now(&mut ledger, &clients.tables(&Fixed::default()), now);
            assert_eq!(["pod-1", "pod-2"].map(|id| queries(&jobs, id)), expected);
        }
    }
}

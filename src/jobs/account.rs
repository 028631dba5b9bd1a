//! What one client asked, and how it fared: bounded, whatever it asks.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Millis;
use super::cause::{self, Cause};
use super::projects::Told;
use crate::clients::Client;
use crate::metrics::Source;
use crate::wire::rcode;

/// The slowest answers kept.
const MOST_SLOW: usize = 20;
/// Distinct failures kept; then the rarest makes room.
const MOST_FAILURES: usize = 64;
/// Names kept that were meant behind a search list.
const MOST_MEANT: usize = 64;
/// Kinds of answers counted apart; more are counted as of no route.
const MOST_KINDS: usize = 128;

/// One client's account.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whose; none: of all that are not known.
    pub client: Option<Arc<Client>>,
    /// Where its last query came from.
    pub address: IpAddr,
    /// When its first query was asked.
    pub first: Millis,
    /// When its last query was asked.
    pub last: Millis,
    /// Its answers by kind.
    pub kinds: Vec<Kind>,
    /// The slowest answers, the slowest first.
    pub slowest: Vec<Slow>,
    /// What failed, in no order.
    pub failures: Vec<Failure>,
    /// Queries for a name with a suffix of the search list behind it, which does not exist.
    pub searches: u64,
    /// The names that were meant, and how many such queries each cost.
    pub meant: Vec<(Box<[u8]>, u64)>,
    /// Failures that made room for others.
    pub left_out: u64,
    pub(super) told: Told,
}

/// Answers of one kind.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The route's label; none: nodens answered by itself.
    pub route: Option<Arc<str>>,
    /// The response code; 15 stands for all larger ones.
    pub rcode: u16,
    /// Where they came from.
    pub source: Source,
    /// How many.
    pub times: u64,
}

/// An answer that took its time.
#[derive(Clone, Debug)]
pub struct Slow {
    /// The name in lower-case wire form.
    pub name: Box<[u8]>,
    /// The type.
    pub qtype: u16,
    /// The route's label.
    pub route: Option<Arc<str>>,
    /// The response code.
    pub rcode: u16,
    /// From the query to its answer.
    pub took: Duration,
}

/// A question that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The name in lower-case wire form.
    pub name: Box<[u8]>,
    /// The type; of a name that does not exist, the first that was asked for.
    pub qtype: u16,
    /// The route's label; none: nodens answered by itself.
    pub route: Option<Arc<str>>,
    /// The response code.
    pub rcode: u16,
    /// Why.
    pub cause: Cause,
    /// What the extended errors said.
    pub text: Box<str>,
    /// How often.
    pub times: u64,
    /// When first.
    pub first: Millis,
    /// When last.
    pub last: Millis,
}

impl Account {
    /// An empty one.
    pub fn new(client: Option<Arc<Client>>, address: IpAddr, at: Millis) -> Self {
        Self {
            client,
            address,
            first: at,
            last: at,
            kinds: Vec::new(),
            slowest: Vec::new(),
            failures: Vec::new(),
            searches: 0,
            meant: Vec::new(),
            left_out: 0,
            told: Told::default(),
        }
    }

    /// The namespace that the client is in, if that is known.
    pub fn namespace(&self) -> Option<&str> {
        self.client.as_ref()?.namespace.as_deref()
    }

    /// Answers of all kinds that `wanted` accepts.
    pub fn count(&self, wanted: impl Fn(&Kind) -> bool) -> u64 {
        self.kinds.iter().filter(|kind| wanted(kind)).map(|kind| kind.times).sum()
    }

    /// Answers that were none: neither NOERROR nor a try of the search list.
    pub fn failed(&self) -> u64 {
        self.count(|kind| kind.rcode != rcode::NOERROR).saturating_sub(self.searches)
    }

    /// The sentence for one of its failures.
    pub fn sentence(&self, failure: &Failure) -> String {
        cause::sentence(failure.cause, &failure.name, failure.route.as_ref(), self.namespace(), &failure.text)
    }

    /// What its search list cost, as a sentence; none if nothing.
    pub fn noise(&self) -> Option<String> {
        let (searches, queries) = (self.searches, self.count(|_| true));
        (searches > 0).then(|| {
            format!(
                "search-list noise ({searches} of {queries} queries): names with a suffix of the search list behind; a \
                 final dot, or ndots: 1, spares them"
            )
        })
    }

    /// More answers of a kind.
    pub(super) fn add(&mut self, more: Kind) {
        let same =
            |kind: &&mut Kind| (kind.rcode, kind.source) == (more.rcode, more.source) && kind.route == more.route;
        if let Some(kind) = self.kinds.iter_mut().find(same) {
            kind.times += more.times;
        } else if self.kinds.len() < MOST_KINDS || more.route.is_none() {
            self.kinds.push(more);
        } else {
            self.add(Kind { route: None, ..more });
        }
    }

    /// An answer that took its time.
    pub(super) fn wait(&mut self, slow: Slow) {
        let at = self.slowest.partition_point(|other| other.took >= slow.took);
        if at < MOST_SLOW {
            self.slowest.truncate(MOST_SLOW - 1);
            self.slowest.insert(at, slow);
        }
    }

    /// A failure; one that a search list caused goes to the name that was meant.
    pub(super) fn fail(&mut self, failure: Failure) {
        if failure.rcode == rcode::NXDOMAIN
            && let Some(meant) = cause::meant(&failure.name, self.namespace(), |front| self.has_searched(front))
        {
            self.searches += failure.times;
            match self.meant.iter_mut().find(|(name, _)| *name == meant) {
                Some((_, times)) => *times += failure.times,
                None => {
                    make_room(&mut self.meant, MOST_MEANT, |(_, times)| (*times, 0));
                    self.meant.push((meant, failure.times));
                    self.look_again();
                }
            }
            return;
        }
        // A name that does not exist has no type.
        let same = |old: &&mut Failure| {
            old.rcode == failure.rcode
                && old.name == failure.name
                && (old.qtype == failure.qtype || failure.rcode == rcode::NXDOMAIN)
        };
        if let Some(old) = self.failures.iter_mut().find(same) {
            let failure = Failure {
                qtype: if failure.first < old.first { failure.qtype } else { old.qtype },
                times: old.times + failure.times,
                first: old.first.min(failure.first),
                last: old.last.max(failure.last),
                ..failure
            };
            // Words of an earlier time are better than none: a remembered failure may have lost them.
            *old = match failure.text.is_empty() {
                true => Failure { text: std::mem::take(&mut old.text), cause: old.cause, ..failure },
                false => failure,
            };
            return;
        }
        let room = make_room(&mut self.failures, MOST_FAILURES, |failure| (failure.times, failure.last));
        self.left_out += u64::from(room);
        let begins_a_list = self.namespace().is_some_and(|namespace| cause::is_service(&failure.name, namespace));
        self.failures.push(failure);
        if begins_a_list {
            self.look_again();
        }
    }

    /// The workers do not settle in the order of the queries: a failure may be seen to be of a search list later.
    fn look_again(&mut self) {
        let is_search = |failure: &Failure| {
            failure.rcode == rcode::NXDOMAIN
                && cause::meant(&failure.name, self.namespace(), |front| self.has_searched(front)).is_some()
        };
        let at: Vec<usize> = (0..self.failures.len()).rev().filter(|at| is_search(&self.failures[*at])).collect();
        let found: Vec<Failure> = at.into_iter().map(|at| self.failures.remove(at)).collect();
        found.into_iter().for_each(|failure| self.fail(failure));
    }

    /// Whether this name was tried with the client's own namespace behind it, which is where a search list begins.
    fn has_searched(&self, name: &[u8]) -> bool {
        let front = &name[..name.len().saturating_sub(1)];
        let begins = |failure: &Failure, namespace: &str| {
            failure.rcode != rcode::NOERROR
                && failure.name.strip_prefix(front).is_some_and(|rest| cause::is_of_namespace(rest, namespace))
        };
        self.meant.iter().any(|(meant, _)| **meant == *name)
            || self.namespace().is_some_and(|space| self.failures.iter().any(|failure| begins(failure, space)))
    }

    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        let slow: usize = self.slowest.iter().map(|slow| size_of::<Slow>() + slow.name.len()).sum();
        let failed = self.failures.iter().map(|failure| size_of::<Failure>() + failure.name.len() + failure.text.len());
        let meant: usize = self.meant.iter().map(|(name, _)| 24 + name.len()).sum();
        size_of::<Self>() + self.kinds.len() * size_of::<Kind>() + slow + failed.sum::<usize>() + meant
    }
}

/// Takes out the least of a full list; whether it did.
fn make_room<T>(list: &mut Vec<T>, most: usize, rank: impl Fn(&T) -> (u64, Millis)) -> bool {
    if list.len() < most {
        return false;
    }
    let least = list.iter().enumerate().min_by_key(|(_, item)| rank(item)).map(|(at, _)| at);
    least.is_some_and(|at| {
        list.swap_remove(at);
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    #[test]
    fn a_search_list_is_seen_in_any_order() {
        let client = Client {
            kind: crate::clients::client::Kind::Pod,
            name: "a".into(),
            namespace: Some("ci".into()),
            uid: Some("1".into()),
            labels: Box::default(),
            more_labels: false,
            job: None,
            memo: Default::default(),
            search: None,
        };
        let names = ["a.b.ci.svc.x", "a.b.svc.x", "a.b.x", "a.b", "db.ci.svc.x", "db.svc.x", "db.x"];
        for turn in 0..names.len() {
            let mut account = Account { client: Some(Arc::new(client.clone())), ..account() };
            for at in 0..names.len() {
                account.fail(failure(names[(turn + at) % names.len()], 1, rcode::NXDOMAIN, "", 1));
            }
            account.meant.sort();
            let meant: Vec<_> = account.meant.iter().map(|(name, times)| (&**name, *times)).collect();
            assert_eq!(meant, [(&b"\x01a\x01b\x00"[..], 3), (b"\x02db\x00", 2)], "from {turn}");
            let mut failed: Vec<_> = account.failures.iter().map(|failure| failure.name.len()).collect();
            failed.sort_unstable();
            assert_eq!((account.searches, failed), (5, vec![5, 13]), "a.b and db.ci.svc.x, from {turn}");
        }
    }

    fn account() -> Account {
        Account::new(None, [10, 0, 0, 1].into(), 0)
    }

    fn failure(name: &str, qtype: u16, rcode: u16, text: &str, at: Millis) -> Failure {
        Failure {
            name: name.parse::<Name>().expect(name).as_wire().into(),
            qtype,
            route: None,
            rcode,
            cause: Cause::of(rcode, Source::Upstream, None, text),
            text: text.into(),
            times: 1,
            first: at,
            last: at,
        }
    }

    #[test]
    fn equal_failures_are_one_and_keep_their_words() {
        let mut account = account();
        account.fail(failure("a.b", 1, rcode::SERVFAIL, "max_qps", 5));
        account.fail(failure("a.b", 1, rcode::SERVFAIL, "", 9));
        account.fail(failure("a.b", 28, rcode::SERVFAIL, "", 9));
        account.fail(failure("c.d", 1, rcode::NXDOMAIN, "", 9));
        account.fail(failure("c.d", 28, rcode::NXDOMAIN, "", 10));
        let told: Vec<_> =
            account.failures.iter().map(|f| (f.qtype, f.times, f.first, f.last, f.cause, &*f.text)).collect();
        let expected = [
            (1, 2, 5, 9, Cause::RateLimited, "max_qps"),
            (28, 1, 9, 9, Cause::UpstreamFailed, ""),
            (1, 2, 9, 10, Cause::NoSuchName, ""),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn the_rarest_failure_makes_room() {
        let mut account = account();
        for at in 0..2 {
            (0..60).for_each(|n| account.fail(failure(&format!("often{n}.b"), 1, rcode::NXDOMAIN, "", at)));
        }
        (0..1_000).for_each(|n| account.fail(failure(&format!("once{n}.b"), 1, rcode::NXDOMAIN, "", 10 + n)));
        assert_eq!((account.failures.len(), account.left_out), (MOST_FAILURES, 996));
        assert_eq!(account.failures.iter().filter(|failure| failure.times == 2).count(), 60);
        assert!(account.failures.iter().any(|failure| failure.last == 1_009), "the latest one is told");
    }

    #[test]
    fn the_slowest_are_kept_in_order() {
        let mut account = account();
        for millis in (0..100).chain(0..100) {
            let took = Duration::from_millis(millis);
            account.wait(Slow { name: [0].into(), qtype: 1, route: None, rcode: 0, took });
        }
        let took: Vec<_> = account.slowest.iter().map(|slow| slow.took.as_millis() as u64).collect();
        assert_eq!(took, (90..100).rev().flat_map(|millis| [millis, millis]).collect::<Vec<_>>());
    }
}

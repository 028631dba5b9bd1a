//! Failures of one client's queries, and the detection of those that a search list caused.
//!
//! The records of several workers do not arrive in the order of the queries. A name may be recognized as a product of
//! the search list after it was recorded as a failure. The failure is removed then.

use super::super::prefix::{Prefix, Prefixes};
use super::super::search_list;
use super::mark::FailureKeys;
use super::{ClientStats, FailedQuestion};
use crate::clock::Millis;
use crate::wire::rcode;

/// Most distinct failures kept; the least frequent one is evicted.
const MOST_FAILURES: usize = 64;
/// Most search-list targets kept.
const MOST_MEANT: usize = 64;

impl ClientStats {
    /// Adds a failure. A failure that a search list caused is counted for its target instead.
    pub(in crate::jobs) fn fail(&mut self, failure: FailedQuestion) {
        let name = failure.name.clone();
        let prefixes = Prefixes::of(&name);
        if failure.rcode == rcode::NXDOMAIN
            && let Some(search_targets) = self.search_target_of(&prefixes)
        {
            let new = self.search(&prefixes, search_targets, failure.times);
            if new {
                self.match_again(&prefixes, search_targets);
            }
            return;
        }
        let mark = FailureKeys::of(&prefixes, failure.qtype, failure.rcode, self.namespace());
        self.steps += self.marks.len() as u64;
        if let Some(at) = self.marks.iter().position(|old| old.key == mark.key) {
            self.merge(at, failure);
            return;
        }
        if self.failures.len() >= MOST_FAILURES {
            self.steps += self.failures.len() as u64;
            let least = least(&self.failures, |failure| (failure.times, failure.last));
            least.and_then(|at| self.take(at));
            self.left_out += 1;
        }
        // Records do not arrive in the order of the queries: this failure may show that earlier ones are search-list
        // queries.
        let begins = self.namespace().and_then(|space| search_list::before_namespace(&prefixes, space));
        self.put(failure, mark);
        if let Some(front) = begins {
            self.match_again(&prefixes, front);
        }
    }

    /// Returns the search-list target that is a prefix of this name, if the rest is of a search list.
    fn search_target_of(&mut self, name: &Prefixes<'_>) -> Option<Prefix> {
        let (mut steps, tried) = (0, &self.tried);
        let namespace = self.client.as_ref().and_then(|client| client.namespace.as_deref());
        let search_targets = search_list::search_targets(name, namespace, |hash| {
            steps += 1;
            tried.contains_key(&hash)
        });
        self.steps += steps;
        search_targets
    }

    /// Adds search-list queries to their target. Returns whether the target is new.
    fn search(&mut self, name: &Prefixes<'_>, search_targets: Prefix, times: u64) -> bool {
        self.searches += times;
        self.steps += self.meant_hashes.len() as u64;
        if let Some(at) = self.meant_hashes.iter().position(|hash| *hash == search_targets.hash) {
            self.search_targets.get_mut(at).into_iter().for_each(|(_, all)| *all += times);
            return false;
        }
        if self.search_targets.len() >= MOST_MEANT
            && let Some(at) = least(&self.search_targets, |(_, times)| (*times, 0))
        {
            self.steps += self.search_targets.len() as u64;
            let (gone, _) = self.search_targets.swap_remove(at);
            self.bytes = self.bytes.saturating_sub(search_target_weight(&gone));
            let gone = self.meant_hashes.swap_remove(at);
            self.forget_tried(gone);
        }
        let front = name.front(search_targets);
        self.bytes += search_target_weight(&front);
        self.search_targets.push((front, times));
        self.meant_hashes.push(search_targets.hash);
        *self.tried.entry(search_targets.hash).or_default() += 1;
        true
    }

    /// Removes the failures that are now recognized as search-list queries for this prefix, and counts them for it.
    fn match_again(&mut self, name: &Prefixes<'_>, front: Prefix) {
        let is_search = |mark: &FailureKeys, failure: &FailedQuestion| {
            mark.prefixes.contains(&(front.hash as u32))
                && mark.begins.is_none()
                && failure.rcode == rcode::NXDOMAIN
                && Prefixes::of(&failure.name).each().any(|prefix| prefix == front)
        };
        let mut times = 0;
        for at in (0..self.failures.len()).rev() {
            let Some((mark, failure)) = self.marks.get(at).zip(self.failures.get(at)) else { continue };
            self.steps += 1;
            if is_search(mark, failure) && !self.tried.contains_key(&mark.whole) {
                times += self.take(at).map_or(0, |failure| failure.times);
            }
        }
        if times > 0 {
            self.search(name, front, times);
        }
    }

    /// Adds occurrences to a failure in the list.
    fn merge(&mut self, at: usize, failure: FailedQuestion) {
        let Some(old) = self.failures.get_mut(at) else { return };
        self.bytes = self.bytes.saturating_sub(old.weight());
        let failure = FailedQuestion {
            qtype: if failure.first < old.first { failure.qtype } else { old.qtype },
            times: old.times + failure.times,
            first: old.first.min(failure.first),
            last: old.last.max(failure.last),
            ..failure
        };
        // An earlier text is better than none: a failure from the cache may have lost it.
        *old = match failure.words.is_empty() && failure.cause == old.cause {
            true => FailedQuestion { words: std::mem::take(&mut old.words), ..failure },
            false => failure,
        };
        self.bytes += old.weight();
    }

    fn put(&mut self, failure: FailedQuestion, mark: FailureKeys) {
        if let Some(front) = mark.begins {
            *self.tried.entry(front).or_default() += 1;
        }
        self.bytes += failure.weight();
        self.failures.push(failure);
        self.marks.push(mark);
    }

    pub(super) fn take(&mut self, at: usize) -> Option<FailedQuestion> {
        if at >= self.failures.len() || at >= self.marks.len() {
            return None;
        }
        let (failure, mark) = (self.failures.swap_remove(at), self.marks.swap_remove(at));
        mark.begins.into_iter().for_each(|front| self.forget_tried(front));
        self.bytes = self.bytes.saturating_sub(failure.weight());
        Some(failure)
    }

    /// Removes one piece of evidence that a search list was applied to the name with this hash.
    fn forget_tried(&mut self, hash: u64) {
        if let Some(reasons) = self.tried.get_mut(&hash) {
            *reasons = reasons.saturating_sub(1);
            if *reasons == 0 {
                self.tried.remove(&hash);
            }
        }
    }
}

impl FailedQuestion {
    /// Returns the approximate size in bytes, with the mark and an entry of `tried`.
    fn weight(&self) -> usize {
        size_of::<Self>() + self.name.len() + self.words.len() + size_of::<FailureKeys>() + TRIED_WEIGHT
    }
}

/// Approximate size of an entry of `tried`.
const TRIED_WEIGHT: usize = 2 * size_of::<(u64, u32)>();

fn search_target_weight(name: &[u8]) -> usize {
    size_of::<(Box<[u8]>, u64, u64)>() + name.len() + TRIED_WEIGHT
}

/// Returns the index of the least item.
fn least<T>(list: &[T], rank: impl Fn(&T) -> (u64, Millis)) -> Option<usize> {
    list.iter().enumerate().min_by_key(|(_, item)| rank(item)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::super::{ResponseKind, SlowQuestion};
    use super::*;
    use crate::cause::Cause;
    use crate::clients::Client;
    use crate::metrics::AnswerSource;
    use crate::wire::name::Name;
    use crate::wire::{Rcode, rtype};
    use std::sync::Arc;
    use std::time::Duration;

    /// Returns an account of a client in the namespace `ci`.
    fn of_namespace() -> ClientStats {
        let client = Client {
            kind: crate::clients::client::ClientKind::Pod,
            name: "a".into(),
            namespace: Some("ci".into()),
            uid: Some("1".into()),
            labels: Box::default(),
            more_labels: false,
            job: None,
            memo: Default::default(),
            search: None,
        };
        ClientStats { client: Some(Arc::new(client)), ..account() }
    }

    #[test]
    fn a_search_list_is_seen_in_any_order() {
        let names = ["a.b.ci.svc.x", "a.b.svc.x", "a.b.x", "a.b", "db.ci.svc.x", "db.svc.x", "db.x"];
        for turn in 0..names.len() {
            let mut account = of_namespace();
            for at in 0..names.len() {
                account.fail(failure(names[(turn + at) % names.len()], 1, rcode::NXDOMAIN, "", 1));
            }
            account.search_targets.sort();
            let search_targets: Vec<_> = account.search_targets.iter().map(|(name, times)| (&**name, *times)).collect();
            assert_eq!(search_targets, [(&b"\x01a\x01b\x00"[..], 3), (b"\x02db\x00", 2)], "from {turn}");
            let mut failed: Vec<_> = account.failures.iter().map(|failure| failure.name.len()).collect();
            failed.sort_unstable();
            assert_eq!((account.searches, failed), (5, vec![5, 13]), "a.b and db.ci.svc.x, from {turn}");
        }
    }

    fn account() -> ClientStats {
        ClientStats::new(None, [10, 0, 0, 1].into(), 0)
    }

    fn failure(name: &str, qtype: u16, rcode: Rcode, words: &str, at: Millis) -> FailedQuestion {
        FailedQuestion {
            name: name.parse::<Name>().expect(name).as_wire().into(),
            qtype: qtype.into(),
            route: None,
            rcode,
            cause: Cause::of_rcode(rcode).expect("a failure"),
            words: words.into(),
            times: 1,
            first: at,
            last: at,
        }
    }

    #[test]
    fn equal_failures_are_one_and_keep_their_words() {
        let mut account = account();
        account.fail(failure("a.b", 1, rcode::SERVFAIL, "words", 5));
        account.fail(failure("a.b", 1, rcode::SERVFAIL, "", 9));
        account.fail(failure("a.b", 28, rcode::SERVFAIL, "", 9));
        account.fail(failure("c.d", 1, rcode::NXDOMAIN, "", 9));
        account.fail(failure("c.d", 28, rcode::NXDOMAIN, "", 10));
        let reported: Vec<_> =
            account.failures.iter().map(|f| (f.qtype, f.times, f.first, f.last, f.cause, &*f.words)).collect();
        let expected = [
            (rtype::A, 2, 5, 9, Cause::UpstreamFailed, "words"),
            (rtype::AAAA, 1, 9, 9, Cause::UpstreamFailed, ""),
            (rtype::A, 2, 9, 10, Cause::NoSuchName, ""),
        ];
        assert_eq!(reported, expected);
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
    fn its_weight_is_that_of_its_lists() {
        let mut account = account();
        let long = vec!["b"; 100].join(".");
        for n in 0..300 {
            account.fail(failure(&format!("n{}.{long}", n % 90), 1, rcode::NXDOMAIN, "", n));
            account.fail(failure(&format!("a.b{}.c.ci.svc.cluster.local", n % 80), 1, rcode::NXDOMAIN, "", n));
            account.fail(failure(&format!("n{}.x", n % 90), 1, rcode::SERVFAIL, &"text".repeat(n as usize % 7), n));
            let name = vec![0; n as usize % 200].into();
            account.wait(SlowQuestion {
                name,
                qtype: rtype::A,
                route: None,
                rcode: rcode::NOERROR,
                took: Duration::from_millis(n % 50),
            });
            account.add(ResponseKind {
                route: Some(n.to_string().into()),
                rcode: rcode::NOERROR,
                source: AnswerSource::Hit,
                times: 1,
            });
        }
        let failures: usize = account.failures.iter().map(FailedQuestion::weight).sum();
        let slowest: usize = account.slowest.iter().map(SlowQuestion::weight).sum();
        let search_targets: usize = account.search_targets.iter().map(|(name, _)| search_target_weight(name)).sum();
        let kinds = account.kinds.len() * size_of::<ResponseKind>();
        assert_eq!(account.weight(), size_of::<ClientStats>() + failures + slowest + search_targets + kinds);
        assert_eq!((account.search_targets.len(), account.tried.len()), (MOST_MEANT, MOST_MEANT));
        assert_eq!((account.marks.len(), account.failures.len()), (MOST_FAILURES, MOST_FAILURES));
    }

    #[test]
    fn what_made_room_is_tried_no_more() {
        let mut account = of_namespace();
        account.fail(failure("db.ci.svc.x", 1, rcode::NXDOMAIN, "", 1));
        account.fail(failure("db.svc.x", 1, rcode::NXDOMAIN, "", 1));
        assert_eq!((account.searches, account.failures.len()), (1, 1));
        for n in 0..MOST_MEANT {
            (0..2).for_each(|_| account.fail(failure(&format!("a.b{n}.ci.svc.x"), 1, rcode::NXDOMAIN, "", 2)));
        }
        for n in 0..MOST_FAILURES {
            (0..2).for_each(|_| account.fail(failure(&format!("n{n}.y"), 1, rcode::NXDOMAIN, "", 2)));
        }
        let before = account.searches;
        account.fail(failure("db.x", 1, rcode::NXDOMAIN, "", 3));
        assert_eq!(account.searches, before, "nothing says any more that db was tried");
        assert!(account.failures.iter().any(|failure| failure.last == 3));
    }
}

//! What one client asked, and how it fared: bounded, whatever it asks.
//!
//! A note costs the same whatever names it has and however many there were before: what is known is found by hash, in lists
//! of fixed length, and each look at an item of these is counted as a step. `failures` has what failed and what a search
//! list caused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::sentence::sentence;
use super::whose::ReportedCounts;
use crate::cause::Cause;
use crate::clients::Client;
use crate::clock::Millis;
use crate::metrics::Source;
use crate::wire::{Rcode, RrType, rcode};

mod failures;
mod mark;

use mark::Mark;

/// The slowest answers kept.
const MOST_SLOW: usize = 20;
/// Kinds of answers counted apart; more are counted as of no route.
const MOST_KINDS: usize = 128;

/// One client's account.
#[derive(Clone, Debug)]
pub struct ClientStats {
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
    pub(super) told: ReportedCounts,
    /// One for each of the failures.
    marks: Vec<Mark>,
    /// The hashes of the names that were meant.
    meant_hashes: Vec<u64>,
    /// By hash, the names for which a search list was tried: how many failures and names that were meant say so.
    tried: HashMap<u64, u32, RandomState>,
    /// Bytes of all its lists, about.
    bytes: usize,
    /// Looks at items of its lists, see [`Self::take_steps`].
    steps: u64,
}

/// The failures that an excerpt shows.
#[derive(Clone, Copy, Debug)]
pub enum Pick<'a> {
    /// All of them, and everything else as well.
    All,
    /// So many, the latest first.
    Latest(usize),
    /// The latest one of this name, in lower-case wire form.
    Of(&'a [u8]),
}

/// An excerpt of an account, and names that exist and are like those that failed: a list for each failure.
#[derive(Clone, Debug)]
pub struct Excerpt {
    /// The account with the failures that were wanted.
    pub account: ClientStats,
    /// For each of the failures: see [`Existing::like`](super::existing::Existing::like).
    pub like: Vec<Vec<Box<[u8]>>>,
}

/// Answers of one kind.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The route's label; none: nodens answered by itself.
    pub route: Option<Arc<str>>,
    /// The response code.
    pub rcode: Rcode,
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
    pub qtype: RrType,
    /// The route's label.
    pub route: Option<Arc<str>>,
    /// The response code.
    pub rcode: Rcode,
    /// From the query to its answer.
    pub took: Duration,
}

/// A question that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The name in lower-case wire form.
    pub name: Box<[u8]>,
    /// The type; of a name that does not exist, the first that was asked for.
    pub qtype: RrType,
    /// The route's label; none: nodens answered by itself.
    pub route: Option<Arc<str>>,
    /// The response code.
    pub rcode: Rcode,
    /// Why.
    pub cause: Cause,
    /// The words that came with it.
    pub words: Box<str>,
    /// How often.
    pub times: u64,
    /// When first.
    pub first: Millis,
    /// When last.
    pub last: Millis,
}

impl ClientStats {
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
            told: ReportedCounts::default(),
            marks: Vec::new(),
            meant_hashes: Vec::new(),
            tried: HashMap::default(),
            bytes: size_of::<Self>(),
            steps: 0,
        }
    }

    /// A copy for readers, with these failures.
    pub fn excerpt(&self, pick: Pick<'_>) -> Self {
        let failures = match pick {
            Pick::All => self.failures.clone(),
            Pick::Latest(most) => {
                let mut latest: Vec<&Failure> = self.failures.iter().collect();
                latest.sort_by_key(|failure| (std::cmp::Reverse((failure.last, failure.times)), &failure.name));
                latest.into_iter().take(most).cloned().collect()
            }
            Pick::Of(name) => {
                let of_name = self.failures.iter().filter(|failure| *failure.name == *name);
                of_name.max_by_key(|failure| failure.last).cloned().into_iter().collect()
            }
        };
        let all = matches!(pick, Pick::All);
        Self {
            kinds: self.kinds.clone(),
            slowest: if all { self.slowest.clone() } else { Vec::new() },
            failures,
            searches: self.searches,
            meant: if all { self.meant.clone() } else { Vec::new() },
            left_out: self.left_out,
            first: self.first,
            last: self.last,
            ..Self::new(self.client.clone(), self.address, self.first)
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
        sentence(failure.cause, &failure.name, failure.route.as_ref(), self.namespace(), &failure.words)
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

    /// From now on it is this client's.
    pub(in crate::jobs) fn belongs_to(&mut self, client: &Arc<Client>) {
        let namespace = self.namespace() == client.namespace.as_deref();
        self.client = Some(Arc::clone(client));
        if !namespace {
            // A network that the configuration names has another namespace after a reload.
            let failures: Vec<Failure> = (0..self.failures.len()).rev().filter_map(|at| self.take(at)).collect();
            failures.into_iter().for_each(|failure| self.fail(failure));
        }
    }

    /// More answers of a kind.
    pub(super) fn add(&mut self, more: Kind) {
        let same =
            |kind: &&mut Kind| (kind.rcode, kind.source) == (more.rcode, more.source) && kind.route == more.route;
        self.steps += self.kinds.len() as u64;
        if let Some(kind) = self.kinds.iter_mut().find(same) {
            kind.times += more.times;
        } else if self.kinds.len() < MOST_KINDS {
            self.bytes += size_of::<Kind>();
            self.kinds.push(more);
        } else {
            self.add_beyond(more);
        }
    }

    /// More answers of a kind that finds no room: without a route, and among the codes of the same label, they are of few.
    fn add_beyond(&mut self, more: Kind) {
        let like = |kind: &&mut Kind| {
            kind.route.is_none() && kind.source == more.source && kind.rcode.label() == more.rcode.label()
        };
        self.steps += self.kinds.len() as u64;
        match self.kinds.iter_mut().find(like) {
            Some(kind) => kind.times += more.times,
            None => {
                self.bytes += size_of::<Kind>();
                self.kinds.push(Kind { route: None, ..more });
            }
        }
    }

    /// An answer that took its time.
    pub(super) fn wait(&mut self, slow: Slow) {
        self.steps += 1;
        let at = self.slowest.partition_point(|other| other.took >= slow.took);
        if at < MOST_SLOW {
            self.bytes += slow.weight();
            for gone in self.slowest.drain(self.slowest.len().min(MOST_SLOW - 1)..) {
                self.bytes = self.bytes.saturating_sub(gone.weight());
            }
            self.slowest.insert(at, slow);
        }
    }

    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        self.bytes
    }

    /// Looks at items of its lists since the last call: what its notes have cost.
    pub(super) fn take_steps(&mut self) -> u64 {
        std::mem::take(&mut self.steps)
    }
}

impl Slow {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.name.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtype;

    #[test]
    fn whatever_codes_come_kinds_are_bounded() {
        let mut account = ClientStats::new(None, [10, 0, 0, 1].into(), 0);
        for number in 0..4_096_u16 {
            for source in Source::ALL {
                let route = Some(number.to_string().into()).filter(|_| number % 2 == 0);
                account.add(Kind { route, rcode: number.into(), source, times: 1 });
            }
        }
        let labels = Rcode::LABELLED + 1;
        assert!(account.kinds.len() <= MOST_KINDS + labels * Source::ALL.len(), "{}", account.kinds.len());
        assert_eq!(account.count(|_| true), 4_096 * Source::ALL.len() as u64);
        assert_eq!(account.count(|kind| kind.rcode == rcode::NXDOMAIN), Source::ALL.len() as u64);
    }

    #[test]
    fn the_slowest_are_kept_in_order() {
        let mut account = ClientStats::new(None, [10, 0, 0, 1].into(), 0);
        for millis in (0..100).chain(0..100) {
            let took = Duration::from_millis(millis);
            account.wait(Slow { name: [0].into(), qtype: rtype::A, route: None, rcode: rcode::NOERROR, took });
        }
        let took: Vec<_> = account.slowest.iter().map(|slow| slow.took.as_millis() as u64).collect();
        assert_eq!(took, (90..100).rev().flat_map(|millis| [millis, millis]).collect::<Vec<_>>());
    }
}

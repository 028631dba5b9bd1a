//! Statistics of one client: its responses and failures, within fixed bounds.
//!
//! The cost of a record depends neither on its name nor on earlier records: items are found by hash, in lists of
//! bounded length. Each visit of a list item is counted as a step. `failures` has the failures and the search-list
//! queries.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::metric_key::ReportedCounts;
use super::sentence::sentence;
use crate::cause::Cause;
use crate::clients::Client;
use crate::clock::Millis;
use crate::metrics::AnswerSource;
use crate::wire::{Rcode, RrType, rcode};

mod failures;
mod mark;

use mark::FailureKeys;

/// Most slow responses kept.
const MOST_SLOW: usize = 20;
/// Most kinds of responses counted separately; further ones are counted without their route.
const MOST_KINDS: usize = 128;

/// Statistics of one client.
#[derive(Clone, Debug)]
pub struct ClientStats {
    /// Client; `None` for all unknown clients together.
    pub client: Option<Arc<Client>>,
    /// Source address of the last query.
    pub address: IpAddr,
    /// Time of the first query.
    pub first: Millis,
    /// Time of the last query.
    pub last: Millis,
    pub(crate) kinds: Vec<ResponseKind>,
    /// Slowest responses, slowest first.
    pub slowest: Vec<SlowQuestion>,
    pub(crate) failures: Vec<FailedQuestion>,
    /// Queries for names that a search list produced and that do not exist.
    pub searches: u64,
    /// Search-list targets: the names that the application asked for, with the number of search-list queries for each.
    pub search_targets: Vec<(Box<[u8]>, u64)>,
    /// Failures evicted to make room for others.
    pub left_out: u64,
    pub(super) reported: ReportedCounts,
    /// One mark for each failure.
    marks: Vec<FailureKeys>,
    /// Hashes of the names in `search_targets`.
    meant_hashes: Vec<u64>,
    /// Hashes of names to which a search list was applied, with the number of failures and search-list targets that are
    /// evidence of it.
    tried: HashMap<u64, u32, RandomState>,
    /// Approximate size in bytes, with all lists.
    bytes: usize,
    /// Visits of list items, see [`Self::take_steps`].
    steps: u64,
}

/// Selection of failures for an excerpt.
#[derive(Clone, Copy, Debug)]
pub enum Pick<'a> {
    /// All failures, and the other lists too.
    All,
    /// At most this number, latest first.
    Latest(usize),
    /// The latest failure of this name, which is in lower-case wire form.
    Of(&'a [u8]),
}

/// Excerpt of an account, with existing names that resemble the failed ones.
#[derive(Clone, Debug)]
pub struct Excerpt {
    /// Account with the selected failures.
    pub account: ClientStats,
    /// For each failure, the names that [`Existing::like`](super::existing_names::Existing::like) returns.
    pub like: Vec<Vec<Box<[u8]>>>,
}

/// Number of responses of one kind.
#[derive(Clone, Debug)]
pub struct ResponseKind {
    /// Label of the route; `None` if nodens answered by itself.
    pub route: Option<Arc<str>>,
    pub rcode: Rcode,
    /// Source of the responses.
    pub source: AnswerSource,
    pub times: u64,
}

#[derive(Clone, Debug)]
pub struct SlowQuestion {
    /// Name in lower-case wire form.
    pub name: Box<[u8]>,
    pub qtype: RrType,
    /// Label of the route.
    pub route: Option<Arc<str>>,
    pub rcode: Rcode,
    /// Time from the query to the response.
    pub took: Duration,
}

/// A question that failed.
#[derive(Clone, Debug)]
pub struct FailedQuestion {
    /// Name in lower-case wire form.
    pub name: Box<[u8]>,
    /// Query type; for NXDOMAIN, the type of the first query.
    pub qtype: RrType,
    /// Label of the route; `None` if nodens answered by itself.
    pub route: Option<Arc<str>>,
    pub rcode: Rcode,
    pub cause: Cause,
    /// Explanatory text; may be empty.
    pub words: Box<str>,
    pub times: u64,
    /// Time of the first occurrence.
    pub first: Millis,
    /// Time of the last occurrence.
    pub last: Millis,
}

impl ClientStats {
    /// Creates an empty account.
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
            search_targets: Vec::new(),
            left_out: 0,
            reported: ReportedCounts::default(),
            marks: Vec::new(),
            meant_hashes: Vec::new(),
            tried: HashMap::default(),
            bytes: size_of::<Self>(),
            steps: 0,
        }
    }

    /// Returns a copy for readers, with the selected failures.
    pub fn excerpt(&self, pick: Pick<'_>) -> Self {
        let failures = match pick {
            Pick::All => self.failures.clone(),
            Pick::Latest(most) => {
                let mut latest: Vec<&FailedQuestion> = self.failures.iter().collect();
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
            search_targets: if all { self.search_targets.clone() } else { Vec::new() },
            left_out: self.left_out,
            first: self.first,
            last: self.last,
            ..Self::new(self.client.clone(), self.address, self.first)
        }
    }

    /// Returns the client's namespace, if it is known.
    pub fn namespace(&self) -> Option<&str> {
        self.client.as_ref()?.namespace.as_deref()
    }

    /// Returns the number of responses of all kinds that `wanted` accepts.
    pub fn count(&self, wanted: impl Fn(&ResponseKind) -> bool) -> u64 {
        self.kinds.iter().filter(|kind| wanted(kind)).map(|kind| kind.times).sum()
    }

    /// Returns the number of failed responses: not NOERROR, and not a search-list query.
    pub fn failed(&self) -> u64 {
        self.count(|kind| kind.rcode != rcode::NOERROR).saturating_sub(self.searches)
    }

    /// Returns the sentence that describes one of the failures.
    pub fn sentence(&self, failure: &FailedQuestion) -> String {
        sentence(failure.cause, &failure.name, failure.route.as_ref(), self.namespace(), &failure.words)
    }

    /// Returns a sentence about the cost of the search list; `None` if there were no search-list queries.
    pub fn search_list_explanation(&self) -> Option<String> {
        let (searches, queries) = (self.searches, self.count(|_| true));
        (searches > 0).then(|| {
            format!(
                "search-list noise ({searches} of {queries} queries): names with a suffix of the search list; a \
                 final dot, or ndots: 1, avoids them"
            )
        })
    }

    /// Assigns the account to this client.
    pub(in crate::jobs) fn belongs_to(&mut self, client: &Arc<Client>) {
        let namespace = self.namespace() == client.namespace.as_deref();
        self.client = Some(Arc::clone(client));
        if !namespace {
            // The namespace of a network in the configuration may change with a reload.
            let failures: Vec<FailedQuestion> = (0..self.failures.len()).rev().filter_map(|at| self.take(at)).collect();
            failures.into_iter().for_each(|failure| self.fail(failure));
        }
    }

    /// Adds responses of a kind.
    pub(super) fn add(&mut self, more: ResponseKind) {
        let same = |kind: &&mut ResponseKind| {
            (kind.rcode, kind.source) == (more.rcode, more.source) && kind.route == more.route
        };
        self.steps += self.kinds.len() as u64;
        if let Some(kind) = self.kinds.iter_mut().find(same) {
            kind.times += more.times;
        } else if self.kinds.len() < MOST_KINDS {
            self.bytes += size_of::<ResponseKind>();
            self.kinds.push(more);
        } else {
            self.add_beyond(more);
        }
    }

    /// Adds responses of a kind for which there is no room. They are counted without route, by source and label of the
    /// code, of which there are few.
    fn add_beyond(&mut self, more: ResponseKind) {
        let like = |kind: &&mut ResponseKind| {
            kind.route.is_none() && kind.source == more.source && kind.rcode.label() == more.rcode.label()
        };
        self.steps += self.kinds.len() as u64;
        match self.kinds.iter_mut().find(like) {
            Some(kind) => kind.times += more.times,
            None => {
                self.bytes += size_of::<ResponseKind>();
                self.kinds.push(ResponseKind { route: None, ..more });
            }
        }
    }

    /// Adds a deferred response.
    pub(super) fn wait(&mut self, slow: SlowQuestion) {
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

    /// Returns the approximate size in bytes.
    pub(super) fn weight(&self) -> usize {
        self.bytes
    }

    /// Returns the number of list items visited since the last call: the cost of the records.
    pub(super) fn take_steps(&mut self) -> u64 {
        std::mem::take(&mut self.steps)
    }
}

impl SlowQuestion {
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
            for source in AnswerSource::ALL {
                let route = Some(number.to_string().into()).filter(|_| number % 2 == 0);
                account.add(ResponseKind { route, rcode: number.into(), source, times: 1 });
            }
        }
        let labels = Rcode::LABELLED + 1;
        assert!(account.kinds.len() <= MOST_KINDS + labels * AnswerSource::ALL.len(), "{}", account.kinds.len());
        assert_eq!(account.count(|_| true), 4_096 * AnswerSource::ALL.len() as u64);
        assert_eq!(account.count(|kind| kind.rcode == rcode::NXDOMAIN), AnswerSource::ALL.len() as u64);
    }

    #[test]
    fn the_slowest_are_kept_in_order() {
        let mut account = ClientStats::new(None, [10, 0, 0, 1].into(), 0);
        for millis in (0..100).chain(0..100) {
            let took = Duration::from_millis(millis);
            account.wait(SlowQuestion { name: [0].into(), qtype: rtype::A, route: None, rcode: rcode::NOERROR, took });
        }
        let took: Vec<_> = account.slowest.iter().map(|slow| slow.took.as_millis() as u64).collect();
        assert_eq!(took, (90..100).rev().flat_map(|millis| [millis, millis]).collect::<Vec<_>>());
    }
}

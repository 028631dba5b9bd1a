//! The notes of one worker between two flushes: tables of fixed size, which go to the control thread as they are.

use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::clients::StaticClients;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::metrics::Source;
use crate::wire::name::MAX_NAME;
use crate::wire::{Rcode, RrType, rtype};

/// Slots for counts; a power of two. One is one client with one kind of answer.
pub(super) const COUNTS: usize = 1_024;
/// Slots for failures; a power of two. One is one client with one question.
pub(super) const FAILURES: usize = 256;
/// Answers that took their time.
pub(super) const WAITS: usize = 512;
/// Slots for failures that one client may take: half of all. An account shows 64 failures at most, and what others are told
/// of theirs must not depend on how many this one has.
pub(super) const FAILURES_OF_A_CLIENT: u8 = 128;
/// Counters of such slots; a power of two. Clients share one by chance.
pub(super) const SHARES: usize = 128;
/// Slots looked at for one key.
pub(super) const PROBES: usize = 8;
/// Where the response code's twelve bits lie in a kind of answer: behind the sixteen of the route.
pub(super) const RCODE_AT: u32 = 16;
/// Where the source's four bits lie: behind those of the response code.
pub(super) const SOURCE_AT: u32 = 28;
/// The notes of one worker between two flushes.
pub struct Buffer {
    pub(super) routes: Arc<[Arc<str>]>,
    /// Of the configuration that it was filled under.
    pub(super) clients: Arc<StaticClients>,
    pub(super) counts: Box<[Count; COUNTS]>,
    pub(super) counted: Vec<u16>,
    pub(super) failures: Box<[Failure]>,
    pub(super) failed: Vec<u16>,
    /// Slots for failures that clients have taken.
    pub(super) shares: Box<[u8; SHARES]>,
    pub(super) waits: Vec<Wait>,
    pub(super) dropped: u64,
}

/// How often one client got one kind of answer.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// The client's address as a number; IPv4 is mapped.
    pub address: u128,
    /// Route, response code and source: see `stats_buffer`.
    pub(super) kind: u32,
    /// How often.
    pub times: u32,
    /// When the first of them was asked.
    pub first: Millis,
    /// When the last of them was asked.
    pub last: Millis,
}

/// An answer that is none, to one client.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How often.
    pub times: Count,
    pub(super) hash: u64,
    pub(super) qtype: RrType,
    pub(super) length: u8,
    pub(super) name: [u8; MAX_NAME],
    /// Why, the first time.
    pub cause: Cause,
    /// The words that came with it, the first that there were.
    pub words: Option<Box<str>>,
}

/// An answer that took its time.
#[derive(Clone, Debug)]
pub struct Wait {
    /// The client's address.
    pub address: u128,
    /// When it was asked.
    pub asked: Millis,
    /// How long it took.
    pub took: Duration,
    /// The name in lower-case wire form.
    pub name: Box<[u8]>,
    /// The type.
    pub qtype: RrType,
    /// The route; none for nodens's own answers.
    pub route: Option<RouteId>,
    /// The response code.
    pub rcode: Rcode,
}

impl Count {
    /// Nothing is counted here: no source has that number.
    const EMPTY: Self = Self { address: 0, kind: u32::MAX, times: 0, first: 0, last: 0 };

    /// The route; none for nodens's own answers.
    pub fn route(&self) -> Option<RouteId> {
        RouteId::unpack(self.kind as u16)
    }

    /// The response code.
    pub fn rcode(&self) -> Rcode {
        Rcode::from((self.kind >> RCODE_AT) as u16)
    }

    /// Where the answers came from.
    pub fn source(&self) -> Source {
        let number = (self.kind >> SOURCE_AT) as usize;
        *Source::ALL.get(number).unwrap_or(&Source::Local)
    }
}

impl Failure {
    const EMPTY: Self = Self {
        times: Count::EMPTY,
        hash: 0,
        qtype: rtype::RESERVED,
        length: 0,
        name: [0; MAX_NAME],
        cause: Cause::NoSuchName,
        words: None,
    };

    /// The question's name in lower-case wire form, and its type.
    pub fn question(&self) -> (&[u8], RrType) {
        (&self.name[..usize::from(self.length)], self.qtype)
    }
}

impl Buffer {
    pub(super) fn new(routes: Arc<[Arc<str>]>) -> Self {
        Self {
            routes,
            clients: Arc::default(),
            counts: Box::new([Count::EMPTY; COUNTS]),
            counted: Vec::with_capacity(COUNTS),
            failures: vec![Failure::EMPTY; FAILURES].into(),
            failed: Vec::with_capacity(FAILURES),
            shares: Box::new([0; SHARES]),
            waits: Vec::with_capacity(WAITS),
            dropped: 0,
        }
    }

    /// An empty one, without routes yet.
    pub(super) fn empty() -> Self {
        Self::new(Arc::default())
    }

    #[cold]
    pub(super) fn count_elsewhere(&mut self, home: usize, address: u128, kind: u32, at: Millis) {
        for at_slot in (0..PROBES).map(|step| (home + step) % COUNTS) {
            let slot = &mut self.counts[at_slot];
            if slot.times == 0 {
                *slot = Count { address, kind, times: 1, first: at, last: at };
                self.counted.push(at_slot as u16);
                return;
            }
            if slot.kind == kind && slot.address == address {
                slot.add(at);
                return;
            }
        }
        self.dropped += 1;
    }

    /// Whether it has nothing to settle.
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty() && self.failed.is_empty() && self.waits.is_empty() && self.dropped == 0
    }

    /// Number of its notes.
    pub(super) fn len(&self) -> u64 {
        (self.counted.len() + self.failed.len() + self.waits.len()) as u64 + self.dropped
    }

    /// The label of a route; none for none.
    pub fn route(&self, route: Option<RouteId>) -> Option<&Arc<str>> {
        self.routes.get(route?.index())
    }

    /// The clients of the configuration that it was filled under.
    pub fn clients(&self) -> &StaticClients {
        &self.clients
    }

    /// All counts.
    pub fn counts(&self) -> impl Iterator<Item = &Count> {
        self.counted.iter().map(|at| &self.counts[usize::from(*at)])
    }

    /// All failures, in the order in which they first came.
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.failed.iter().map(|at| &self.failures[usize::from(*at)])
    }

    /// All that took their time.
    pub fn waits(&self) -> &[Wait] {
        &self.waits
    }

    /// What found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Empties it, once it has been settled.
    pub(super) fn clear(&mut self) {
        for at in self.counted.drain(..) {
            self.counts[usize::from(at)] = Count::EMPTY;
        }
        for at in self.failed.drain(..) {
            let slot = &mut self.failures[usize::from(at)];
            (slot.times, slot.words) = (Count::EMPTY, None);
        }
        self.shares.fill(0);
        self.waits.clear();
        (self.dropped, self.routes, self.clients) = (0, Arc::default(), Arc::default());
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} notes)", self.len())
    }
}

impl Count {
    #[inline]
    pub(super) fn add(&mut self, at: Millis) {
        self.times += 1;
        self.first = self.first.min(at);
        self.last = self.last.max(at);
    }
}

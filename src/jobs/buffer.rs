//! Records of one worker between two flushes: tables of fixed size, which are handed over as they are.

use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::clients::StaticClients;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::metrics::AnswerSource;
use crate::wire::name::MAX_NAME;
use crate::wire::{Rcode, RrType, rtype};

/// Slots for counts, one for each client and kind of response; a power of two.
pub(super) const COUNTS: usize = 1_024;
/// Slots for failures, one for each client, question and response code; a power of two.
pub(super) const FAILURES: usize = 256;
/// Most deferred responses recorded.
pub(super) const WAITS: usize = 512;
/// Most failure slots of one client: half of all. An account has 64 failures at most, and the reports to other clients
/// must not depend on the number of failures of one client.
pub(super) const FAILURES_OF_A_CLIENT: u8 = 128;
/// Counters of failure slots in use, by client; a power of two. Several clients may share one.
pub(super) const SHARES: usize = 128;
/// Slots probed for one key.
pub(super) const PROBES: usize = 8;
/// Position of the twelve bits of the response code in a kind: above the sixteen of the route.
pub(super) const RCODE_AT: u32 = 16;
/// Position of the four bits of the source in a kind: above those of the response code.
pub(super) const SOURCE_AT: u32 = 28;
/// Records of one worker between two flushes.
pub struct Buffer {
    pub(super) routes: Arc<[Arc<str>]>,
    /// Clients of the configuration under which the buffer was filled.
    pub(super) clients: Arc<StaticClients>,
    pub(super) counts: Box<[ResponseCount; COUNTS]>,
    pub(super) counted: Vec<u16>,
    pub(super) failures: Box<[ClientFailure]>,
    pub(super) failed: Vec<u16>,
    /// Number of failure slots in use, by client.
    pub(super) shares: Box<[u8; SHARES]>,
    pub(super) waits: Vec<Wait>,
    pub(super) dropped: u64,
}

/// Number of responses of one kind to one client.
#[derive(Clone, Copy, Debug)]
pub struct ResponseCount {
    /// The client's address as a number; IPv4 addresses are mapped.
    pub address: u128,
    /// Route, response code and source: see `stats_buffer`.
    pub(super) kind: u32,
    pub times: u32,
    /// Time of the first query.
    pub first: Millis,
    /// Time of the last query.
    pub last: Millis,
}

/// A failed question of one client.
#[derive(Clone, Debug)]
pub struct ClientFailure {
    /// How often the question failed, and when it did last.
    pub times: ResponseCount,
    pub(super) hash: u64,
    pub(super) qtype: RrType,
    pub(super) length: u8,
    pub(super) name: [u8; MAX_NAME],
    /// Cause of the first occurrence.
    pub cause: Cause,
    /// First explanatory text that was available.
    pub words: Option<Box<str>>,
}

/// A deferred response: one that was not sent in the batch of its query.
#[derive(Clone, Debug)]
pub struct Wait {
    /// Address of the client; an IPv4 address is mapped into IPv6.
    pub address: u128,
    /// Time of the query.
    pub asked: Millis,
    /// Time from the query to the response.
    pub took: Duration,
    /// Name in lower-case wire form.
    pub name: Box<[u8]>,
    /// Query type.
    pub qtype: RrType,
    /// Route; `None` for nodens's own answers.
    pub route: Option<RouteId>,
    /// Response code.
    pub rcode: Rcode,
}

impl ResponseCount {
    /// Empty slot. The kind is invalid: no source has that number.
    const EMPTY: Self = Self { address: 0, kind: u32::MAX, times: 0, first: 0, last: 0 };

    /// Returns the route; `None` for nodens's own answers.
    pub fn route(&self) -> Option<RouteId> {
        RouteId::unpack(self.kind as u16)
    }

    /// Returns the response code.
    pub fn rcode(&self) -> Rcode {
        Rcode::from((self.kind >> RCODE_AT) as u16)
    }

    /// Returns the source of the responses.
    pub fn source(&self) -> AnswerSource {
        let number = (self.kind >> SOURCE_AT) as usize;
        *AnswerSource::ALL.get(number).unwrap_or(&AnswerSource::Local)
    }
}

impl ClientFailure {
    const EMPTY: Self = Self {
        times: ResponseCount::EMPTY,
        hash: 0,
        qtype: rtype::RESERVED,
        length: 0,
        name: [0; MAX_NAME],
        cause: Cause::NoSuchName,
        words: None,
    };

    /// Returns the question's name in lower-case wire form, and its type.
    pub fn question(&self) -> (&[u8], RrType) {
        (&self.name[..usize::from(self.length)], self.qtype)
    }
}

impl Buffer {
    pub(super) fn new(routes: Arc<[Arc<str>]>) -> Self {
        Self {
            routes,
            clients: Arc::default(),
            counts: Box::new([ResponseCount::EMPTY; COUNTS]),
            counted: Vec::with_capacity(COUNTS),
            failures: vec![ClientFailure::EMPTY; FAILURES].into(),
            failed: Vec::with_capacity(FAILURES),
            shares: Box::new([0; SHARES]),
            waits: Vec::with_capacity(WAITS),
            dropped: 0,
        }
    }

    /// Creates an empty buffer without routes.
    pub(super) fn empty() -> Self {
        Self::new(Arc::default())
    }

    #[cold]
    pub(super) fn count_elsewhere(&mut self, home: usize, address: u128, kind: u32, at: Millis) {
        for at_slot in (0..PROBES).map(|step| (home + step) % COUNTS) {
            let slot = &mut self.counts[at_slot];
            if slot.times == 0 {
                *slot = ResponseCount { address, kind, times: 1, first: at, last: at };
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

    /// Reports whether there is nothing to merge.
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty() && self.failed.is_empty() && self.waits.is_empty() && self.dropped == 0
    }

    /// Returns the number of records, dropped ones included.
    pub(super) fn len(&self) -> u64 {
        (self.counted.len() + self.failed.len() + self.waits.len()) as u64 + self.dropped
    }

    /// Returns the label of a route.
    pub fn route(&self, route: Option<RouteId>) -> Option<&Arc<str>> {
        self.routes.get(route?.index())
    }

    /// Returns the clients of the configuration under which the buffer was filled.
    pub fn clients(&self) -> &StaticClients {
        &self.clients
    }

    pub(crate) fn counts(&self) -> impl Iterator<Item = &ResponseCount> {
        self.counted.iter().map(|at| &self.counts[usize::from(*at)])
    }

    /// Returns all failures, in the order of their first occurrence.
    pub fn failures(&self) -> impl Iterator<Item = &ClientFailure> {
        self.failed.iter().map(|at| &self.failures[usize::from(*at)])
    }

    /// Returns all deferred responses.
    pub fn waits(&self) -> &[Wait] {
        &self.waits
    }

    /// Returns the number of records dropped for lack of room.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Empties the buffer after it has been merged.
    pub(super) fn clear(&mut self) {
        for at in self.counted.drain(..) {
            self.counts[usize::from(at)] = ResponseCount::EMPTY;
        }
        for at in self.failed.drain(..) {
            let slot = &mut self.failures[usize::from(at)];
            (slot.times, slot.words) = (ResponseCount::EMPTY, None);
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

impl ResponseCount {
    #[inline]
    pub(super) fn add(&mut self, at: Millis) {
        self.times += 1;
        self.first = self.first.min(at);
        self.last = self.last.max(at);
    }
}

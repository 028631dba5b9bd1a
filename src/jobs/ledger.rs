//! What one worker notes of its clients between two settlements: who got how many answers of which kind, and what failed.
//!
//! Two open tables of fixed size, so that a hit costs one look at a slot: no allocation, no lock, no name of a client. What
//! finds no room is counted as dropped. Who an address was is looked up when the ledger is settled (see
//! [`super::Jobs::settle`]), with the times of the queries.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Millis;
use crate::clients::key;
use crate::metrics::Source;
use crate::query_log::Sampler;
use crate::wire::name::MAX_NAME;

/// How long a worker keeps what it noted, at most, while queries come.
pub const SETTLE_EVERY: Millis = 100;
/// The route of what took none: nodens's own answers.
pub const NO_ROUTE: u16 = u16::MAX;

/// Slots for counts; a power of two. One is one client with one kind of answer.
const COUNTS: usize = 1_024;
/// Slots for failures; a power of two. One is one client with one question.
const FAILURES: usize = 256;
/// Answers that took their time.
const WAITS: usize = 512;
/// Slots looked at for one key.
const PROBES: usize = 8;

/// A worker's notes.
pub struct Ledger {
    routes: Arc<[Arc<str>]>,
    counts: Box<[Count; COUNTS]>,
    counted: Vec<u16>,
    failures: Box<[Failure]>,
    failed: Vec<u16>,
    waits: Vec<Wait>,
    /// Which of the answers are logged.
    pub log: Sampler,
    dropped: u64,
    settled: Millis,
    /// So that no client can choose addresses that collide.
    seed: u64,
}

/// How often one client got one kind of answer.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// The client's address as a number; IPv4 is mapped.
    pub address: u128,
    kind: u32,
    /// How often.
    pub times: u32,
    /// When the first of them was asked.
    pub first: Millis,
    /// When the last of them was asked.
    pub last: Millis,
}

/// What a failure is known by.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// The name in lower-case wire form.
    pub name: &'a [u8],
    /// Its hash, with that of the rest of the question.
    pub hash: u64,
    /// The type.
    pub qtype: u16,
    /// The route's number, or [`NO_ROUTE`].
    pub route: u16,
    /// The response code.
    pub rcode: u16,
    /// Where the answer came from.
    pub source: Source,
}

/// An answer that is none, to one client.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How often.
    pub times: Count,
    hash: u64,
    qtype: u16,
    length: u8,
    name: [u8; MAX_NAME],
    /// The extended errors that came with it, as whole options.
    pub errors: Option<Box<[u8]>>,
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
    pub qtype: u16,
    /// The route's number, or [`NO_ROUTE`].
    pub route: u16,
    /// The response code.
    pub rcode: u16,
}

impl Count {
    /// Nothing is counted here.
    const EMPTY: Self = Self { address: 0, kind: u32::MAX, times: 0, first: 0, last: 0 };

    /// The route's number, or [`NO_ROUTE`].
    pub fn route(&self) -> u16 {
        self.kind as u16
    }

    /// The response code; 15 stands for all larger ones.
    pub fn rcode(&self) -> u16 {
        (self.kind >> 16) as u16 & 0xf
    }

    /// Where the answers came from.
    pub fn source(&self) -> Source {
        let number = (self.kind >> 20) as usize;
        *Source::ALL.get(number).unwrap_or(&Source::Local)
    }
}

impl Failure {
    const EMPTY: Self = Self { times: Count::EMPTY, hash: 0, qtype: 0, length: 0, name: [0; MAX_NAME], errors: None };

    /// The question's name in lower-case wire form, and its type.
    pub fn question(&self) -> (&[u8], u16) {
        (&self.name[..usize::from(self.length)], self.qtype)
    }
}

impl Ledger {
    /// An empty one for routes with these labels.
    pub fn new(routes: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self {
            routes: routes.into_iter().map(|label| label.as_ref().into()).collect(),
            counts: Box::new([Count::EMPTY; COUNTS]),
            counted: Vec::with_capacity(COUNTS),
            failures: vec![Failure::EMPTY; FAILURES].into(),
            failed: Vec::with_capacity(FAILURES),
            waits: Vec::with_capacity(WAITS),
            log: Sampler::off(),
            dropped: 0,
            settled: 0,
            seed: rand::random(),
        }
    }

    /// From now on routes have these labels, whatever their number; the notes must have been settled.
    pub fn follow(&mut self, routes: &Arc<[Arc<str>]>) {
        self.routes = Arc::clone(routes);
    }

    /// Counts an answer to a query of `client` that was asked at `now`: no answer before it was to a later query, but by
    /// [`Self::count_late`].
    #[inline]
    pub fn count(&mut self, client: IpAddr, route: u16, rcode: u16, source: Source, now: Millis) {
        let (address, kind) = (key(client), kind(route, rcode, source));
        let home = home(address, kind, self.seed);
        let slot = &mut self.counts[home];
        if slot.kind == kind && slot.address == address {
            slot.times += 1;
            slot.last = now;
        } else {
            self.count_elsewhere(home, address, kind, now);
        }
    }

    /// The same for an answer that took its time: it was asked earlier than those that were answered meanwhile.
    pub fn count_late(&mut self, client: IpAddr, route: u16, rcode: u16, source: Source, asked: Millis) {
        let (address, kind) = (key(client), kind(route, rcode, source));
        self.count_elsewhere(home(address, kind, self.seed), address, kind, asked);
    }

    #[cold]
    fn count_elsewhere(&mut self, home: usize, address: u128, kind: u32, at: Millis) {
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

    /// Notes a failure, beside its count. `errors` gives the extended errors of the first of its like.
    pub fn fail(&mut self, client: IpAddr, failed: Failed<'_>, at: Millis, errors: impl FnOnce() -> Option<Box<[u8]>>) {
        let (address, kind) = (key(client), kind(failed.route, failed.rcode, failed.source));
        let hash = failed.hash ^ u64::from(failed.rcode).rotate_right(8);
        let home = spread(fold(address) ^ hash ^ self.seed, FAILURES);
        for at_slot in (0..PROBES).map(|step| (home + step) % FAILURES) {
            let slot = &mut self.failures[at_slot];
            if slot.times.times == 0 {
                let length = failed.name.len().min(MAX_NAME);
                slot.times = Count { address, kind, times: 1, first: at, last: at };
                (slot.hash, slot.qtype, slot.length) = (hash, failed.qtype, length as u8);
                slot.name[..length].copy_from_slice(&failed.name[..length]);
                slot.errors = errors();
                self.failed.push(at_slot as u16);
                return;
            }
            if slot.hash == hash && slot.times.address == address {
                slot.times.add(at);
                if slot.errors.is_none() {
                    slot.errors = errors();
                }
                return;
            }
        }
        self.dropped += 1;
    }

    /// Notes how long an answer took that was not given at once.
    pub fn wait(&mut self, client: IpAddr, wait: Wait) {
        match self.waits.len() < WAITS {
            true => self.waits.push(Wait { address: key(client), ..wait }),
            false => self.dropped += 1,
        }
    }

    /// Whether it is time to settle.
    #[inline]
    pub fn is_due(&self, now: Millis) -> bool {
        now >= self.settled + SETTLE_EVERY
    }

    /// Whether there is nothing to settle.
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty() && self.failed.is_empty() && self.waits.is_empty() && self.dropped == 0
    }

    /// The label of a route, if it has that number.
    pub fn route(&self, route: u16) -> Option<&Arc<str>> {
        self.routes.get(usize::from(route))
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

    /// Begins anew: it has been settled.
    pub fn clear(&mut self, now: Millis) {
        for at in self.counted.drain(..) {
            self.counts[usize::from(at)] = Count::EMPTY;
        }
        for at in self.failed.drain(..) {
            let slot = &mut self.failures[usize::from(at)];
            (slot.times, slot.errors) = (Count::EMPTY, None);
        }
        self.waits.clear();
        (self.dropped, self.settled) = (0, now);
    }
}

impl Count {
    #[inline]
    fn add(&mut self, at: Millis) {
        self.times += 1;
        self.first = self.first.min(at);
        self.last = self.last.max(at);
    }
}

#[inline]
fn kind(route: u16, rcode: u16, source: Source) -> u32 {
    u32::from(route) | u32::from(rcode.min(15)) << 16 | (source as u32) << 20
}

#[inline]
fn home(address: u128, kind: u32, seed: u64) -> usize {
    spread(fold(address) ^ u64::from(kind) << 32 ^ seed, COUNTS)
}

#[inline]
fn fold(address: u128) -> u64 {
    address as u64 ^ (address >> 64) as u64
}

/// A slot of `slots`, a power of two, by the upper bits of a product (Fibonacci hashing).
#[inline]
fn spread(bits: u64, slots: usize) -> usize {
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - slots.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rcode;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn failed(name: &[u8], hash: u64) -> Failed<'_> {
        Failed { name, hash, qtype: 1, route: 0, rcode: rcode::NXDOMAIN, source: Source::Hit }
    }

    #[test]
    fn each_client_and_kind_is_counted_by_itself() {
        let mut ledger = Ledger::new(["."]);
        let two: IpAddr = "2001:db8::2".parse().expect("an address");
        for at in 1..=3 {
            ledger.count(ONE, 0, rcode::NOERROR, Source::Hit, at);
        }
        ledger.count(ONE, 0, rcode::NXDOMAIN, Source::Hit, 4);
        ledger.count(ONE, NO_ROUTE, rcode::NOERROR, Source::Local, 5);
        ledger.count(two, 0, rcode::BADVERS, Source::Upstream, 7);
        ledger.count_late(two, 0, rcode::BADVERS, Source::Upstream, 6);
        let mut counts: Vec<_> = ledger
            .counts()
            .map(|c| (c.address == key(two), c.route(), c.rcode(), c.source(), c.times, c.first, c.last))
            .collect();
        counts.sort_by_key(|count| count.5);
        let expected = [
            (false, 0, rcode::NOERROR, Source::Hit, 3, 1, 3),
            (false, 0, rcode::NXDOMAIN, Source::Hit, 1, 4, 4),
            (false, NO_ROUTE, rcode::NOERROR, Source::Local, 1, 5, 5),
            (true, 0, 15, Source::Upstream, 2, 6, 7),
        ];
        assert_eq!(counts, expected);
        ledger.clear(1_000);
        assert!(ledger.is_empty() && ledger.counts().next().is_none());
        assert!(!ledger.is_due(1_000 + SETTLE_EVERY - 1) && ledger.is_due(1_000 + SETTLE_EVERY));
    }

    #[test]
    fn a_failure_keeps_the_first_words_that_it_gets() {
        let mut ledger = Ledger::new(["."]);
        ledger.fail(ONE, failed(b"\x01a\x00", 7), 1, || None);
        ledger.fail(ONE, failed(b"\x01a\x00", 7), 2, || Some(Box::new([1])));
        ledger.fail(ONE, failed(b"\x01a\x00", 7), 3, || Some(Box::new([2])));
        ledger.fail(ONE, failed(b"\x02bc\x00", 8), 4, || None);
        let failures: Vec<_> =
            ledger.failures().map(|f| (f.question().0, f.times.times, f.times.last, f.errors.as_deref())).collect();
        assert_eq!(failures, [(&b"\x01a\x00"[..], 3, 3, Some(&[1][..])), (b"\x02bc\x00", 1, 4, None)]);
    }

    #[test]
    fn what_finds_no_room_is_counted_as_dropped() {
        let mut ledger = Ledger::new(["."]);
        for number in 0..10_000_u32 {
            ledger.count(IpAddr::V4(number.into()), 0, rcode::NOERROR, Source::Hit, 1);
            ledger.fail(ONE, failed(b"\x01a\x00", u64::from(number)), 1, || None);
        }
        let noted = ledger.counts().count() + ledger.failures().count();
        assert!(noted <= COUNTS + FAILURES && noted > (COUNTS + FAILURES) / 2, "{noted}");
        assert_eq!(ledger.dropped(), 20_000 - noted as u64);
    }
}

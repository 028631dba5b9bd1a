//! Per-worker recording of responses by client and kind, and of failures, between two flushes.
//!
//! Two open-addressing tables of fixed size. A hit costs one slot access: no allocation, no lock, no attribution.
//! Records that find no room are counted as dropped. A filled buffer is swapped with an empty one (see `handoff`).
//! Addresses are attributed when the buffer is merged (see [`super::Jobs::merge_counts`]), with the times of the queries.

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

pub use super::buffer::{Buffer, ClientFailure, Wait};
use super::buffer::{
    COUNTS, FAILURES, FAILURES_OF_A_CLIENT, PROBES, RCODE_AT, ResponseCount, SHARES, SOURCE_AT, WAITS,
};
use crate::cause::Cause;
use crate::clients::{StaticClients, key};
use crate::clock::Millis;
use crate::config::RouteId;
use crate::metrics::AnswerSource;
use crate::query_log::Sampler;
use crate::wire::name::MAX_NAME;
use crate::wire::{Rcode, RrType};

/// Longest time that a worker keeps records before it hands them over, while queries come.
pub const SETTLE_EVERY: Millis = 100;

/// Most buffers of earlier configurations that wait to be handed over. A reload adds one, and the next flush takes all.
const MOST_LEFT: usize = 4;

/// Records of one worker.
pub struct StatsBuffer {
    buffer: Buffer,
    /// Buffers that were filled under earlier configurations and are not handed over yet.
    left: Vec<Buffer>,
    /// Selects the queries that are logged.
    pub log: Sampler,
    settled: Millis,
    /// Random seed: prevents clients from choosing addresses that collide.
    seed: u64,
}

/// A failure as it is recorded.
#[derive(Clone, Copy, Debug)]
pub struct RecordedFailure<'a> {
    /// Name in lower-case wire form.
    pub name: &'a [u8],
    /// Hash of the name and the rest of the question.
    pub hash: u64,
    /// Query type.
    pub qtype: RrType,
    /// Route; `None` for nodens's own answers.
    pub route: Option<RouteId>,
    /// Response code.
    pub rcode: Rcode,
    /// Source of the response.
    pub source: AnswerSource,
    /// Cause of the failure.
    pub cause: Cause,
}

impl StatsBuffer {
    /// Creates an empty instance for routes with these labels and a configuration without clients: see
    /// [`Self::follow`].
    pub fn new(routes: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self {
            buffer: Buffer::new(routes.into_iter().map(|label| label.as_ref().into()).collect()),
            left: Vec::new(),
            log: Sampler::off(),
            settled: 0,
            seed: rand::random(),
        }
    }

    /// Counts a response to a query that `client` sent at `now`. `now` must not decrease from call to call; for earlier
    /// queries there is [`Self::count_late`].
    #[inline]
    pub fn count(&mut self, client: IpAddr, route: Option<RouteId>, rcode: Rcode, source: AnswerSource, now: Millis) {
        let (address, kind) = (key(client), kind(route, rcode, source));
        let home = home(address, kind, self.seed);
        let slot = &mut self.buffer.counts[home];
        if slot.kind == kind && slot.address == address {
            slot.times += 1;
            slot.last = now;
        } else {
            self.buffer.count_elsewhere(home, address, kind, now);
        }
    }

    /// Counts a deferred response. Its query may be older than queries that were counted meanwhile.
    pub fn count_late(
        &mut self,
        client: IpAddr,
        route: Option<RouteId>,
        rcode: Rcode,
        source: AnswerSource,
        asked: Millis,
    ) {
        let (address, kind) = (key(client), kind(route, rcode, source));
        self.buffer.count_elsewhere(home(address, kind, self.seed), address, kind, asked);
    }

    /// Records a failure, in addition to its count. `words` returns the explanatory text, whose length must be bounded;
    /// it is called until it returns one for this failure.
    pub fn fail(
        &mut self,
        client: IpAddr,
        failed: RecordedFailure<'_>,
        at: Millis,
        words: impl FnOnce() -> Option<Box<str>>,
    ) {
        let (address, kind) = (key(client), kind(failed.route, failed.rcode, failed.source));
        let hash = failed.hash ^ u64::from(u16::from(failed.rcode)).rotate_right(8);
        let home = spread(fold(address) ^ hash ^ self.seed, FAILURES);
        for at_slot in (0..PROBES).map(|step| (home + step) % FAILURES) {
            let slot = &mut self.buffer.failures[at_slot];
            if slot.times.times == 0 {
                let taken = &mut self.buffer.shares[spread(fold(address) ^ self.seed, SHARES)];
                if *taken >= FAILURES_OF_A_CLIENT {
                    break;
                }
                *taken += 1;
                let length = failed.name.len().min(MAX_NAME);
                slot.times = ResponseCount { address, kind, times: 1, first: at, last: at };
                (slot.hash, slot.qtype, slot.length) = (hash, failed.qtype, length as u8);
                slot.name[..length].copy_from_slice(&failed.name[..length]);
                (slot.cause, slot.words) = (failed.cause, words());
                self.buffer.failed.push(at_slot as u16);
                return;
            }
            if slot.hash == hash && slot.times.address == address {
                slot.times.add(at);
                if slot.words.is_none() {
                    slot.words = words();
                }
                return;
            }
        }
        self.buffer.dropped += 1;
    }

    /// Records the duration of a deferred response.
    pub fn wait(&mut self, client: IpAddr, wait: Wait) {
        match self.buffer.waits.len() < WAITS {
            true => self.buffer.waits.push(Wait { address: key(client), ..wait }),
            false => self.buffer.dropped += 1,
        }
    }

    /// Reports whether a flush is due.
    #[inline]
    pub fn is_due(&self, now: Millis) -> bool {
        now >= self.settled + SETTLE_EVERY
    }

    /// Reports whether there is nothing to hand over.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.left.is_empty()
    }

    /// Returns all failures since the last flush, in the order of their first occurrence.
    pub fn failures(&self) -> impl Iterator<Item = &ClientFailure> {
        self.buffer.failures()
    }

    /// Returns the label of a route.
    pub fn route(&self, route: Option<RouteId>) -> Option<&Arc<str>> {
        self.buffer.route(route)
    }

    /// Switches to the route labels and clients of a new configuration. Earlier records are handed over first, with the
    /// labels and clients of their configuration.
    pub fn follow(&mut self, routes: &Arc<[Arc<str>]>, clients: &Arc<StaticClients>) {
        if !self.buffer.is_empty() {
            self.left.push(mem::replace(&mut self.buffer, Buffer::empty()));
        }
        while self.left.len() > MOST_LEFT {
            self.buffer.dropped += self.left.remove(0).len();
        }
        (self.buffer.routes, self.buffer.clients) = (Arc::clone(routes), Arc::clone(clients));
    }

    /// Returns the buffer that is to be handed over next, if there is one with records.
    pub(super) fn filled(&self) -> Option<&Buffer> {
        self.left.first().or(Some(&self.buffer)).filter(|buffer| !buffer.is_empty())
    }

    /// Removes the buffer that [`Self::filled`] returns. Replaces the current buffer with `empty` where it was that
    /// one.
    pub(super) fn swap(&mut self, mut empty: Buffer) -> Buffer {
        match self.left.is_empty() {
            false => self.left.remove(0),
            true => {
                empty.routes = Arc::clone(&self.buffer.routes);
                empty.clients = Arc::clone(&self.buffer.clients);
                mem::replace(&mut self.buffer, empty)
            }
        }
    }

    /// Records that everything was handed over at `now`.
    pub(super) fn flushed(&mut self, now: Millis) {
        self.settled = now;
    }
}

#[inline]
fn kind(route: Option<RouteId>, rcode: Rcode, source: AnswerSource) -> u32 {
    u32::from(RouteId::pack(route)) | u32::from(u16::from(rcode)) << RCODE_AT | (source as u32) << SOURCE_AT
}

#[inline]
fn home(address: u128, kind: u32, seed: u64) -> usize {
    spread(fold(address) ^ u64::from(kind) << 32 ^ seed, COUNTS)
}

#[inline]
fn fold(address: u128) -> u64 {
    address as u64 ^ (address >> 64) as u64
}

/// Returns a slot below `slots`, a power of two, from the upper bits of a product (Fibonacci hashing).
#[inline]
fn spread(bits: u64, slots: usize) -> usize {
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - slots.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{rcode, rtype};

    const ROUTE: Option<RouteId> = RouteId::of_index(0);
    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn failed(name: &[u8], hash: u64) -> RecordedFailure<'_> {
        RecordedFailure {
            name,
            hash,
            qtype: rtype::A,
            route: ROUTE,
            rcode: rcode::NXDOMAIN,
            source: AnswerSource::Hit,
            cause: Cause::NoSuchName,
        }
    }

    #[test]
    fn each_client_and_kind_is_counted_by_itself() {
        let mut stats_buffer = StatsBuffer::new(["."]);
        let two: IpAddr = "2001:db8::2".parse().expect("an address");
        for at in 1..=3 {
            stats_buffer.count(ONE, ROUTE, rcode::NOERROR, AnswerSource::Hit, at);
        }
        stats_buffer.count(ONE, ROUTE, rcode::NXDOMAIN, AnswerSource::Hit, 4);
        stats_buffer.count(ONE, None, rcode::NOERROR, AnswerSource::Local, 5);
        stats_buffer.count(two, ROUTE, rcode::BADVERS, AnswerSource::Upstream, 7);
        stats_buffer.count_late(two, ROUTE, rcode::BADVERS, AnswerSource::Upstream, 6);
        let mut counts: Vec<_> = stats_buffer
            .buffer
            .counts()
            .map(|c| (c.address == key(two), c.route(), c.rcode(), c.source(), c.times, c.first, c.last))
            .collect();
        counts.sort_by_key(|count| count.5);
        let expected = [
            (false, ROUTE, rcode::NOERROR, AnswerSource::Hit, 3, 1, 3),
            (false, ROUTE, rcode::NXDOMAIN, AnswerSource::Hit, 1, 4, 4),
            (false, None, rcode::NOERROR, AnswerSource::Local, 1, 5, 5),
            (true, ROUTE, rcode::BADVERS, AnswerSource::Upstream, 2, 6, 7),
        ];
        assert_eq!(counts, expected);
        let mut filled = stats_buffer.swap(Buffer::empty());
        stats_buffer.flushed(1_000);
        assert!(stats_buffer.is_empty() && stats_buffer.buffer.counts().next().is_none());
        assert_eq!((stats_buffer.route(ROUTE).map(|label| &**label), filled.counts().count()), (Some("."), 4));
        filled.clear();
        assert!(filled.is_empty() && filled.counts().next().is_none());
        assert!(!stats_buffer.is_due(1_000 + SETTLE_EVERY - 1) && stats_buffer.is_due(1_000 + SETTLE_EVERY));
    }

    #[test]
    fn a_failure_keeps_the_first_words_that_it_gets() {
        let mut stats_buffer = StatsBuffer::new(["."]);
        stats_buffer.fail(ONE, failed(b"\x01a\x00", 7), 1, || None);
        stats_buffer.fail(ONE, failed(b"\x01a\x00", 7), 2, || Some("first".into()));
        stats_buffer.fail(ONE, failed(b"\x01a\x00", 7), 3, || Some("second".into()));
        stats_buffer.fail(ONE, failed(b"\x02bc\x00", 8), 4, || None);
        let failures: Vec<_> = stats_buffer
            .buffer
            .failures()
            .map(|f| (f.question().0, f.times.times, f.times.last, f.words.as_deref()))
            .collect();
        assert_eq!(failures, [(&b"\x01a\x00"[..], 3, 3, Some("first")), (b"\x02bc\x00", 1, 4, None)]);
    }

    #[test]
    fn what_finds_no_room_is_counted_as_dropped() {
        let mut stats_buffer = StatsBuffer::new(["."]);
        for number in 0..10_000_u32 {
            let client = IpAddr::V4(number.into());
            stats_buffer.count(client, ROUTE, rcode::NOERROR, AnswerSource::Hit, 1);
            stats_buffer.fail(client, failed(b"\x01a\x00", u64::from(number)), 1, || None);
        }
        let noted = stats_buffer.buffer.counts().count() + stats_buffer.buffer.failures().count();
        assert!(noted <= COUNTS + FAILURES && noted > (COUNTS + FAILURES) / 2, "{noted}");
        assert_eq!(stats_buffer.buffer.dropped(), 20_000 - noted as u64);
    }

    #[test]
    fn one_client_leaves_room_for_the_failures_of_others() {
        let mut stats_buffer = StatsBuffer::new(["."]);
        (0..10_000).for_each(|number| stats_buffer.fail(ONE, failed(b"\x01a\x00", number), 1, || None));
        assert_eq!(stats_buffer.buffer.failures().count(), usize::from(FAILURES_OF_A_CLIENT));
        let others = 10..30_u8;
        for other in others.clone() {
            stats_buffer
                .fail(IpAddr::from([10, 0, 1, other]), failed(b"\x01b\x00", u64::from(other) << 32), 1, || None);
        }
        // One or two may share the greedy client's counter by chance.
        let noted = stats_buffer.buffer.failures().count() - usize::from(FAILURES_OF_A_CLIENT);
        assert!(noted + 3 >= others.len(), "{noted} of {}", others.len());
    }

    #[test]
    fn counts_of_earlier_epochs_come_first_and_bounded() {
        let mut stats_buffer = StatsBuffer::new(["0"]);
        for reload in 1..=8 {
            stats_buffer.count(ONE, ROUTE, rcode::NOERROR, AnswerSource::Hit, 1);
            stats_buffer.follow(&[Arc::from(reload.to_string())].into(), &Arc::default());
        }
        stats_buffer.count(ONE, ROUTE, rcode::NOERROR, AnswerSource::Hit, 1);
        let mut routes = Vec::new();
        while stats_buffer.filled().is_some() {
            let buffer = stats_buffer.swap(Buffer::empty());
            routes.push(buffer.route(ROUTE).map(|label| label.to_string()).unwrap_or_default());
        }
        assert_eq!(routes, ["4", "5", "6", "7", "8"]);
    }
}

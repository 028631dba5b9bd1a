//! Cached response: fresh, stale or expired; a failed refresh is recorded on it.
//!
//! ```text
//! born ──────────── fresh ────────── TTL ends ───────── stale ───────── expired
//!        TTLs counted down                 only when a refresh fails or is late (RFC 8767)
//! ```
//!
//! A failure is an entry too, without records: SERVFAIL, remembered for 1 s, then twice as long for each further failure in
//! succession, up to `failure_max_ttl` (RFC 9520). A stale entry whose refresh failed carries the failure beside its response.

use std::sync::Arc;

use crate::cause::Cause;
use crate::clock::Millis;
use crate::config::RouteId;
use crate::wire::fit::CachedMessage;
use crate::wire::response::{AnswerKind, ResponseMessage};
use crate::wire::store::{CacheableMessage, store};
use crate::wire::{Rcode, flag, rcode};

/// Time that a first failure is remembered, in milliseconds (RFC 9520 section 3.2: at least one second).
pub const FIRST_FAILURE: u32 = 1_000;
/// Longest time that a failure may be remembered, in milliseconds, whatever the configuration says (RFC 9520 section 3.2).
pub const LONGEST_FAILURE: u32 = 300_000;
/// Largest TTL (RFC 2181 section 8).
const LONGEST_TTL: u32 = i32::MAX as u32;

/// Response and its times. Cheap to clone: its bytes are shared.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Message without OPT, then the TTL offsets, then extended errors.
    pub(super) bytes: Arc<[u8]>,
    pub(super) wire_len: u16,
    pub(super) ttl_count: u16,
    /// Response code.
    pub rcode: Rcode,
    /// Cause of a failure; `None` for an answer.
    pub cause: Option<Cause>,
    /// True if a trusted upstream set AD.
    pub(super) authentic: bool,
    /// Time of the response.
    pub born: Millis,
    /// End of its TTL.
    pub expires: Millis,
    /// Scope that the entry is valid in: see [`CacheScope`].
    pub scope: CacheScope,
    /// Number of times that the entry was served; counted only as far as it matters.
    pub hits: u8,
    /// True if a prefetch of the entry is in flight.
    pub refreshing: bool,
    /// True if the upstream is a cache itself, whose TTLs count down: an early prefetch gains nothing.
    pub upstream_ages: bool,
    /// Number of addresses that rotate: see [`CachedMessage::rotation`]. Negative if rotation is disabled.
    pub(super) rotation: i8,
    pub(super) spells: bool,
    /// Failure of the last refresh, or of the query if there was no response at all; `until` is zero if there is none.
    pub(super) failed: CachedFailure,
}

/// Configuration that an entry depends on: as a fingerprint that is comparable across reloads, and as the route under the
/// configuration that last confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheScope {
    /// Last confirmation of the fingerprint; `None` for an entry of another process before its first confirmation.
    confirmed: Option<Confirmed>,
    /// Fingerprint of the route and its upstreams; equal for equal ones across reloads.
    pub scope_fingerprint: u32,
}

/// Route of an entry under one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Confirmed {
    /// Generation of the configuration.
    generation: u32,
    route: RouteId,
}

const _: () = assert!(size_of::<CacheScope>() == 12);

impl CacheScope {
    /// Returns the scope of an answer that came through `route` of the configuration of this generation.
    pub const fn new(generation: u32, route: RouteId, scope_fingerprint: u32) -> Self {
        Self { confirmed: Some(Confirmed { generation, route }), scope_fingerprint }
    }

    /// Returns the scope of an answer of another process.
    pub const fn unconfirmed(scope_fingerprint: u32) -> Self {
        Self { confirmed: None, scope_fingerprint }
    }

    /// Returns the route, if the fingerprint was confirmed under the configuration of this generation.
    #[inline]
    pub fn route_under(self, generation: u32) -> Option<RouteId> {
        self.confirmed.filter(|confirmed| confirmed.generation == generation).map(|confirmed| confirmed.route)
    }
}

/// Remembered failure (RFC 9520).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedFailure {
    /// Time until which no server is queried for the question.
    pub until: Millis,
    /// Duration of the failure in milliseconds.
    pub span: u32,
    /// Recovery count of the upstream group at that time: once it has increased, the failure no longer counts.
    pub recoveries: u32,
}

/// Use of an entry at a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Serve it; its age in seconds.
    Fresh(u32),
    /// Past its TTL, but usable as a substitute while upstreams fail.
    Stale,
    /// Failure that is still remembered, with no response to serve.
    Failed,
    /// Past its TTL and past the time that it may be served stale.
    Expired,
}

/// Settings for new entries.
#[derive(Clone, Copy, Debug)]
pub struct EntryLimits {
    /// Largest TTL of a positive answer, in seconds.
    pub max_ttl: u32,
    /// Largest TTL of a negative answer, in seconds.
    pub negative_max_ttl: u32,
    /// True if addresses rotate (`cache.rotate`).
    pub rotate: bool,
}

impl Entry {
    /// Creates an entry from a response. It may be served once in any case; [`Entry::is_kept`] says whether it may be cached.
    pub fn from_reply(
        response: &ResponseMessage<'_>,
        limits: EntryLimits,
        trust_ad: bool,
        scope: CacheScope,
        now: Millis,
    ) -> Self {
        let cap = match response.kind() {
            AnswerKind::Positive => limits.max_ttl,
            // Without SOA a negative answer has no TTL (RFC 2308 section 5).
            _ => response.negative_ttl().unwrap_or(0).min(limits.negative_max_ttl),
        };
        // The cap bounds every record, so the least TTL of all is the lifetime, also of CNAMEs before a negative end.
        let CacheableMessage { wire: mut bytes, ttls, least_ttl, rotation, spells } =
            store(response, cap.min(LONGEST_TTL));
        let cacheable = response.flags & flag::TC == 0 && matches!(response.rcode, rcode::NOERROR | rcode::NXDOMAIN);
        let lifetime = least_ttl.filter(|_| cacheable).unwrap_or(0);
        // No message is longer than 65,535 bytes.
        let wire_len = bytes.len() as u16;
        bytes.reserve(2 * ttls.len() + response.extended_errors.len());
        ttls.iter().for_each(|at| bytes.extend_from_slice(&at.to_be_bytes()));
        bytes.extend_from_slice(&response.extended_errors);
        Self {
            wire_len,
            ttl_count: ttls.len() as u16,
            bytes: bytes.into(),
            rcode: response.rcode,
            cause: Cause::of_response(response.rcode, &response.extended_errors),
            authentic: trust_ad && response.flags & flag::AD != 0,
            born: now,
            expires: now + Millis::from(lifetime) * 1000,
            scope,
            hits: 0,
            refreshing: false,
            upstream_ages: false,
            rotation: if limits.rotate { rotation } else { -rotation },
            spells,
            failed: CachedFailure::NONE,
        }
    }

    /// Creates a failure without a response to serve: SERVFAIL to `question` for this cause, with `extended_errors` as whole
    /// options.
    pub fn failure(
        question: &[u8],
        (cause, extended_errors): (Cause, &[u8]),
        scope: CacheScope,
        failed: CachedFailure,
        now: Millis,
    ) -> Self {
        let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(question);
        let wire_len = bytes.len() as u16;
        bytes.extend_from_slice(extended_errors);
        Self {
            bytes: bytes.into(),
            wire_len,
            ttl_count: 0,
            rcode: rcode::SERVFAIL,
            cause: Some(cause),
            authentic: false,
            born: now,
            expires: now,
            scope,
            hits: 0,
            refreshing: false,
            upstream_ages: false,
            rotation: 0,
            spells: false,
            failed,
        }
    }

    /// Replaces the cause; for an answer that nodens gives itself, wholly or in part.
    pub fn with_cause(self, cause: Option<Cause>) -> Self {
        Self { cause, ..self }
    }

    /// Returns the use of the entry at `now`, if it may be served for `stale` milliseconds past its TTL.
    #[inline]
    pub fn freshness(&self, now: Millis, stale: Millis) -> Freshness {
        if now < self.expires {
            // TTLs are whole seconds: an answer half a second old has lost none yet.
            return Freshness::Fresh((now.saturating_sub(self.born) / 1000) as u32);
        }
        if self.rcode != rcode::SERVFAIL && self.is_kept() && now < self.expires + stale {
            return Freshness::Stale;
        }
        if now < self.failed.until { Freshness::Failed } else { Freshness::Expired }
    }

    /// Returns whether the entry has a lifetime (not with TTL 0, a negative answer without SOA, or a truncated response).
    pub fn is_kept(&self) -> bool {
        self.expires > self.born
    }

    /// Returns the entry's failure, if it has one or is one.
    pub fn failed(&self) -> Option<CachedFailure> {
        Some(self.failed).filter(|failed| failed.until > 0)
    }

    /// Records that a refresh failed.
    pub fn fail(&mut self, failed: CachedFailure) {
        self.failed = failed;
        self.refreshing = false;
    }

    /// Returns the whole lifetime in milliseconds.
    pub fn lifetime(&self) -> Millis {
        self.expires - self.born
    }

    /// Returns the response, as [`crate::wire::fit`] takes it.
    #[inline]
    pub fn cached_message(&self) -> CachedMessage<'_> {
        let (wire, rest) = self.bytes.split_at(usize::from(self.wire_len));
        let (ttls, extended_errors) = rest.split_at(usize::from(self.ttl_count) * 2);
        CachedMessage {
            wire,
            ttls,
            extended_errors,
            rcode: self.rcode,
            authentic: self.authentic,
            rotation: self.rotation,
            spells: self.spells,
        }
    }

    /// Enables or disables the rotation of addresses.
    pub fn rotate(&mut self, may: bool) {
        let count = self.rotation.saturating_abs();
        self.rotation = if may { count } else { -count };
    }

    /// Returns whether the answer section has records.
    pub fn has_answers(&self) -> bool {
        self.bytes.get(6..8).is_some_and(|count| count != [0, 0])
    }

    /// Returns the bytes of the allocation, divided by the number of its current users.
    pub fn share_of_bytes(&self) -> usize {
        self.heap_size() / Arc::strong_count(&self.bytes).max(1)
    }

    /// Returns the bytes of the allocation: the shared bytes and the two reference counts.
    pub(super) fn heap_size(&self) -> usize {
        self.bytes.len() + 2 * size_of::<usize>()
    }
}

impl CachedFailure {
    pub(super) const NONE: Self = Self { until: 0, span: 0, recoveries: 0 };

    /// Returns the failure, recorded now, of an attempt that began at `began`, after `previous` or as the first one; it lasts
    /// at most `longest` milliseconds.
    pub fn after(previous: Option<Self>, recoveries: u32, began: Millis, now: Millis, longest: u32) -> Self {
        // A failure long past, or before a recovery, does not prolong this one.
        let recent =
            previous.filter(|last| last.recoveries == recoveries && now < last.until + Millis::from(LONGEST_FAILURE));
        // All clients that waited for one attempt record its failure: only an attempt that began after the last record is
        // another.
        let span = recent.map_or(FIRST_FAILURE, |last| match began < last.until - Millis::from(last.span) {
            true => last.span,
            false => last.span * 2,
        });
        let span = span.min(longest.clamp(FIRST_FAILURE, LONGEST_FAILURE));
        Self { until: now + Millis::from(span), span, recoveries }
    }

    /// Returns the failure of a question for which no server was queried: it does not keep later queries from being sent.
    pub fn unasked(now: Millis) -> Self {
        Self { until: now.max(1), span: 0, recoveries: 0 }
    }

    /// Returns whether no server was queried.
    pub fn is_unasked(&self) -> bool {
        self.span == 0
    }

    /// Returns whether the failure still keeps upstreams from being queried.
    pub fn holds(&self, recoveries: u32, now: Millis) -> bool {
        now < self.until && self.recoveries == recoveries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{RrType, rtype};

    const LIMITS: EntryLimits = EntryLimits { max_ttl: 1000, negative_max_ttl: 100, rotate: true };
    const HOME: CacheScope = CacheScope::unconfirmed(3);

    /// Returns an entry of a response to `a. A` with these flags and records, each with its section, type and TTL.
    fn entry(flags: u16, records: &[(usize, RrType, u32)]) -> Entry {
        let mut bytes = b"\0\0\x80\0\0\x01\0\0\0\0\0\0\x01a\x00\0\x01\0\x01".to_vec();
        bytes[2..4].copy_from_slice(&(flag::QR | flags).to_be_bytes());
        for (section, rtype, ttl) in records {
            bytes[7 + 2 * section] += 1;
            let rdata: &[u8] = match *rtype {
                rtype::CNAME => b"\x01a\x00",
                rtype::SOA => b"\x00\x00\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x3c",
                _ => &[1, 2, 3, 4],
            };
            bytes.extend([&[0xc0, 12][..], &rtype.to_be_bytes(), &[0, 1], &ttl.to_be_bytes()].concat());
            bytes.extend([&(rdata.len() as u16).to_be_bytes(), rdata].concat());
        }
        Entry::from_reply(&ResponseMessage::read(&bytes).expect("a reply"), LIMITS, true, HOME, 5_000)
    }

    #[test]
    fn lifetimes() {
        let (a, cname, ns, soa) = (rtype::A, rtype::CNAME, rtype::NS, rtype::SOA);
        for (what, flags, records, seconds) in [
            ("the least of all", 0, &[(0, a, 300), (1, ns, 200), (2, a, 250)][..], 200),
            ("but what is additional", 0, &[(0, a, 300), (2, a, 0)], 300),
            ("capped", 0, &[(0, a, 5000)], 1000),
            ("a top bit", 0, &[(0, a, 0x8000_0001)], 1000),
            ("zero", 0, &[(0, a, 0)], 0),
            ("no data, by MINIMUM", 0, &[(1, soa, 300)], 60),
            ("no data, by the record's own TTL", 0, &[(1, soa, 30)], 30),
            ("no such name behind an alias that lives shorter", 3, &[(0, cname, 7), (1, soa, 300)], 7),
            ("negative without SOA", 3, &[], 0),
            ("a referral", 0, &[(1, ns, 300)], 0),
            ("an alias to nowhere", 0, &[(0, cname, 300)], 0),
            ("truncated", flag::TC, &[(0, a, 300)], 0),
            ("a failure with records", 2, &[(0, a, 300)], 0),
        ] {
            let entry = entry(flags, records);
            assert_eq!((entry.lifetime() / 1000, entry.is_kept()), (seconds, seconds > 0), "{what}");
        }
    }

    #[test]
    fn fresh_stale_gone() {
        let mut cached_message = entry(0, &[(0, rtype::A, 10)]);
        for (now, freshness) in [
            (5_000, Freshness::Fresh(0)),
            (5_999, Freshness::Fresh(0)),
            (14_999, Freshness::Fresh(9)),
            (15_000, Freshness::Stale),
            (24_999, Freshness::Stale),
            (25_000, Freshness::Expired),
        ] {
            assert_eq!(cached_message.freshness(now, 10_000), freshness, "at {now}");
        }
        assert_eq!(cached_message.freshness(15_000, 0), Freshness::Expired);
        cached_message.fail(CachedFailure { until: 30_000, span: 1_000, recoveries: 0 });
        assert_eq!(cached_message.freshness(25_000, 10_000), Freshness::Failed);
        assert_eq!(entry(0, &[]).freshness(5_000, 10_000), Freshness::Expired);
    }

    #[test]
    fn failures_grow_and_are_forgotten() {
        let spans = |longest: u32| {
            let mut failed = CachedFailure::after(None, 0, 0, 0, longest);
            let spans = [(); 10].map(|()| {
                let span = failed.span / 1000;
                failed = CachedFailure::after(Some(failed), 0, failed.until, failed.until, longest);
                span
            });
            (spans, failed)
        };
        assert_eq!(spans(10_000).0, [1, 2, 4, 8, 10, 10, 10, 10, 10, 10]);
        assert_eq!(spans(0).0, [1; 10]);
        let (of_all, failed) = spans(u32::MAX);
        assert_eq!(of_all, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        const LONGEST: u32 = LONGEST_FAILURE;
        assert_eq!(CachedFailure::after(Some(failed), 1, failed.until, failed.until, LONGEST).span, FIRST_FAILURE);
        let long_after = failed.until + Millis::from(LONGEST_FAILURE);
        assert_eq!(CachedFailure::after(Some(failed), 0, long_after, long_after, LONGEST).span, FIRST_FAILURE);
        let first = CachedFailure::after(None, 0, 0, 100, LONGEST);
        assert_eq!(
            CachedFailure::after(Some(first), 0, 50, 200, LONGEST).span,
            FIRST_FAILURE,
            "noted by another who waited"
        );
        assert!(failed.holds(0, failed.until - 1) && !failed.holds(0, failed.until) && !failed.holds(1, 0));

        let entry =
            Entry::failure(b"\x01a\x00\0\x01\0\x01", (Cause::UpstreamTimeout, b"\0\x0f\0\x02\0\x16"), HOME, failed, 0);
        assert_eq!((entry.freshness(1, 10_000), entry.cached_message().rcode), (Freshness::Failed, rcode::SERVFAIL));
        assert_eq!((entry.cached_message().wire.len(), entry.cached_message().extended_errors.len()), (19, 6));
    }
}

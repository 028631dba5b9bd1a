//! One kept reply: fresh, stale or gone; and how a failed refresh is remembered on it.
//!
//! ```text
//! born ──────────── fresh ─────────── expires ───────── stale ───────── gone
//!        TTLs counted down                 only when a refresh fails or is late (RFC 8767)
//! ```
//!
//! A failure is an entry too, without records: SERVFAIL, remembered for 1 s, then twice as long each time that the next
//! try fails as well, up to 5 minutes (RFC 9520). A stale entry whose refresh failed carries the failure beside its reply.

use std::sync::Arc;

use super::Millis;
use crate::wire::fit::Kept;
use crate::wire::reply::{Kind, Reply};
use crate::wire::store::{Stored, store};
use crate::wire::{flag, rcode};

/// How long a first failure is remembered (RFC 9520 section 3.2: at least one second).
pub const FIRST_FAILURE: Millis = 1_000;
/// The longest that a failure is remembered (RFC 9520 section 3.2).
pub const LONGEST_FAILURE: Millis = 300_000;
/// The longest that any TTL may be (RFC 2181 section 8).
const LONGEST_TTL: u32 = i32::MAX as u32;

/// A reply and its times. Cheap to clone: its bytes are shared.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The message without OPT, then the TTL offsets, then extended errors.
    bytes: Arc<[u8]>,
    wire_len: u32,
    ttl_count: u16,
    /// The response code.
    pub rcode: u16,
    /// Whether a trusted upstream vouched for it.
    authentic: bool,
    /// When it came.
    pub born: Millis,
    /// When it stops being fresh.
    pub expires: Millis,
    /// Where it belongs: see [`Home`].
    pub home: Home,
    /// How often it was served since it came.
    pub hits: u32,
    /// Whether a prefetch of it is under way.
    pub refreshing: bool,
    /// Whether the upstream is a cache itself, whose TTLs count down, so that an early prefetch gains nothing.
    pub upstream_ages: bool,
    /// The failure that followed, if a refresh failed or there was no reply at all.
    pub failure: Option<Failed>,
}

/// The route that an entry came through, and since which configuration that is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The generation of the configuration under which the realm was last compared.
    pub generation: u32,
    /// The route's index in that configuration.
    pub route: u16,
    /// What the route and its upstreams are, as a number that two equal ones share across reloads.
    pub realm: u32,
}

/// A remembered failure (RFC 9520).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Until when nobody is asked again.
    pub until: Millis,
    /// For how long this is.
    pub span: Millis,
    /// The recovery count of the upstream group at that time: when it has moved on, the failure is forgotten.
    pub recoveries: u32,
}

/// What an entry is worth now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// Serve it; its age in seconds.
    Fresh(u32),
    /// Past its time, but within the time that it may stand in for dead upstreams.
    Stale,
    /// A failure that is still remembered, with nothing to serve.
    Failed,
    /// Nothing.
    Gone,
}

/// The bounds that an entry is kept within.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most seconds for a positive answer.
    pub max_ttl: u32,
    /// The most seconds for a negative one.
    pub negative_max_ttl: u32,
}

impl Entry {
    /// An entry from a reply. It may be served once in any case; [`Entry::is_kept`] says whether it may be kept.
    pub fn from_reply(reply: &Reply<'_>, limits: Limits, trust_ad: bool, home: Home, now: Millis) -> Self {
        let (cap, lifetime) = match reply.kind() {
            Kind::Positive => (limits.max_ttl, None),
            // Without SOA a negative answer has no time to live (RFC 2308 section 5).
            _ => {
                let ttl = reply.negative_ttl().unwrap_or(0).min(limits.negative_max_ttl);
                (ttl, Some(ttl))
            }
        };
        let Stored { wire, ttls, least_ttl } = store(reply, cap.min(LONGEST_TTL));
        let cacheable = reply.flags & flag::TC == 0
            && matches!(reply.rcode, rcode::NOERROR | rcode::NXDOMAIN)
            && reply.records.iter().all(|record| record.rtype != crate::wire::rtype::OPT);
        let lifetime = lifetime.or(least_ttl).filter(|_| cacheable).unwrap_or(0);
        let ttl_bytes = ttls.iter().flat_map(|at| at.to_be_bytes());
        let bytes: Vec<u8> =
            wire.iter().copied().chain(ttl_bytes).chain(reply.extended_errors.iter().copied()).collect();
        Self {
            wire_len: wire.len() as u32,
            ttl_count: ttls.len() as u16,
            bytes: bytes.into(),
            rcode: reply.rcode,
            authentic: trust_ad && reply.flags & flag::AD != 0,
            born: now,
            expires: now + Millis::from(lifetime) * 1000,
            home,
            hits: 0,
            refreshing: false,
            upstream_ages: false,
            failure: None,
        }
    }

    /// A failure without a reply to serve: SERVFAIL to `question`, with `extended_errors` as whole options.
    pub fn failure(question: &[u8], extended_errors: &[u8], home: Home, failed: Failed, now: Millis) -> Self {
        let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(question);
        let wire_len = bytes.len() as u32;
        bytes.extend_from_slice(extended_errors);
        Self {
            bytes: bytes.into(),
            wire_len,
            ttl_count: 0,
            rcode: rcode::SERVFAIL,
            authentic: false,
            born: now,
            expires: now,
            home,
            hits: 0,
            refreshing: false,
            upstream_ages: false,
            failure: Some(failed),
        }
    }

    /// What it is worth at `now`, if it may be served for `stale` past its time.
    #[inline]
    pub fn worth(&self, now: Millis, stale: Millis) -> Worth {
        if now < self.expires {
            // TTLs are whole seconds: an answer half a second old has lost none yet.
            return Worth::Fresh((now.saturating_sub(self.born) / 1000) as u32);
        }
        if self.rcode != rcode::SERVFAIL && self.is_kept() && now < self.expires + stale {
            return Worth::Stale;
        }
        match self.failure {
            Some(failed) if now < failed.until => Worth::Failed,
            _ => Worth::Gone,
        }
    }

    /// Whether it has a lifetime at all (TTL 0 is not kept, nor a negative answer without SOA, nor a truncated one).
    pub fn is_kept(&self) -> bool {
        self.expires > self.born
    }

    /// Its whole lifetime.
    pub fn lifetime(&self) -> Millis {
        self.expires - self.born
    }

    /// The reply, as [`crate::wire::fit`] takes it.
    #[inline]
    pub fn kept(&self) -> Kept<'_> {
        let (wire, rest) = self.bytes.split_at(self.wire_len as usize);
        let (ttls, extended_errors) = rest.split_at(usize::from(self.ttl_count) * 2);
        Kept { wire, ttls, extended_errors, rcode: self.rcode, authentic: self.authentic }
    }

    /// Bytes on the heap, the allocation's counters included.
    pub(super) fn heap_size(&self) -> usize {
        self.bytes.len() + 2 * size_of::<usize>()
    }
}

impl Failed {
    /// The failure after `previous`, or the first one.
    pub fn after(previous: Option<Self>, recoveries: u32, now: Millis) -> Self {
        // A failure long past, or one of before a recovery, is no reason for patience.
        let recent = previous.filter(|last| last.recoveries == recoveries && now < last.until + LONGEST_FAILURE);
        let span = recent.map_or(FIRST_FAILURE, |last| (last.span * 2).min(LONGEST_FAILURE));
        Self { until: now + span, span, recoveries }
    }

    /// Whether it still keeps upstreams from being asked.
    pub fn holds(&self, recoveries: u32, now: Millis) -> bool {
        now < self.until && self.recoveries == recoveries
    }
}

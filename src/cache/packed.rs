//! Serialized entries for another process of the same version: a new nodens takes over the cache of an old one.
//!
//! ```text
//! length of the rest │ flags and view of the key │ response code, marks, rotation, hits │ age │ remaining TTL │
//! scope fingerprint │ lengths │ response, TTL offsets, extended errors
//! ```
//!
//! Each entry keeps its standing: its queue, its position there, and its mark. Protected entries of all shards come first, and
//! in each queue those that would be evicted last. So a cache with less room, or one whose time is up, gets the most useful part.
//!
//! Times are relative, as the two processes count from different moments. The fingerprint identifies what the answer depends
//! on; route numbers may differ between the two configurations. Failures are left out: the new process detects them again soon.

use std::sync::Arc;

use super::entry::{CacheScope, CachedFailure, Entry};
use super::shard::Standing;
use super::{Cache, lock};
use crate::cause::Cause;
use crate::clock::Millis;
use crate::wire::cache_key::CacheKey;
use crate::wire::{HEADER, Rcode, name, rcode};

/// Bits of the byte that holds the properties of an entry that are true or false.
mod mark {
    pub(super) const AUTHENTIC: u8 = 1;
    pub(super) const UPSTREAM_AGES: u8 = 1 << 1;
    pub(super) const SPELLS: u8 = 1 << 2;
    pub(super) const PROTECTED: u8 = 1 << 3;
    pub(super) const ASKED_AGAIN: u8 = 1 << 4;

    pub(super) fn of(bit: u8, is_set: bool) -> u8 {
        if is_set { bit } else { 0 }
    }
}

/// Appends an entry, with the part of its key that its response does not contain; appends nothing for a failure.
fn pack(rest: [u8; CacheKey::REST], entry: &Entry, standing: Standing, now: Millis, out: &mut Vec<u8>) {
    if entry.rcode == rcode::SERVFAIL || !entry.is_kept() {
        return;
    }
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&rest);
    out.extend_from_slice(&u16::from(entry.rcode).to_be_bytes());
    let marks = [
        (mark::AUTHENTIC, entry.authentic),
        (mark::UPSTREAM_AGES, entry.upstream_ages),
        (mark::SPELLS, entry.spells),
        (mark::PROTECTED, standing.protected),
        (mark::ASKED_AGAIN, standing.asked_again),
    ];
    out.push(marks.iter().fold(0, |all, (bit, is_set)| all | mark::of(*bit, *is_set)));
    out.extend_from_slice(&entry.rotation.to_be_bytes());
    out.push(entry.hits);
    out.extend_from_slice(&now.saturating_sub(entry.born).to_be_bytes());
    out.extend_from_slice(&(entry.expires as i64 - now as i64).to_be_bytes());
    out.extend_from_slice(&entry.scope.scope_fingerprint.to_be_bytes());
    out.extend_from_slice(&entry.wire_len.to_be_bytes());
    out.extend_from_slice(&entry.ttl_count.to_be_bytes());
    out.extend_from_slice(&entry.bytes);
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Takes the first entry off `bytes`; `None` if they are malformed, the inner `None` if the entry cannot be used here.
fn unpack(bytes: &mut &[u8], now: Millis) -> Option<Option<(CacheKey, Entry, Standing)>> {
    let length = u32::from_be_bytes(take(bytes)?) as usize;
    let (mut packed, others) = bytes.split_at_checked(length)?;
    *bytes = others;
    let packed = &mut packed;
    let rest: [u8; CacheKey::REST] = take(packed)?;
    let rcode = Rcode::from(u16::from_be_bytes(take(packed)?));
    let [marks, rotation, hits] = take(packed)?;
    let age = u64::from_be_bytes(take(packed)?);
    let left = i64::from_be_bytes(take(packed)?);
    let scope_fingerprint = u32::from_be_bytes(take(packed)?);
    let wire_len = u16::from_be_bytes(take(packed)?);
    let ttl_count = u16::from_be_bytes(take(packed)?);
    let ends = usize::from(wire_len) + 2 * usize::from(ttl_count);
    let wire = packed.get(..usize::from(wire_len)).filter(|_| packed.len() >= ends)?;
    let offsets = packed.get(usize::from(wire_len)..ends)?.chunks_exact(2);
    let in_reach = |at: &[u8]| usize::from(u16::from_be_bytes([at[0], at[1]])) + 4 <= wire.len();
    let end =
        name::skip(wire, HEADER)?.checked_add(4).filter(|end| *end <= wire.len() && offsets.clone().all(in_reach))?;
    let key = CacheKey::from_parts(&wire[HEADER..end], rest)?;
    let (Some(born), Some(expires)) = (now.checked_sub(age), now.checked_add_signed(left)) else { return Some(None) };
    let entry = Entry {
        bytes: Arc::from(&**packed),
        wire_len,
        ttl_count,
        rcode,
        cause: Cause::of_response(rcode, packed.get(ends..).unwrap_or_default()),
        authentic: marks & mark::AUTHENTIC != 0,
        born,
        expires,
        scope: CacheScope::unconfirmed(scope_fingerprint),
        hits,
        refreshing: false,
        upstream_ages: marks & mark::UPSTREAM_AGES != 0,
        rotation: i8::from_be_bytes([rotation]),
        spells: marks & mark::SPELLS != 0,
        failed: CachedFailure::NONE,
    };
    let standing = Standing { protected: marks & mark::PROTECTED != 0, asked_again: marks & mark::ASKED_AGAIN != 0 };
    Some(Some((key, entry, standing)).filter(|_| expires > born))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = bytes.split_first_chunk()?;
    *bytes = others;
    Some(*first)
}

impl Cache {
    /// Passes the entries to `give`, serialized in parts of at most `part` bytes, until `give` returns false. Entries that are
    /// longer than a part are left out.
    pub fn pack(&self, now: Millis, part: usize, mut give: impl FnMut(&[u8]) -> bool) {
        for shard in self.packed_shards(now) {
            let mut rest = shard.as_slice();
            while !rest.is_empty() {
                let mut end = 0;
                while let Some(length) = rest.get(end..).and_then(|rest| rest.first_chunk()) {
                    let next = end + 4 + u32::from_be_bytes(*length) as usize;
                    if next > part {
                        break;
                    }
                    end = next;
                }
                if end == 0 {
                    // This entry alone is too long.
                    end = rest.first_chunk().map_or(rest.len(), |length| 4 + u32::from_be_bytes(*length) as usize);
                    rest = rest.get(end..).unwrap_or_default();
                    continue;
                }
                if !give(&rest[..end]) {
                    return;
                }
                rest = &rest[end..];
            }
        }
    }

    /// Returns the serialized entries of each queue of each shard; one at a time, as each takes memory beside the cache.
    fn packed_shards(&self, now: Millis) -> impl Iterator<Item = Vec<u8>> + '_ {
        let queues =
            [true, false].into_iter().flat_map(|protected| self.shards.iter().map(move |shard| (protected, shard)));
        queues.map(move |(protected, shard)| {
            let mut bytes = Vec::new();
            lock(shard).each(protected, |rest, entry, standing| pack(rest, entry, standing, now, &mut bytes));
            bytes
        })
    }

    /// Adds entries of another process, each behind all others of its queue, as far as there is room; returns the number that
    /// were readable. Entries behind a malformed one are lost.
    pub fn unpack(&self, mut bytes: &[u8], now: Millis) -> usize {
        let mut readable = 0;
        while let Some(entry) = unpack(&mut bytes, now) {
            if let Some((key, entry, standing)) = entry {
                let hash = self.hash(&key);
                self.shard(hash).restore(hash, &key, entry, standing);
                readable += 1;
            }
        }
        readable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::{EntryLimits, Freshness};
    use crate::config::RouteId;
    use crate::wire::cache_key::EffectiveViewId;
    use crate::wire::response::ResponseMessage;
    use crate::wire::rtype;

    const LIMITS: EntryLimits = EntryLimits { max_ttl: 1_000, negative_max_ttl: 100, rotate: true };

    fn entry(label: u8, ttl: u32, now: Millis) -> (CacheKey, Entry) {
        let mut bytes = b"\0\0\x81\x80\0\x01\0\x01\0\0\0\0\x01a\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01".to_vec();
        bytes[13] = label;
        bytes.extend([&ttl.to_be_bytes()[..], b"\0\x04\x01\x02\x03\x04"].concat());
        let scope = CacheScope::new(3, RouteId::of_index(2).expect("a small one"), 77);
        let response = ResponseMessage::read(&bytes).expect("a reply");
        (
            CacheKey::of_stub(&[1, label, 0], rtype::A, EffectiveViewId::of_index(1)),
            Entry::from_reply(&response, LIMITS, false, scope, now),
        )
    }

    #[test]
    fn entries_move_with_their_times() {
        let (old, new) = (Cache::new(1 << 20), Cache::new(1 << 20));
        for (label, ttl) in [(b'a', 300), (b'b', 20), (b'c', 0)] {
            let (key, entry) = entry(label, ttl, 50_000);
            old.insert(old.hash(&key), &key, entry);
        }
        let (key, _) = entry(b'd', 0, 0);
        let failed = CachedFailure { until: 90_000, span: 1_000, recoveries: 0 };
        let failure =
            Entry::failure(key.question(), (Cause::UpstreamFailed, &[]), CacheScope::unconfirmed(77), failed, 1);
        old.insert(old.hash(&key), &key, failure);
        let mut cached_message = 0;
        old.pack(80_000, 4_096, |part| {
            cached_message += new.unpack(part, 1_000_000);
            true
        });
        assert_eq!(cached_message, 2, "neither what lives no time nor a failure");
        let look = |label, now| {
            let (key, _) = entry(label, 1, 0);
            new.with(new.hash(&key), &key, |entry| {
                (entry.freshness(now, 60_000), entry.scope, entry.cached_message().wire.len())
            })
        };
        let scope = CacheScope::unconfirmed(77);
        assert_eq!(look(b'a', 1_000_000), Some((Freshness::Fresh(30), scope, 35)));
        assert_eq!(look(b'a', 1_269_999).map(|found| found.0), Some(Freshness::Fresh(299)));
        assert_eq!(look(b'a', 1_270_000).map(|found| found.0), Some(Freshness::Stale));
        assert_eq!(look(b'b', 1_000_000).map(|found| found.0), Some(Freshness::Stale), "it may still stand in");
        assert_eq!((look(b'c', 1_000_000), look(b'd', 1_000_000)), (None, None));
        let (key, _) = entry(b'a', 1, 0);
        let other = CacheKey::of_stub(key.name(), rtype::A, EffectiveViewId::of_index(2));
        assert!(new.with(new.hash(&other), &other, |_| ()).is_none(), "the effective view is a part of the key");
    }

    /// Returns the key and the entry of the `number`th of many names.
    fn numbered(number: u32) -> (CacheKey, Entry) {
        let label = number.to_be_bytes().map(|byte| b'a' + byte % 16);
        let label = [&[8][..], &label, &number.to_be_bytes().map(|byte| b'a' + byte / 16), &[0]].concat();
        let mut bytes = b"\0\0\x81\x80\0\x01\0\x01\0\0\0\0".to_vec();
        bytes.extend([&label[..], b"\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\x01\0\0\x04\x01\x02\x03\x04"].concat());
        let response = ResponseMessage::read(&bytes).expect("a response");
        let key = CacheKey::of_stub(&label, rtype::A, EffectiveViewId::COMMON);
        (key, Entry::from_reply(&response, LIMITS, false, CacheScope::unconfirmed(7), 0))
    }

    fn insert_all(cache: &Cache, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let (key, entry) = numbered(number);
            cache.insert(cache.hash(&key), &key, entry);
        }
    }

    fn has(cache: &Cache, number: u32) -> bool {
        let (key, _) = numbered(number);
        cache.with(cache.hash(&key), &key, |_| ()).is_some()
    }

    #[test]
    fn a_full_cache_moves_as_it_is() {
        const MEMORY: usize = 8 << 20;
        let old = Cache::new(MEMORY);
        insert_all(&old, 0..1_000);
        assert!((0..1_000).all(|number| has(&old, number)));
        insert_all(&old, 1_000..60_000);
        assert!(old.fill().evictions > 10_000, "it is not full");
        let new = Cache::with_keys(MEMORY, old.hash_keys());
        old.pack(0, 96 << 10, |part| new.unpack(part, 0) > 0);
        assert_eq!((new.fill().entries, new.fill().bytes), (old.fill().entries, old.fill().bytes));
        // From here on both evict alike: queues, their order and marks are the same.
        for cache in [&old, &new] {
            insert_all(cache, 60_000..75_000);
        }
        assert_eq!((0..75_000).find(|number| has(&old, *number) != has(&new, *number)), None);
        assert!((0..1_000).all(|number| has(&new, number)), "one that was asked again is gone");
    }

    #[test]
    fn a_smaller_cache_takes_what_is_asked_again() {
        let old = Cache::new(8 << 20);
        insert_all(&old, 0..2_000);
        assert!((0..2_000).all(|number| has(&old, number)));
        insert_all(&old, 2_000..60_000);
        let new = Cache::with_keys(1 << 20, old.hash_keys());
        old.pack(0, 96 << 10, |part| new.unpack(part, 0) > 0);
        assert!(new.fill().bytes <= 1 << 20);
        assert!((0..2_000).all(|number| has(&new, number)));
    }

    #[test]
    fn parts_are_bounded_and_enough_is_enough() {
        let old = Cache::new(1 << 20);
        for label in b'a'..=b'z' {
            let (key, entry) = entry(label, 300, 0);
            old.insert(old.hash(&key), &key, entry);
        }
        let mut sizes = Vec::new();
        old.pack(0, 150, |part| {
            sizes.push(part.len());
            true
        });
        assert!(sizes.iter().all(|size| *size <= 150) && sizes.iter().sum::<usize>() % 26 == 0, "{sizes:?}");
        let mut parts = 0;
        old.pack(0, 150, |_| {
            parts += 1;
            parts < 3
        });
        assert_eq!(parts, 3);
        old.pack(0, 10, |_| panic!("none is that small"));
    }

    #[test]
    fn nonsense_does_no_harm() {
        let old = Cache::new(1 << 20);
        let (key, entry) = entry(b'a', 300, 0);
        old.insert(old.hash(&key), &key, entry);
        let mut packed = Vec::new();
        old.pack(0, 4_096, |part| {
            packed = part.to_vec();
            true
        });
        for at in 0..packed.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = packed.clone();
                broken[at] = value;
                let new = Cache::new(1 << 20);
                new.unpack(&broken, 1_000);
                new.unpack(&broken[..at], 1_000);
                new.pack(2_000, 4_096, |_| true);
                new.with(new.hash(&key), &key, |entry| (entry.freshness(2_000, 1), entry.cached_message().ttls.len()));
            }
        }
    }
}

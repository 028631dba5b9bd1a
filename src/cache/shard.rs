//! Entries by key, bounded by bytes, in two segments, so that a flood of names that are queried once does not evict names that
//! are queried repeatedly:
//!
//! ```text
//! new ──► probation (a quarter) ── at its end: hit since? ──► protected (the rest) ── at its end: hit since?
//!                                               └─ no: evicted  ▲                                  │    └─ no: evicted
//!                                                               └───── yes: back to the front ─────┘
//! ```
//!
//! Each segment is a queue. A hit sets a mark on its entry and moves nothing: with a million names, each step in a list reads a
//! word that is not in the CPU's caches, and with two workers one that the other has just written. Marks are evaluated when
//! room is needed: an entry that was hit since its last round goes round once more, without its mark ("second chance"; the two
//! queues are those of S3-FIFO, Yang et al., SOSP 2023).
//!
//! The bound applies to what is actually allocated. A segment's table is allocated once, large enough for twice the entries
//! that it may hold: a table of this kind that is at most half full reclaims the slots of removed entries in place, and a
//! fuller one doubles its size.

use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;

use super::entry::Entry;
use crate::wire::HEADER;
use crate::wire::cache_key::CacheKey;

/// Divisor of a shard's memory: the share of the probation segment.
const PROBATION: usize = 4;

/// Most entries that go round before one is evicted regardless of its mark; bounds the time that an insertion holds the lock.
const MOST_ROUNDS: usize = 64;

/// Size of an entry that the table is dimensioned for, in bytes: a short name with one or two addresses. If all entries are
/// smaller, a part of the memory is unused; the table takes a tenth to a fifth of it.
const USUAL_ENTRY: usize = 256;

/// One part of the cache.
///
/// The map's key is the hash itself, computed once for shard and map. A look-up compares the full key with the entry: name,
/// type and class are the question of the response itself. If two keys have the same hash, the later one replaces the earlier
/// one, which is correct and extremely rare.
#[derive(Debug)]
pub(crate) struct Shard {
    probation: Segment,
    protected: Segment,
    evictions: u64,
}

/// Number of entries and bytes of the cache, or of a part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Number of entries, fresh and expired.
    pub entries: usize,
    /// Bytes that the entries take, overhead included.
    pub bytes: usize,
    /// Entries evicted since the start.
    pub evictions: u64,
}

impl Shard {
    /// Returns a shard that takes at most `bound` bytes.
    pub(super) fn new(bound: usize) -> Self {
        let probation = bound / PROBATION;
        Self { probation: Segment::new(probation), protected: Segment::new(bound - probation), evictions: 0 }
    }

    #[inline]
    pub(super) fn get(&mut self, hash: u64, key: &CacheKey) -> Option<&mut Entry> {
        let slot = match self.protected.entries.peek_mut(&hash) {
            Some(slot) => slot,
            None => self.probation.entries.peek_mut(&hash)?,
        };
        if !slot.is_under(key) {
            return None;
        }
        // The mark is usually set already, and a word that is not written stays in the CPU caches of other workers.
        if !slot.asked_again {
            slot.asked_again = true;
        }
        Some(&mut slot.entry)
    }

    pub(super) fn insert(&mut self, hash: u64, key: &CacheKey, entry: Entry) {
        let slot = Slot { entry, rest: key.rest(), asked_again: false };
        // A new response replaces a protected entry in its segment.
        if self.protected.remove(hash).is_some() {
            return self.protect(hash, slot);
        }
        let asked_again = self.probation.remove(hash).is_some_and(|old| old.asked_again);
        while let Some((hash, old)) = self.probation.make_room(slot.size()) {
            match old.asked_again {
                true => self.protect(hash, Slot { asked_again: false, ..old }),
                false => self.evictions += 1,
            }
        }
        self.probation.put(hash, Slot { asked_again, ..slot });
    }

    fn protect(&mut self, hash: u64, slot: Slot) {
        if self.protected.lacks_room(slot.size()) {
            self.protected.send_round();
        }
        while self.protected.make_room(slot.size()).is_some() {
            self.evictions += 1;
            self.protected.send_round();
        }
        self.protected.put(hash, slot);
    }

    pub(super) fn remove(&mut self, hash: u64, key: &CacheKey) {
        if self.get(hash, key).is_some() && self.protected.remove(hash).is_none() {
            self.probation.remove(hash);
        }
    }

    /// Passes every entry to `show`, with the part of its key that its response does not contain; protected entries and recent
    /// ones come first.
    pub(super) fn each(&self, mut show: impl FnMut([u8; CacheKey::REST], &Entry)) {
        let slots = self.protected.entries.iter().chain(self.probation.entries.iter());
        slots.for_each(|(_, slot)| show(slot.rest, &slot.entry));
    }

    pub(super) fn fill(&self) -> Fill {
        Fill {
            entries: self.probation.entries.len() + self.protected.entries.len(),
            bytes: self.probation.bytes + self.protected.bytes,
            evictions: self.evictions,
        }
    }
}

/// Queue with its share of the memory.
#[derive(Debug)]
struct Segment {
    entries: LruCache<u64, Slot, BuildHasherDefault<PrehashedHasher>>,
    limit: usize,
    bytes: usize,
    bound: usize,
}

/// Entry, with the part of its key that the question of its response does not contain.
#[derive(Debug)]
struct Slot {
    entry: Entry,
    rest: [u8; CacheKey::REST],
    /// True if the entry was served since it was inserted, or since it last went round.
    asked_again: bool,
}

/// Layout of the list's allocation for each entry, to determine its size.
struct ListNode(#[allow(dead_code)] (u64, Slot, usize, usize));

impl Segment {
    fn new(bound: usize) -> Self {
        let buckets = buckets(bound);
        // The map fills at most seven of eight buckets.
        let capacity = NonZeroUsize::MIN.saturating_add(buckets / 8 * 7 - 1);
        // The list has an empty node at either end.
        let bytes = allocated(table_size(buckets)) + 2 * allocated(size_of::<ListNode>());
        let entries = LruCache::with_hasher(capacity, BuildHasherDefault::new());
        Self { entries, limit: capacity.get() / 2, bytes, bound }
    }

    /// Removes the entry at the end, if there is no room for another of this size.
    fn make_room(&mut self, size: usize) -> Option<(u64, Slot)> {
        if !self.lacks_room(size) {
            return None;
        }
        let (hash, old) = self.entries.pop_lru()?;
        self.bytes -= old.size();
        Some((hash, old))
    }

    /// Inserts an entry in front, if there is room.
    fn put(&mut self, hash: u64, slot: Slot) {
        let size = slot.size();
        if self.has_room(size) && size <= self.bound / 2 {
            self.bytes += size;
            self.entries.put(hash, slot);
        }
    }

    /// Moves marked entries from the end to the front, until the one at the end has no mark.
    fn send_round(&mut self) {
        for _ in 0..MOST_ROUNDS.min(self.entries.len()) {
            let Some(hash) = self.entries.peek_lru().filter(|(_, slot)| slot.asked_again).map(|(hash, _)| *hash) else {
                return;
            };
            if let Some(slot) = self.entries.get_mut(&hash) {
                slot.asked_again = false;
            }
        }
    }

    /// Returns whether an entry must be evicted for another of this size. A response that takes more than half of the segment
    /// evicts nothing: it is not inserted there.
    fn lacks_room(&self, size: usize) -> bool {
        !self.has_room(size) && size <= self.bound / 2
    }

    fn remove(&mut self, hash: u64) -> Option<Slot> {
        let old = self.entries.pop(&hash)?;
        self.bytes -= old.size();
        Some(old)
    }

    fn has_room(&self, size: usize) -> bool {
        self.bytes + size <= self.bound && self.entries.len() < self.limit
    }
}

impl Slot {
    /// Returns whether the entry is stored under `key`: the response bears the key's name in lower case, its type and its
    /// class.
    #[inline]
    fn is_under(&self, key: &CacheKey) -> bool {
        self.rest == key.rest()
            && self.entry.cached_message().wire.get(HEADER..).is_some_and(|wire| wire.starts_with(key.question()))
    }

    fn size(&self) -> usize {
        allocated(size_of::<ListNode>()) + allocated(self.entry.heap_size())
    }
}

/// Returns the number of buckets of a segment's table: a power of two such that usual entries fill about 7 in 16.
fn buckets(bound: usize) -> usize {
    let wanted = bound / (USUAL_ENTRY * 7 / 16);
    let above = wanted.next_power_of_two();
    let nearest = if above - wanted > wanted - above / 2 { above / 2 } else { above };
    nearest.max(8)
}

/// Returns the bytes of a table: for each bucket two pointers and a control byte, and a group of control bytes at the end.
fn table_size(buckets: usize) -> usize {
    buckets * (2 * size_of::<usize>() + 1) + 16
}

/// Returns the bytes that an allocator takes for `len` bytes: a word before them, in steps of 16, at least 32.
fn allocated(len: usize) -> usize {
    (len + size_of::<usize>()).next_multiple_of(16).max(32)
}

/// Hasher that returns its input: the keys are hashes already.
#[derive(Default)]
struct PrehashedHasher(u64);

impl Hasher for PrehashedHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{CacheScope, CachedFailure};
    use super::*;
    use crate::wire::cache_key::EffectiveViewId;
    use crate::wire::query::Query;

    const HOME: CacheScope = CacheScope::unconfirmed(0);

    fn key(name: u8) -> CacheKey {
        let packet = [&b"\0\0\0\0\0\x01\0\0\0\0\0\0\x01"[..], &[name], b"\x00\0\x01\0\x01"].concat();
        CacheKey::new(&Query::read(&packet).expect("a query"), EffectiveViewId::COMMON)
    }

    /// Returns a failure of `key` with this many bytes of extended errors.
    fn entry(key: &CacheKey, size: usize) -> Entry {
        Entry::failure(
            key.question(),
            (crate::cause::Cause::UpstreamFailed, &vec![0; size]),
            HOME,
            CachedFailure { until: 1, span: 1, recoveries: 0 },
            0,
        )
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut shard = Shard::new(32_768);
        for (hash, name) in [(1, b'a'), (2, b'b'), (3, b'c')] {
            shard.insert(hash, &key(name), entry(&key(name), 1900));
        }
        assert!(shard.get(1, &key(b'a')).is_some());
        // The first entry makes room by moving to the protected segment; then it is the second one's turn.
        for (hash, name) in [(4, b'd'), (5, b'e')] {
            shard.insert(hash, &key(name), entry(&key(name), 1900));
        }
        let held = [(1, b'a'), (2, b'b'), (3, b'c'), (4, b'd'), (5, b'e')]
            .map(|(hash, name)| shard.get(hash, &key(name)).is_some());
        assert_eq!(held, [true, false, true, true, true]);
        assert_eq!((shard.fill().entries, shard.fill().evictions), (4, 1));
    }

    #[test]
    fn a_flood_of_names_does_not_evict_popular_entries() {
        let mut shard = Shard::new(1 << 20);
        let popular = 0..1_000u64;
        for hash in popular.clone() {
            shard.insert(hash, &key(b'p'), entry(&key(b'p'), 50));
            assert!(shard.get(hash, &key(b'p')).is_some());
        }
        // Many times the number of entries that the shard holds.
        for hash in 1_000..50_000 {
            shard.insert(hash, &key(b'f'), entry(&key(b'f'), 50));
        }
        let left = popular.filter(|hash| shard.get(*hash, &key(b'p')).is_some()).count();
        assert_eq!(left, 1_000);
        assert!(shard.fill().bytes <= 1 << 20);
    }

    #[test]
    fn what_is_asked_again_goes_round_before_it_goes() {
        let mut shard = Shard::new(1 << 20);
        // All are queried again, so all become protected, and there are more than the segment has room for.
        for hash in 0..10_000u64 {
            shard.insert(hash, &key(b'a'), entry(&key(b'a'), 50));
            assert!(shard.get(hash, &key(b'a')).is_some());
            // One of them is still queried, rarely enough to reach the end more than once.
            assert!(hash % 64 != 0 || shard.get(0, &key(b'a')).is_some(), "lost after {hash}");
        }
        assert!(shard.fill().evictions > 5_000, "{:?}", shard.fill());
    }

    #[test]
    fn a_newer_reply_stays_where_the_older_one_was() {
        let mut shard = Shard::new(1 << 20);
        shard.insert(0, &key(b'p'), entry(&key(b'p'), 50));
        assert!(shard.get(0, &key(b'p')).is_some());
        for round in 1..5 {
            shard.insert(0, &key(b'p'), entry(&key(b'p'), 50));
            for hash in round * 10_000..round * 10_000 + 9_000 {
                shard.insert(hash, &key(b'f'), entry(&key(b'f'), 50));
            }
            assert!(shard.get(0, &key(b'p')).is_some(), "round {round}");
        }
    }

    #[test]
    fn a_hash_in_common_is_not_a_key_in_common() {
        let mut shard = Shard::new(32_768);
        shard.insert(1, &key(b'a'), entry(&key(b'a'), 10));
        let one = shard.fill();
        assert!(shard.get(1, &key(b'b')).is_none());
        shard.insert(1, &key(b'b'), entry(&key(b'b'), 10));
        assert!(shard.get(1, &key(b'a')).is_none() && shard.get(1, &key(b'b')).is_some());
        assert_eq!(shard.fill(), one);
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let mut shard = Shard::new(32_768);
        let empty = shard.fill();
        shard.insert(1, &key(b'a'), entry(&key(b'a'), 10));
        // It does not leave the entry that it was to replace.
        shard.insert(1, &key(b'a'), entry(&key(b'a'), 5000));
        assert_eq!(shard.fill(), empty);
        let mut none = Shard::new(0);
        none.insert(1, &key(b'a'), entry(&key(b'a'), 10));
        assert_eq!(none.fill().entries, 0);
    }
}

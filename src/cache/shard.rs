//! Entries by key, bounded by bytes, in two queues, so that a flood of names that are queried once does not evict names that are
//! queried repeatedly:
//!
//! ```text
//! new ──► probation ── at its end: hit since? ──► protected ── at its end: hit since?
//!                             └─ no: evicted          ▲                │    └─ no: evicted
//!                                                     └─ yes: back to the front
//! ```
//!
//! Nothing is evicted while there is room. Without room, the queue of new entries gives way while it takes more than a quarter
//! of the memory, and the protected one otherwise. So a cache in which nothing was hit yet uses all of its memory.
//!
//! A hit sets a mark on its entry and moves nothing: with a million names, each step in a list reads a word that is not in the
//! CPU's caches, and with two workers one that the other has just written. Marks are evaluated when room is needed: an entry
//! that was hit since its last round goes round once more, without its mark ("second chance"; the two queues are those of
//! S3-FIFO, Yang et al., SOSP 2023).
//!
//! The bound applies to what is actually allocated. The table is allocated once, large enough for twice the entries that it may
//! hold: a table of this kind that is at most half full reclaims the slots of removed entries in place, and a fuller one doubles
//! its size.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;

use super::entry::Entry;
use crate::wire::HEADER;
use crate::wire::cache_key::CacheKey;

/// Divisor of a shard's memory: the share that new entries keep when room is needed.
const PROBATION: usize = 4;

/// Divisor of a shard's memory: the most that one entry may take. A larger one is not cached, and so evicts nothing.
const LARGEST: usize = 8;

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
    /// All entries. Their order is that of the protected ones; the position of an entry on probation has no meaning.
    entries: LruCache<u64, Slot, BuildHasherDefault<PrehashedHasher>>,
    /// Hashes of the entries on probation; the newest is in front.
    probation: VecDeque<u64>,
    /// Bytes of the entries on probation.
    probation_bytes: usize,
    limit: usize,
    bytes: usize,
    bound: usize,
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

/// Properties of an entry that decide when it is evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// True if the entry has left probation.
    pub(super) protected: bool,
    /// True if the entry was served since it was inserted, or since it last went round.
    pub(super) asked_again: bool,
}

/// Entry, with the part of its key that the question of its response does not contain.
#[derive(Debug)]
struct Slot {
    entry: Entry,
    rest: [u8; CacheKey::REST],
    standing: Standing,
}

/// Layout of the list's allocation for each entry, to determine its size.
struct ListNode(#[allow(dead_code)] (u64, Slot, usize, usize));

impl Shard {
    /// Returns a shard that takes at most `bound` bytes.
    pub(super) fn new(bound: usize) -> Self {
        let buckets = buckets(bound);
        // The map fills at most seven of eight buckets.
        let capacity = NonZeroUsize::MIN.saturating_add(buckets / 8 * 7 - 1);
        let (limit, probation) = (capacity.get() / 2, VecDeque::with_capacity(capacity.get() / 2));
        // The list has an empty node at either end.
        let bytes = allocated(table_size(buckets))
            + allocated(probation.capacity() * size_of::<u64>())
            + 2 * allocated(size_of::<ListNode>());
        let entries = LruCache::with_hasher(capacity, BuildHasherDefault::new());
        Self { entries, probation, probation_bytes: 0, limit, bytes, bound, evictions: 0 }
    }

    #[inline]
    pub(super) fn get(&mut self, hash: u64, key: &CacheKey) -> Option<&mut Entry> {
        let slot = self.entries.peek_mut(&hash).filter(|slot| slot.is_under(key))?;
        // The mark is usually set already, and a word that is not written stays in the CPU caches of other workers.
        if !slot.standing.asked_again {
            slot.standing.asked_again = true;
        }
        Some(&mut slot.entry)
    }

    /// Inserts an entry. It takes the place of an earlier one under its key.
    pub(super) fn insert(&mut self, hash: u64, key: &CacheKey, entry: Entry) {
        let slot = Slot { entry, rest: key.rest(), standing: Standing::default() };
        let size = slot.size();
        if size > self.bound / LARGEST {
            self.drop_entry(hash);
            return;
        }
        if let Some(old) = self.entries.peek_mut(&hash) {
            let (former, standing) = (old.size(), old.standing);
            *old = Slot { standing, ..slot };
            self.bytes = self.bytes - former + size;
            if !standing.protected {
                self.probation_bytes = self.probation_bytes - former + size;
            }
            self.make_room(0, 0);
            return;
        }
        self.protect_marked();
        self.make_room(size, 1);
        if self.has_room(size, 1) {
            self.entries.put(hash, slot);
            self.probation.push_front(hash);
            self.bytes += size;
            self.probation_bytes += size;
        }
    }

    /// Inserts an entry of another process behind all others of its queue, if there is room.
    pub(super) fn restore(&mut self, hash: u64, key: &CacheKey, entry: Entry, standing: Standing) {
        let slot = Slot { entry, rest: key.rest(), standing };
        let size = slot.size();
        if size > self.bound / LARGEST || !self.has_room(size, 1) || self.entries.contains(&hash) {
            return;
        }
        self.entries.put(hash, slot);
        self.entries.demote(&hash);
        self.bytes += size;
        if !standing.protected {
            self.probation.push_back(hash);
            self.probation_bytes += size;
        }
    }

    pub(super) fn remove(&mut self, hash: u64, key: &CacheKey) {
        if self.entries.peek(&hash).is_some_and(|slot| slot.is_under(key)) {
            self.drop_entry(hash);
        }
    }

    /// Passes every protected entry to `show`, or every one on probation, with the part of its key that its response does not
    /// contain; the last to be evicted comes first.
    pub(super) fn each(&self, protected: bool, mut show: impl FnMut([u8; CacheKey::REST], &Entry, Standing)) {
        let mut show = |slot: &Slot| show(slot.rest, &slot.entry, slot.standing);
        match protected {
            true => self.entries.iter().filter(|(_, slot)| slot.standing.protected).for_each(|(_, slot)| show(slot)),
            false => self.probation.iter().filter_map(|hash| self.entries.peek(hash)).for_each(show),
        }
    }

    pub(super) fn fill(&self) -> Fill {
        Fill { entries: self.entries.len(), bytes: self.bytes, evictions: self.evictions }
    }

    /// Evicts entries until there is room for `more` of together this size.
    fn make_room(&mut self, size: usize, more: usize) {
        while !self.has_room(size, more) && self.evict() {
            self.evictions += 1;
        }
    }

    fn has_room(&self, size: usize, more: usize) -> bool {
        self.bytes + size <= self.bound && self.entries.len() + more <= self.limit
    }

    /// Evicts one entry; returns false if there is none.
    fn evict(&mut self) -> bool {
        self.protect_marked();
        match self.is_probation_large() {
            true => self.evict_from_probation(),
            false => self.evict_protected() || self.evict_from_probation(),
        }
    }

    /// Returns whether the entries on probation take more than their share.
    fn is_probation_large(&self) -> bool {
        self.probation_bytes > self.bound / PROBATION
    }

    /// Protects the oldest entries on probation, as long as they are marked and take more than their share. An insertion calls
    /// this even if there is room, so that a mark counts at about the time when it was set.
    fn protect_marked(&mut self) {
        for _ in 0..MOST_ROUNDS {
            let Some(hash) = self.probation.back().filter(|_| self.is_probation_large()) else { return };
            let Some(slot) = self.entries.peek_mut(hash).filter(|slot| slot.standing.asked_again) else { return };
            slot.standing = Standing { protected: true, asked_again: false };
            self.probation_bytes -= slot.size();
            self.entries.promote(hash);
            self.probation.pop_back();
        }
    }

    /// Evicts the oldest entry on probation.
    fn evict_from_probation(&mut self) -> bool {
        let Some(old) = self.probation.pop_back().and_then(|hash| self.entries.pop(&hash)) else { return false };
        self.bytes -= old.size();
        self.probation_bytes -= old.size();
        true
    }

    /// Evicts the protected entry at the end; marked ones go round first.
    fn evict_protected(&mut self) -> bool {
        for round in 0.. {
            let Some((hash, slot)) = self.entries.peek_lru() else { return false };
            let (hash, size, standing) = (*hash, slot.size(), slot.standing);
            let is_due = round >= MOST_ROUNDS;
            if standing.protected && (is_due || !standing.asked_again) {
                self.entries.pop(&hash);
                self.bytes -= size;
                return true;
            }
            if is_due {
                return false;
            }
            if let Some(slot) = self.entries.get_mut(&hash).filter(|slot| slot.standing.protected) {
                slot.standing.asked_again = false;
            }
        }
        false
    }

    /// Removes an entry without counting it as evicted.
    fn drop_entry(&mut self, hash: u64) {
        let Some(old) = self.entries.pop(&hash) else { return };
        self.bytes -= old.size();
        if !old.standing.protected {
            self.probation_bytes -= old.size();
            self.probation.retain(|other| *other != hash);
        }
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

/// Returns the number of buckets of a shard's table: a power of two such that usual entries fill about 7 in 16.
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
        let put = |shard: &mut Shard, name: u8| shard.insert(name.into(), &key(name), entry(&key(name), 1900));
        put(&mut shard, b'a');
        assert!(shard.get(b'a'.into(), &key(b'a')).is_some());
        let last = (b'b'..=b'z').find(|name| {
            put(&mut shard, *name);
            shard.fill().evictions > 0
        });
        // The first entry becomes a protected one; then it is the second one's turn.
        let last = last.expect("not all have room");
        let gone: Vec<u8> = (b'a'..=last).filter(|name| shard.get((*name).into(), &key(*name)).is_none()).collect();
        assert_eq!(gone, b"b");
    }

    #[test]
    fn new_entries_alone_use_all_of_the_memory() {
        let mut shard = Shard::new(1 << 20);
        let first_eviction = (0..10_000).find(|hash| {
            let before = shard.fill();
            shard.insert(*hash, &key(b'f'), entry(&key(b'f'), 200));
            assert!(shard.fill().evictions == 0 || before.bytes > (1 << 20) * 99 / 100, "{before:?}");
            shard.fill().evictions > 0
        });
        assert!(first_eviction.is_some());
    }

    #[test]
    fn without_room_the_larger_queue_gives_way() {
        let mut shard = Shard::new(1 << 20);
        let asked_again = 0..10_000_u64;
        for hash in asked_again.clone() {
            shard.insert(hash, &key(b'p'), entry(&key(b'p'), 200));
            assert!(shard.get(hash, &key(b'p')).is_some());
        }
        for hash in 10_000..20_000 {
            shard.insert(hash, &key(b'f'), entry(&key(b'f'), 200));
        }
        let (all, left) = (shard.fill().entries, asked_again.filter(|hash| shard.entries.contains(hash)).count());
        assert!((all * 7 / 10..=all * 8 / 10).contains(&left), "three quarters are for them: {left} of {all}");
        assert!(shard.probation_bytes <= (1 << 20) / 4 + 1_000);
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

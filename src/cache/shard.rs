//! Entries by key, least recently used first out, bounded by bytes.

use std::hash::{BuildHasherDefault, Hasher};

use lru::LruCache;

use super::{Entry, Fill};
use crate::wire::query::Key;

/// What an entry takes beside its own bytes: the list's node, the map's slot at its usual load, the allocator's headers.
pub const OVERHEAD: usize = size_of::<Node>() + 40 + 2 * 16;

/// One part of the cache.
///
/// The map's key is the hash itself, computed once for shard and map alike; the entry holds the full key and is
/// compared with it. Of two keys with one hash the later takes the place, which is right and next to never happens.
#[derive(Debug)]
pub struct Shard {
    entries: LruCache<u64, Slot, BuildHasherDefault<AsIs>>,
    bytes: usize,
    bound: usize,
    evictions: u64,
}

#[derive(Debug)]
struct Slot {
    key: Box<[u8]>,
    entry: Entry,
}

/// The shape of what the list keeps for each entry, to know its size.
struct Node(#[allow(dead_code)] (u64, Slot, usize, usize));

impl Shard {
    /// A shard that takes at most `bound` bytes.
    pub(super) fn new(bound: usize) -> Self {
        Self { entries: LruCache::unbounded_with_hasher(BuildHasherDefault::new()), bytes: 0, bound, evictions: 0 }
    }

    #[inline]
    pub(super) fn get(&mut self, hash: u64, key: &Key) -> Option<&mut Entry> {
        self.entries.get_mut(&hash).filter(|slot| *slot.key == *key.as_bytes()).map(|slot| &mut slot.entry)
    }

    pub(super) fn insert(&mut self, hash: u64, key: &Key, entry: Entry) {
        let slot = Slot { key: key.as_bytes().into(), entry };
        let size = slot.size();
        if let Some(old) = self.entries.pop(&hash) {
            self.bytes -= old.size();
        }
        // One reply that would empty the shard is not worth it.
        if size > self.bound / 2 {
            return;
        }
        while self.bytes + size > self.bound {
            let Some((_, old)) = self.entries.pop_lru() else { break };
            self.bytes -= old.size();
            self.evictions += 1;
        }
        self.bytes += size;
        self.entries.put(hash, slot);
    }

    pub(super) fn remove(&mut self, hash: u64, key: &Key) {
        if self.get(hash, key).is_some()
            && let Some(old) = self.entries.pop(&hash)
        {
            self.bytes -= old.size();
        }
    }

    pub(super) fn fill(&self) -> Fill {
        Fill { entries: self.entries.len(), bytes: self.bytes, evictions: self.evictions }
    }
}

impl Slot {
    fn size(&self) -> usize {
        OVERHEAD + self.key.len() + self.entry.heap_size()
    }
}

/// Takes a hash as it is: the keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
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

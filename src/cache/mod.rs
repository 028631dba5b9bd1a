//! Answers of upstreams, cached as bytes within a fixed amount of memory.
//!
//! - [`entry`] one response: fresh, stale or expired; remembered failures;
//! - [`shard`] entries by key, bounded by bytes; the least used are evicted first;
//! - [`packed`] entries serialized for another process.
//!
//! A response answers only its own question. NXDOMAIN could answer for every type of the name (RFC 2308 section 5) and for all
//! names below it (RFC 8020), but servers that deny the AAAA record of a name that has an A record are common (RFC 4074 section
//! 4.2). Saving one query is not worth a job that does not find its registry. The exception is names of the cluster's domain
//! that cannot exist, as its own server says (`prune_search`).
//!
//! The cache is split into shards by the key's hash, each behind its own short lock: a hit copies its bytes out under the lock
//! and touches no other shared memory.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::wire::cache_key::CacheKey;

pub mod entry;
pub(crate) mod packed;
pub(crate) mod shard;

pub use entry::Entry;
pub use shard::Fill;
use shard::Shard;

pub use crate::clock::Millis;

/// Most shards of a cache; enough that two workers rarely contend for one.
const SHARDS: usize = 64;
/// Least memory of a shard, if the cache has that much: an eighth of it, the most that an entry may take, is enough for the
/// largest message. The least `cache.memory` is the same.
const LEAST_SHARD: usize = 1 << 20;

/// Cache shared by all workers.
#[derive(Debug)]
pub struct Cache {
    /// Shards; their number is a power of two.
    shards: Vec<Mutex<Shard>>,
    keys: HashKeys,
}

/// Secret keys of the hash. A cache that takes over entries has the keys of the cache that they come from: the entries are then
/// distributed over its shards alike, and none of two full caches is too full for them.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKeys(u64, u64);

impl HashKeys {
    fn random() -> Self {
        // The standard library's keys come from the system's random numbers.
        let random = RandomState::new();
        Self(random.hash_one(0), random.hash_one(1))
    }
}

impl fmt::Debug for HashKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKeys(secret)")
    }
}

impl Cache {
    /// Returns a cache that takes at most `memory` bytes.
    pub fn new(memory: usize) -> Self {
        Self::with_keys(memory, HashKeys::random())
    }

    /// Returns a cache that takes at most `memory` bytes and hashes with these keys.
    pub(crate) fn with_keys(memory: usize, keys: HashKeys) -> Self {
        let count = SHARDS.min(1 << (memory / LEAST_SHARD).max(1).ilog2());
        let shards = (0..count).map(|_| Mutex::new(Shard::new(memory / count))).collect();
        Self { shards, keys }
    }

    /// Returns the hash of a key; keyed with a secret, so that no client can choose names that collide.
    #[inline]
    pub fn hash(&self, key: &CacheKey) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.keys.0, self.keys.1);
        hasher.write(key.as_bytes());
        hasher.finish()
    }

    pub(crate) fn hash_keys(&self) -> HashKeys {
        self.keys
    }

    /// Passes the entry under `key` to `read` and marks it as used; returns `None` if there is no entry.
    #[inline]
    pub fn with<R>(&self, hash: u64, key: &CacheKey, read: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        self.shard(hash).get(hash, key).map(read)
    }

    /// Caches an entry in place of an earlier one.
    pub fn insert(&self, hash: u64, key: &CacheKey, entry: Entry) {
        self.shard(hash).insert(hash, key, entry);
    }

    /// Removes the entry under `key`.
    pub fn remove(&self, hash: u64, key: &CacheKey) {
        self.shard(hash).remove(hash, key);
    }

    /// Returns the number of entries, their bytes and the evictions.
    pub fn fill(&self) -> Fill {
        self.shards.iter().map(lock).fold(Fill::default(), |sum, shard| {
            let fill = shard.fill();
            Fill {
                entries: sum.entries + fill.entries,
                bytes: sum.bytes + fill.bytes,
                evictions: sum.evictions + fill.evictions,
            }
        })
    }

    #[inline]
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(hash) & (self.shards.len() - 1)])
    }
}

/// Returns the shard for a hash if there are [`SHARDS`]. It uses bits that the shard's own map does not use: the map takes the
/// low bits for the bucket, and the highest seven to compare entries of a bucket without reading them.
#[inline]
fn shard_of(hash: u64) -> usize {
    (hash >> 48) as usize % SHARDS
}

/// Locks a shard. It is consistent between any two of its calls, so a panic elsewhere under the lock does no harm.
#[inline]
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::entry::{CacheScope, CachedFailure};
    use super::*;
    use crate::cause::Cause;
    use crate::wire::cache_key::EffectiveViewId;
    use crate::wire::query::Query;

    #[test]
    fn the_smallest_cache_holds_the_largest_message() {
        let floor = usize::try_from(crate::config::cache::MEMORY.floor.0).expect("a size");
        for memory in [floor, 3 << 20, 8 << 20, 64 << 20, 1 << 30] {
            let cache = Cache::new(memory);
            assert!(cache.shards.len().is_power_of_two() && cache.shards.len() <= SHARDS);
            for name in b'a'..=b'z' {
                let packet = [&b"\0\0\0\0\0\x01\0\0\0\0\0\0\x01"[..], &[name], b"\x00\0\x01\0\x01"].concat();
                let key = CacheKey::new(&Query::read(&packet).expect("a query"), EffectiveViewId::COMMON);
                let failed = CachedFailure { until: 1, span: 1, recoveries: 0 };
                let words = (Cause::UpstreamFailed, &vec![0; u16::MAX.into()][..]);
                let entry = Entry::failure(key.question(), words, CacheScope::unconfirmed(0), failed, 0);
                let hash = cache.hash(&key);
                cache.insert(hash, &key, entry);
                assert!(cache.with(hash, &key, |_| ()).is_some(), "{memory}");
            }
            assert!(cache.fill().bytes <= memory);
        }
    }

    #[test]
    fn shards_leave_the_maps_bits_alone() {
        for hash in [0, 1, 0xffff_ffff, 0xfe00_0000_0000_0000] {
            assert_eq!(shard_of(hash), 0, "{hash:x}");
        }
        let all: std::collections::HashSet<usize> = (0..SHARDS as u64).map(|n| shard_of(n << 48)).collect();
        assert_eq!(all.len(), SHARDS);
    }
}

//! Cache of the views that match a client, kept with the client; [`Views`](super::views::Views) fills it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A configuration's generation and one bit for each of its views. The cache is no part of the client's identity: all caches
/// are equal, and a clone is empty.
pub struct ViewCache(AtomicU64);

impl ViewCache {
    /// Value of an empty cache. No configuration has this generation with all bits set.
    const NONE: u64 = u64::MAX;

    /// Returns the views that match under this configuration, as bits; `None` if they are not cached.
    #[inline]
    pub(super) fn get(&self, generation: u32) -> Option<u32> {
        let kept = self.0.load(Ordering::Relaxed);
        ((kept >> 32) as u32 == generation && kept != Self::NONE).then_some(kept as u32)
    }

    /// Stores the views that match under a configuration.
    pub(super) fn put(&self, generation: u32, fits: u32) {
        self.0.store(u64::from(generation) << 32 | u64::from(fits), Ordering::Relaxed);
    }
}

impl Default for ViewCache {
    fn default() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }
}

impl Clone for ViewCache {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for ViewCache {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ViewCache {}

impl fmt::Debug for ViewCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ViewCache")
    }
}

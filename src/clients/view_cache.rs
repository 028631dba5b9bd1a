//! The views that a client was found to be of, kept beside it: see [`Views`](super::views::Views), which fills it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A configuration's generation and a bit for each of its views. It is not part of what the client is: all are equal, and
/// a copy begins empty.
pub struct ViewCache(AtomicU64);

impl ViewCache {
    /// Nothing has been found out: no configuration has this generation with all bits set.
    const NONE: u64 = u64::MAX;

    /// The views under this configuration, as bits; none if they have to be looked for.
    #[inline]
    pub(super) fn get(&self, generation: u32) -> Option<u32> {
        let kept = self.0.load(Ordering::Relaxed);
        ((kept >> 32) as u32 == generation && kept != Self::NONE).then_some(kept as u32)
    }

    /// Keeps what was found under a configuration.
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

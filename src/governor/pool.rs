//! A bounded amount that clients share. A client may hold as much as is left: a single client gets half, two get a third each,
//! and so on, so that something is always left for a client that holds nothing yet (the dynamic threshold of Choudhury and
//! Hahne, 1998). No share per client needs to be configured.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

#[derive(Debug)]
pub struct Pool<S = RandomState> {
    capacity: usize,
    /// Amount that all clients hold; changed under the lock.
    total: AtomicUsize,
    by_client: Mutex<HashMap<IpAddr, usize, S>>,
}

/// Share of a client in a pool, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    pool: Arc<Pool>,
    client: IpAddr,
    amount: usize,
}

impl<S: BuildHasher + Default> Pool<S> {
    /// Returns a pool of which nothing is held.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, total: AtomicUsize::new(0), by_client: Mutex::default() }
    }

    /// Returns the whole amount.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the amount that is held.
    pub fn held(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns the amount that a client holds.
    pub fn held_by(&self, client: IpAddr) -> usize {
        self.lock().get(&client).copied().unwrap_or(0)
    }

    /// Acquires `amount` for a client. Returns whether enough was left.
    pub fn acquire(&self, client: IpAddr, amount: usize) -> bool {
        self.acquire_beside(client, amount, 0)
    }

    /// Acquires `amount` while `kept` is reserved for others, as if the pool were that much smaller: of the remainder, too,
    /// something is left for a client that holds nothing yet.
    pub fn acquire_beside(&self, client: IpAddr, amount: usize, kept: usize) -> bool {
        let mut by_client = self.lock();
        let total = self.held() + amount;
        let Some(left) = self.capacity.saturating_sub(kept).checked_sub(total) else { return false };
        match by_client.entry(client) {
            Entry::Occupied(mut held) if held.get() + amount <= left => *held.get_mut() += amount,
            Entry::Vacant(none) if amount <= left => drop(none.insert(amount)),
            _ => return false,
        }
        self.total.store(total, Ordering::Relaxed);
        true
    }

    /// Releases `amount` that the client has acquired.
    pub fn release(&self, client: IpAddr, amount: usize) {
        let mut by_client = self.lock();
        self.total.store(self.held().saturating_sub(amount), Ordering::Relaxed);
        if let Entry::Occupied(mut held) = by_client.entry(client) {
            match held.get().saturating_sub(amount) {
                0 => drop(held.remove()),
                left => *held.get_mut() = left,
            }
        }
    }

    /// Locks the amounts. They are consistent between any two statements that can panic.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize, S>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Acquires `amount` of a pool for a client; returns `None` if not enough is left.
    pub(crate) fn of(pool: &Arc<Pool>, client: IpAddr, amount: usize) -> Option<Self> {
        pool.acquire(client, amount).then(|| Self { pool: Arc::clone(pool), client, amount })
    }

    /// Changes the size of the share. Returns whether enough was left.
    pub(crate) fn resize(&mut self, amount: usize) -> bool {
        let enough = amount <= self.amount || self.pool.acquire(self.client, amount - self.amount);
        if enough {
            self.pool.release(self.client, self.amount.saturating_sub(amount));
            self.amount = amount;
        }
        enough
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.release(self.client, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Acquires one at a time until none is left; returns their number.
    fn take_all(pool: &Pool, client: IpAddr) -> usize {
        std::iter::repeat_with(|| pool.acquire(client, 1)).take_while(|taken| *taken).count()
    }

    #[test]
    fn one_gets_half_and_there_is_always_something_left() {
        let pool: Pool = Pool::new(1_000);
        assert_eq!(take_all(&pool, client(1)), 500);
        assert_eq!(take_all(&pool, client(2)), 250);
        assert_eq!(take_all(&pool, client(3)), 125);
        assert!(pool.acquire(client(4), 1));
        assert!(!pool.acquire(client(1), 1));
        pool.release(client(1), 500);
        assert_eq!(pool.held(), 376);
        assert_eq!(take_all(&pool, client(5)), 312);
    }

    #[test]
    fn what_is_given_back_leaves_nothing_behind() {
        let pool = Arc::new(Pool::new(100));
        let mut share = Share::of(&pool, client(1), 40).expect("enough");
        assert!(!share.resize(51) && share.resize(50) && share.resize(10));
        assert_eq!(pool.held(), 10);
        assert!(Share::of(&pool, client(1), 81).is_none());
        drop(share);
        assert!(pool.held() == 0 && pool.lock().is_empty());
    }
}

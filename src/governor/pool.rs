//! A bounded amount that clients share. A client may hold as much as is left: alone it gets half, two get a third each, and
//! so on, so that there is always something left for one who holds nothing yet (the dynamic threshold of Choudhury and Hahne,
//! 1998). No client needs a share of its own to be configured.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

/// The amount.
#[derive(Debug)]
pub struct Pool<S = RandomState> {
    capacity: usize,
    held: Mutex<Held<S>>,
}

#[derive(Debug)]
struct Held<S> {
    total: usize,
    by_client: HashMap<IpAddr, usize, S>,
}

/// What a client holds of a pool, until it is dropped.
#[derive(Debug)]
pub struct Share {
    pool: Arc<Pool>,
    client: IpAddr,
    amount: usize,
}

impl<S: BuildHasher + Default> Pool<S> {
    /// A pool of which nothing is held.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, held: Mutex::new(Held { total: 0, by_client: HashMap::default() }) }
    }

    /// How much there is in all.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How much is held.
    pub fn held(&self) -> usize {
        self.lock().total
    }

    /// Takes `amount` for a client; whether there was enough for it.
    pub fn acquire(&self, client: IpAddr, amount: usize) -> bool {
        let held = &mut *self.lock();
        let of_client = held.by_client.get(&client).copied().unwrap_or(0);
        let left = self.capacity.saturating_sub(held.total).checked_sub(amount);
        if left.is_none_or(|left| of_client + amount > left) {
            return false;
        }
        held.total += amount;
        held.by_client.insert(client, of_client + amount);
        true
    }

    /// Gives `amount` back that the client has acquired.
    pub fn release(&self, client: IpAddr, amount: usize) {
        let held = &mut *self.lock();
        held.total = held.total.saturating_sub(amount);
        if let Some(of_client) = held.by_client.get_mut(&client) {
            *of_client = of_client.saturating_sub(amount);
            if *of_client == 0 {
                held.by_client.remove(&client);
            }
        }
    }

    /// The counts are consistent between any two statements that can panic.
    fn lock(&self) -> MutexGuard<'_, Held<S>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Takes `amount` of a pool for a client; `None` if there is not enough for it.
    pub fn of(pool: &Arc<Pool>, client: IpAddr, amount: usize) -> Option<Self> {
        pool.acquire(client, amount).then(|| Self { pool: Arc::clone(pool), client, amount })
    }

    /// Makes the share larger or smaller; whether there was enough for that.
    pub fn resize(&mut self, amount: usize) -> bool {
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

    /// Takes one by one until there is no more; how many that were.
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
        assert!(pool.held() == 0 && pool.lock().by_client.is_empty());
    }
}

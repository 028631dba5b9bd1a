//! Queries that wait for upstreams: bounded in all, shared by clients as in [`Pool`], and with a reserve for each upstream
//! group, so that a group that does not answer cannot keep the others from being asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::Pool;

/// How many times fewer prefetches there may be than queries that wait.
const FEWER_PREFETCHES: usize = 8;
/// The part of all places that is kept for groups that use less than their reserve, in all.
const RESERVED: usize = 4;

/// The queries that wait.
#[derive(Debug)]
pub struct Pending {
    pool: Arc<Pool>,
    prefetches: Arc<AtomicUsize>,
}

/// How many places each group holds; a group keeps its count over reloads.
pub type GroupCount = Arc<AtomicUsize>;

/// A query's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    pool: Arc<Pool>,
    client: IpAddr,
    group: Option<GroupCount>,
}

/// A prefetch's place, until it is dropped.
#[derive(Debug)]
pub struct PrefetchPlace(Arc<AtomicUsize>);

impl Pending {
    /// Nothing waits.
    pub fn new(capacity: usize) -> Self {
        Self { pool: Arc::new(Pool::new(capacity)), prefetches: Arc::default() }
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.pool.held()
    }

    /// How many prefetches there are.
    pub fn prefetches(&self) -> usize {
        self.prefetches.load(Ordering::Relaxed)
    }

    /// A place for a query of `client` to `group`; `None` if the client has its share, or if what is left is kept for the
    /// other ones of `groups`.
    pub fn admit<'g>(
        &self,
        client: IpAddr,
        group: Option<&GroupCount>,
        groups: impl ExactSizeIterator<Item = &'g GroupCount>,
    ) -> Option<Place> {
        let capacity = self.pool.capacity();
        let reserve = (capacity / RESERVED / groups.len().max(1)).max(1);
        let unused = |other: &GroupCount| match group {
            Some(group) if Arc::ptr_eq(group, other) => 0,
            _ => reserve.saturating_sub(other.load(Ordering::Relaxed)),
        };
        // Far from any bound it need not be counted what is kept.
        let kept = if self.pool.held() < capacity / RESERVED { 0 } else { groups.map(unused).sum() };
        if !self.pool.acquire_beside(client, 1, kept) {
            return None;
        }
        let group = group.cloned();
        if let Some(count) = &group {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Some(Place { pool: Arc::clone(&self.pool), client, group })
    }

    /// A place for a prefetch; `None` if there are as many as there may be.
    pub fn admit_prefetch(&self) -> Option<PrefetchPlace> {
        let most = self.pool.capacity() / FEWER_PREFETCHES;
        let counted = self
            .prefetches
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1));
        counted.is_ok().then(|| PrefetchPlace(Arc::clone(&self.prefetches)))
    }

    /// Whether so many clients' queries wait that a prefetch had better not be made.
    pub fn is_busy(&self) -> bool {
        self.pool.held() >= self.pool.capacity() / 2
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(count) = &self.group {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        self.pool.release(self.client, 1);
    }
}

impl Drop for PrefetchPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn each_group_has_a_reserve() {
        let pending = Pending::new(800);
        let groups: [GroupCount; 2] = Default::default();
        let ask = |of: u8, group: usize| pending.admit(client(of), Some(&groups[group]), groups.iter());
        let mut silent = Vec::new();
        for of in 0..100 {
            silent.extend(std::iter::repeat_with(|| ask(of, 0)).map_while(|place| place));
        }
        // A quarter of all for both, so an eighth for the other one; and the very last place is nobody's: it is what must
        // be left.
        assert_eq!((silent.len(), groups[0].load(Ordering::Relaxed)), (699, 699));
        let others: Vec<_> = (100..=199).filter_map(|of| ask(of, 1)).collect();
        assert_eq!(others.len(), 100);
        drop((silent, others));
        assert_eq!((pending.count(), groups[0].load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn however_many_clients_ask_of_a_group_one_that_holds_nothing_has_a_share_of_it() {
        for clients in 1..=20 {
            let pending = Pending::new(800);
            let groups: [GroupCount; 5] = Default::default();
            let ask = |of: u8| pending.admit(client(of), Some(&groups[0]), groups.iter());
            let mut held = Vec::new();
            loop {
                let before = held.len();
                held.extend((0..clients).filter_map(ask));
                if held.len() == before {
                    break;
                }
            }
            // 640 are not kept for the other groups. All are divided by one more than there are.
            let left = 640 - held.len();
            assert!((640 / (usize::from(clients) + 1)).abs_diff(left) <= usize::from(clients), "{clients}: {left}");
            assert!(ask(200).is_some(), "{clients} clients leave nothing");
        }
    }

    #[test]
    fn prefetches_are_few() {
        let pending = Pending::new(80);
        let prefetches: Vec<_> = std::iter::repeat_with(|| pending.admit_prefetch()).map_while(|place| place).collect();
        assert_eq!((prefetches.len(), pending.prefetches(), pending.count()), (10, 10, 0));
        drop(prefetches);
        assert_eq!(pending.prefetches(), 0);
        assert!(!pending.is_busy());
        let group = GroupCount::default();
        let admit = |of: u8| pending.admit(client(of), Some(&group), [&group].into_iter());
        let queries: Vec<_> = (0..40).filter_map(admit).collect();
        assert_eq!(queries.len(), 40);
        assert!(pending.is_busy());
    }
}

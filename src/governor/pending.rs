//! Queries that wait for upstreams: bounded in all, shared by clients as in [`Pool`], and with a reserve for each upstream
//! group, so that an unresponsive group cannot block queries to the others.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::Pool;

/// Divisor of the limit of waiting queries: the limit of prefetches.
const FEWER_PREFETCHES: usize = 8;
/// Divisor of the limit of waiting queries: the total reserve of groups that use less than their share of it.
const RESERVED: usize = 4;

#[derive(Debug)]
pub struct PendingQueries {
    pool: Arc<Pool>,
    prefetches: Arc<AtomicUsize>,
}

/// Number of slots that a group holds; kept across reloads.
pub(crate) type GroupCount = Arc<AtomicUsize>;

/// Slot of a query, until it is dropped.
#[derive(Debug)]
pub struct PendingSlot {
    pool: Arc<Pool>,
    client: IpAddr,
    group: Option<GroupCount>,
}

/// Slot of a prefetch, until it is dropped.
#[derive(Debug)]
pub struct PrefetchPlace(Arc<AtomicUsize>);

impl PendingQueries {
    /// Returns an empty set of pending queries.
    pub fn new(capacity: usize) -> Self {
        Self { pool: Arc::new(Pool::new(capacity)), prefetches: Arc::default() }
    }

    /// Returns the number of queries that wait.
    pub fn count(&self) -> usize {
        self.pool.held()
    }

    /// Returns the number of prefetches in flight.
    pub fn prefetches(&self) -> usize {
        self.prefetches.load(Ordering::Relaxed)
    }

    /// Reserves a slot for a query of `client` to `group`; returns `None` if the client holds its share, or if the remaining
    /// slots are reserved for the other `groups`.
    pub fn admit<'g>(
        &self,
        client: IpAddr,
        group: Option<&GroupCount>,
        groups: impl ExactSizeIterator<Item = &'g GroupCount>,
    ) -> Option<PendingSlot> {
        let capacity = self.pool.capacity();
        let reserve = (capacity / RESERVED / groups.len().max(1)).max(1);
        let unused = |other: &GroupCount| match group {
            Some(group) if Arc::ptr_eq(group, other) => 0,
            _ => reserve.saturating_sub(other.load(Ordering::Relaxed)),
        };
        // Far below the limit the reserve need not be computed.
        let kept = if self.pool.held() < capacity / RESERVED { 0 } else { groups.map(unused).sum() };
        if !self.pool.acquire_beside(client, 1, kept) {
            return None;
        }
        let group = group.cloned();
        if let Some(count) = &group {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Some(PendingSlot { pool: Arc::clone(&self.pool), client, group })
    }

    /// Reserves a slot for a prefetch; returns `None` if the limit is reached.
    pub fn admit_prefetch(&self) -> Option<PrefetchPlace> {
        let most = self.pool.capacity() / FEWER_PREFETCHES;
        let counted = self
            .prefetches
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1));
        counted.is_ok().then(|| PrefetchPlace(Arc::clone(&self.prefetches)))
    }

    /// Returns whether prefetches should be put off, because half of the slots are in use.
    pub fn is_busy(&self) -> bool {
        self.pool.held() >= self.pool.capacity() / 2
    }
}

impl Drop for PendingSlot {
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
        let pending = PendingQueries::new(800);
        let groups: [GroupCount; 2] = Default::default();
        let ask = |of: u8, group: usize| pending.admit(client(of), Some(&groups[group]), groups.iter());
        let mut silent = Vec::new();
        for of in 0..100 {
            silent.extend(std::iter::repeat_with(|| ask(of, 0)).map_while(|place| place));
        }
        // The reserve of both groups is a quarter, so that of the other one is an eighth; the pool always leaves one more slot
        // free.
        assert_eq!((silent.len(), groups[0].load(Ordering::Relaxed)), (699, 699));
        let others: Vec<_> = (100..=199).filter_map(|of| ask(of, 1)).collect();
        assert_eq!(others.len(), 100);
        drop((silent, others));
        assert_eq!((pending.count(), groups[0].load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn an_idle_client_keeps_a_share_of_a_busy_group() {
        for clients in 1..=20 {
            let pending = PendingQueries::new(800);
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
            // 640 slots are not reserved for the other groups. They are divided by the number of clients plus one.
            let left = 640 - held.len();
            assert!((640 / (usize::from(clients) + 1)).abs_diff(left) <= usize::from(clients), "{clients}: {left}");
            assert!(ask(200).is_some(), "{clients} clients leave nothing");
        }
    }

    #[test]
    fn prefetches_are_few() {
        let pending = PendingQueries::new(80);
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

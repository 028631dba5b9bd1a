//! Queries in flight on one socket or connection: a ring with a slot for each message ID, or for the most recent IDs.
//!
//! IDs are assigned in sequence, so the ID of a query determines its slot, and the ring is in the order of sending: the
//! query that has waited longest is at the old end. If the slot of a new query is still occupied, the older query counts
//! as lost: there are only 65,536 IDs, and memory stays bounded.

use super::pace::Nanos;

/// Maximum slots of a ring: the number of IDs. Each slot takes 32 bytes.
pub(crate) const MOST_PLACES: u64 = 1 << 16;
const LEAST_PLACES: u64 = 1 << 8;

/// One query in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentQuery {
    /// Scheduled time of sending.
    pub intended: Nanos,
    pub sent: Nanos,
    /// Number of its question.
    pub question: u32,
    /// True if the question is new to the target.
    pub first: bool,
}

/// Queries in flight, in the order of sending.
#[derive(Debug)]
pub(crate) struct InFlightQueries {
    places: Box<[Option<(u16, SentQuery)>]>,
    /// Sequence numbers of the oldest query that may still wait, and of the next query.
    oldest: u64,
    next: u64,
    waiting: u64,
}

impl InFlightQueries {
    /// Returns an empty ring with a slot for each of `room` queries, within the bounds.
    pub(crate) fn new(room: u64) -> Self {
        let places = room.clamp(LEAST_PLACES, MOST_PLACES).next_power_of_two();
        Self { places: vec![None; places as usize].into(), oldest: 0, next: 0, waiting: 0 }
    }

    pub(crate) fn len(&self) -> u64 {
        self.waiting
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Returns the ID of the query `ahead` positions after the next one.
    #[inline]
    pub(crate) fn id(&self, ahead: usize) -> u16 {
        (self.next + ahead as u64) as u16
    }

    /// Adds a query that was sent with [`id(0)`](Self::id). Returns the query that it replaces, which is lost.
    #[inline]
    pub(crate) fn push(&mut self, waiting: SentQuery) -> Option<SentQuery> {
        let id = self.id(0);
        let pushed_out = self.place(id).replace((id, waiting));
        self.next += 1;
        self.waiting += u64::from(pushed_out.is_none());
        self.oldest = self.oldest.max(self.next.saturating_sub(self.places.len() as u64));
        pushed_out.map(|(_, waiting)| waiting)
    }

    /// Returns the query in flight with this ID.
    #[inline]
    pub(crate) fn get(&self, id: u16) -> Option<&SentQuery> {
        self.places[usize::from(id) % self.places.len()]
            .as_ref()
            .filter(|(theirs, _)| *theirs == id)
            .map(|(_, waiting)| waiting)
    }

    /// Removes the query with this ID.
    #[inline]
    pub(crate) fn take(&mut self, id: u16) -> Option<SentQuery> {
        let (_, taken) = self.place(id).take_if(|(theirs, _)| *theirs == id)?;
        self.waiting -= 1;
        Some(taken)
    }

    /// Removes the oldest query if it was sent before `limit`.
    pub(crate) fn expired(&mut self, limit: Nanos) -> Option<SentQuery> {
        while self.oldest < self.next {
            match self.get(self.oldest as u16) {
                Some(waiting) if waiting.sent >= limit => return None,
                Some(_) => return self.take(self.oldest as u16),
                None => self.oldest += 1,
            }
        }
        None
    }

    fn place(&mut self, id: u16) -> &mut Option<(u16, SentQuery)> {
        let places = self.places.len(); // a power of two, so consecutive IDs never collide
        &mut self.places[usize::from(id) % places]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sent: Nanos) -> SentQuery {
        SentQuery { intended: sent, sent, question: 0, first: false }
    }

    #[test]
    fn responses_in_any_order_timeouts_in_order() {
        let mut pending = InFlightQueries::new(1);
        for sent in 0..4 {
            assert_eq!(u64::from(pending.id(0)), sent);
            assert_eq!(pending.push(at(sent)), None);
        }
        assert_eq!(pending.take(1), Some(at(1)));
        assert_eq!(pending.take(1), None, "a second reply");
        assert_eq!(pending.take(77), None, "never asked");
        assert_eq!(pending.expired(3), Some(at(0)));
        assert_eq!(pending.expired(3), Some(at(2)));
        assert_eq!(pending.expired(3), None);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.expired(Nanos::MAX), Some(at(3)));
        assert!(pending.is_empty());
    }

    #[test]
    fn the_ring_comes_round() {
        for places in [LEAST_PLACES, MOST_PLACES] {
            let mut pending = InFlightQueries::new(places);
            for sent in 0..places {
                pending.push(at(sent));
            }
            assert_eq!(pending.take(1), Some(at(1)));
            assert_eq!(pending.push(at(places)), Some(at(0)), "pushed out");
            assert_eq!(pending.push(at(places + 1)), None, "its place was free");
            assert_eq!(pending.len(), places);
            let newest = pending.id(0).wrapping_sub(1);
            assert_eq!(pending.get(newest), Some(&at(places + 1)));
            if places < MOST_PLACES {
                assert_eq!(pending.take(1), None, "another id in its place");
            }
            assert_eq!(pending.expired(3), Some(at(2)));
            let rest = std::iter::from_fn(|| pending.expired(Nanos::MAX)).count();
            assert_eq!(rest as u64, places - 1);
            assert!(pending.is_empty());
        }
    }
}

//! One upstream query per question; everyone else who asks meanwhile waits for its reply.
//!
//! Beside saving queries this takes away a forger's chances: many identical queries in flight would each be one to hit
//! (RFC 5452 section 5, the birthday attack).
//!
//! Queries of different configurations share nothing: a reload may send the same question elsewhere.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::cache::Entry;
use crate::wire::query::Key;

/// Those who wait, by the key of their question.
type Flights = HashMap<Box<[u8]>, Vec<oneshot::Sender<Entry>>>;

/// The questions under way, shared by all workers. Bounded by the queries that the server lets wait.
#[derive(Debug, Default)]
pub struct Coalesce {
    flights: Mutex<Flights>,
}

/// The duty to ask for a question. Dropping it without a landing tells everyone who waits that nobody asks any more.
pub struct Flight {
    table: Arc<Coalesce>,
    /// None once it has landed.
    key: Option<Box<[u8]>>,
}

impl Coalesce {
    /// Waits for the answer to `key`. Whoever comes first also gets the [`Flight`], and must see it land.
    pub fn join(self: &Arc<Self>, generation: u32, key: &Key) -> (Option<Flight>, oneshot::Receiver<Entry>) {
        let (sender, receiver) = oneshot::channel();
        match self.flights().entry(under(generation, key)) {
            Slot::Occupied(mut flight) => {
                flight.get_mut().push(sender);
                (None, receiver)
            }
            Slot::Vacant(slot) => {
                let key = slot.key().clone();
                slot.insert(vec![sender]);
                (Some(Flight { table: Arc::clone(self), key: Some(key) }), receiver)
            }
        }
    }

    /// The flight for `key`, if nobody is asking for it: for those who must not wait for others.
    pub fn lead(self: &Arc<Self>, generation: u32, key: &Key) -> Option<Flight> {
        match self.flights().entry(under(generation, key)) {
            Slot::Occupied(_) => None,
            Slot::Vacant(slot) => {
                let key = slot.key().clone();
                slot.insert(Vec::new());
                Some(Flight { table: Arc::clone(self), key: Some(key) })
            }
        }
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a flight is found under.
fn under(generation: u32, key: &Key) -> Box<[u8]> {
    [key.as_bytes(), &generation.to_be_bytes()].concat().into()
}

impl Flight {
    /// Gives everyone who waits the answer.
    pub fn land(mut self, entry: &Entry) {
        for sender in self.take() {
            // One that has gone does not need it.
            let _ = sender.send(entry.clone());
        }
    }

    fn take(&mut self) -> Vec<oneshot::Sender<Entry>> {
        let Some(key) = self.key.take() else { return Vec::new() };
        self.table.flights().remove(&key).unwrap_or_default()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::query::Query;

    fn key(name: &[u8]) -> Key {
        let packet = [b"\0\0\x01\0\0\x01\0\0\0\0\0\0", name, b"\0\x01\0\x01"].concat();
        Key::new(&Query::read(&packet).expect("a query"), 0)
    }

    #[test]
    fn one_leads_the_others_wait_and_a_lost_leader_frees_them() {
        let table = Arc::new(Coalesce::default());
        let (first, second) = (key(b"\x01a\0"), key(b"\x01b\0"));
        let (flight, mut waits) = table.join(0, &first);
        assert!(flight.is_some());
        let (none, mut also) = table.join(0, &first);
        assert!(none.is_none());
        assert!(table.join(0, &second).0.is_some());
        assert!(table.lead(0, &first).is_none());
        assert!(table.lead(1, &first).is_some());

        drop(flight);
        assert!(waits.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(also.try_recv().is_err());
        assert!(table.lead(0, &first).is_some());
    }
}

//! One upstream query per question: clients that ask the same meanwhile wait for its response.
//!
//! Coalescing also reduces a forger's chances: each of many identical queries in flight would be one more to hit (RFC 5452
//! section 5, the birthday attack).
//!
//! Queries under different configurations are not coalesced: a reload may send the same question to other servers.

use std::collections::hash_map::Entry as Slot;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use tokio::sync::oneshot;

use crate::cache::Entry;
use crate::wire::cache_key::CacheKey;

/// Question under a configuration: the hash of its key, and the configuration's generation.
type QuestionKey = (u64, u32);

/// Questions in flight, shared by all workers. Bounded by the limit of pending queries.
#[derive(Debug, Default)]
pub(crate) struct Coalesce {
    /// The keys contain keyed hashes already.
    in_flight: Mutex<HashMap<QuestionKey, Followers>>,
}

/// Clients that wait for one question.
#[derive(Debug)]
struct Followers {
    key: Box<[u8]>,
    senders: Vec<oneshot::Sender<SharedResult>>,
    /// Notification for the next client that joins.
    joined: Option<oneshot::Sender<()>>,
}

/// Result of an in-flight query.
#[derive(Clone, Debug)]
pub struct SharedResult {
    pub entry: Entry,
    /// Server that answered, if one was queried and answered.
    pub by: AnsweredBy,
}

/// Server's address, or none, in 18 bytes: the 32 bytes of `SocketAddr` would put each pending question into a larger block of
/// memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnsweredBy {
    /// Address; IPv4 is mapped.
    ip: [u8; 16],
    /// Port; zero if there is no address.
    port: u16,
}

impl AnsweredBy {
    /// Returns the address, if there is one.
    pub fn address(self) -> Option<SocketAddr> {
        (self.port > 0).then(|| SocketAddr::new(IpAddr::from(self.ip).to_canonical(), self.port))
    }
}

impl From<SocketAddr> for AnsweredBy {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: address.port() }
    }
}

/// Role of a query for a question.
pub(crate) enum Role {
    /// No identical query is in flight: send one, and complete it.
    Lead(CoalescedQuery),
    /// Wait for the identical query in flight.
    Wait(oneshot::Receiver<SharedResult>),
}

/// Duty to query a question. Dropping it before completion fails all waiting clients.
pub struct CoalescedQuery {
    table: Arc<Coalesce>,
    /// `None` after completion, or if no client can wait for it.
    question: Option<QuestionKey>,
}

impl Coalesce {
    /// Joins the in-flight query for `key`, whose hash is `hash`; returns the leader's guard if there is none yet.
    pub(crate) fn join(self: &Arc<Self>, generation: u32, hash: u64, key: &CacheKey) -> Role {
        let question = (hash, generation);
        match self.in_flight().entry(question) {
            Slot::Vacant(slot) => {
                slot.insert(Followers { key: key.as_bytes().into(), senders: Vec::new(), joined: None });
                Role::Lead(self.leader(Some(question)))
            }
            Slot::Occupied(mut waiting) if *waiting.get().key == *key.as_bytes() => {
                let (sender, receiver) = oneshot::channel();
                let waiting = waiting.get_mut();
                waiting.senders.push(sender);
                // The leader may no longer wait for the notification.
                let _ = waiting.joined.take().map(|joined| joined.send(()));
                Role::Wait(receiver)
            }
            // Another question has the same hash, which is extremely rare: this one is queried separately.
            Slot::Occupied(_) => Role::Lead(self.leader(None)),
        }
    }

    /// Returns the leader's guard, if no identical query is in flight; for callers that must not wait for others.
    pub(crate) fn lead(self: &Arc<Self>, generation: u32, hash: u64, key: &CacheKey) -> Option<CoalescedQuery> {
        match self.join(generation, hash, key) {
            Role::Lead(leader) => Some(leader),
            Role::Wait(_) => None,
        }
    }

    fn leader(self: &Arc<Self>, question: Option<QuestionKey>) -> CoalescedQuery {
        CoalescedQuery { table: Arc::clone(self), question }
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<QuestionKey, Followers>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CoalescedQuery {
    /// Sends the result to all waiting clients.
    pub fn complete_with(mut self, entry: &Entry, by: AnsweredBy) {
        for sender in self.take() {
            // The receiver may have been dropped.
            let _ = sender.send(SharedResult { entry: entry.clone(), by });
        }
    }

    /// Returns a receiver that resolves when the next client joins, or to an error if none can.
    pub fn next_joined(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        if let Some(question) = &self.question
            && let Some(waiting) = self.table.in_flight().get_mut(question)
        {
            waiting.joined = Some(sender);
        }
        receiver
    }

    /// Returns whether a client waits.
    pub fn has_waiting(&self) -> bool {
        let in_flight = self.table.in_flight();
        let waiting = self.question.and_then(|question| in_flight.get(&question));
        waiting.is_some_and(|waiting| !waiting.senders.iter().all(oneshot::Sender::is_closed))
    }

    fn take(&mut self) -> Vec<oneshot::Sender<SharedResult>> {
        let waiting = self.question.take().and_then(|question| self.table.in_flight().remove(&question));
        waiting.map_or_else(Vec::new, |waiting| waiting.senders)
    }
}

impl Drop for CoalescedQuery {
    fn drop(&mut self) {
        self.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::cache_key::EffectiveViewId;
    use crate::wire::query::Query;

    fn key(name: &[u8]) -> CacheKey {
        let packet = [b"\0\0\x01\0\0\x01\0\0\0\0\0\0", name, b"\0\x01\0\x01"].concat();
        CacheKey::new(&Query::read(&packet).expect("a query"), EffectiveViewId::COMMON)
    }

    #[test]
    fn an_address_in_fewer_bytes() {
        for address in ["192.0.2.1:53", "[2001:db8::1]:853"] {
            assert_eq!(AnsweredBy::from(address.parse::<SocketAddr>().expect(address)).address(), address.parse().ok());
        }
        assert_eq!(AnsweredBy::default().address(), None);
    }

    #[test]
    fn followers_wait_and_a_lost_leader_frees_them() {
        let table = Arc::new(Coalesce::default());
        let (first, second) = (key(b"\x01a\0"), key(b"\x01b\0"));
        let leader = table.lead(0, 7, &first).expect("the first one leads");
        let Role::Wait(mut waits) = table.join(0, 7, &first) else { panic!("the second one waits") };
        assert!(table.lead(0, 8, &second).is_some());
        assert!(table.lead(0, 7, &first).is_none());
        assert!(table.lead(1, 7, &first).is_some(), "another configuration");
        assert!(table.lead(0, 7, &second).is_some(), "another question of the same hash");
        assert!(table.lead(0, 7, &first).is_none(), "which took nobody's place");

        drop(leader);
        assert!(waits.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(table.lead(0, 7, &first).is_some());
    }
}

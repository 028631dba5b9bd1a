//! Truncated UDP responses, until their clients ask again over TCP or fail to do so.
//!
//! A client that receives a truncated response (TC = 1) has to ask again over TCP (RFC 7766 section 5). Another worker
//! may receive that query, so the table is shared. Only truncated responses take the lock, and TCP queries while the
//! table is not empty. No worker waits for the lock. What cannot be recorded is counted, and no failure is reported
//! that a missed TCP query may have resolved.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use foldhash::fast::RandomState;

use crate::clients::key;
use crate::clock::Millis;
use crate::wire::RrType;

/// Time that a client has to ask again over TCP.
pub(crate) const PATIENCE: Millis = 5_000;
/// Most questions in the table; further ones are ignored.
const MOST: usize = 1_024;

/// Truncated responses whose clients have not asked again over TCP.
#[derive(Debug, Default)]
pub struct Truncated {
    waiting: AtomicUsize,
    /// Number of truncated responses that could not be recorded or whose outcome is unknown.
    dropped: AtomicU64,
    /// Number of TCP queries that could not be recorded. The outcome of responses that were truncated before such a
    /// query is unknown.
    missed: AtomicU64,
    questions: Mutex<HashMap<TruncatedKey, TruncatedQuestion, RandomState>>,
}

/// Client address, name in lower-case wire form, and type. The other properties of a query may differ over TCP.
pub(super) type TruncatedKey = (u128, Box<[u8]>, RrType);

#[derive(Clone, Debug)]
pub(crate) struct TruncatedQuestion {
    /// Label of the route.
    pub route: Option<Arc<str>>,
    /// Largest UDP response that the client accepts, in bytes.
    pub size: usize,
    pub times: u64,
    /// Time of the first occurrence.
    pub first: Millis,
    /// Time of the last occurrence.
    pub last: Millis,
    /// Number of missed TCP queries at the first occurrence.
    missed: u64,
}

impl Truncated {
    /// Records that a response to this client was truncated. The name is in lower-case wire form.
    pub fn cut(&self, client: IpAddr, name: &[u8], qtype: RrType, route: Option<Arc<str>>, size: usize, at: Millis) {
        let question = (key(client), name.into(), qtype);
        let Some(mut questions) = self.try_lock() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (room, missed) = (questions.len() < MOST, self.missed.load(Ordering::Acquire));
        match questions.get_mut(&question) {
            Some(cut) => (cut.times, cut.last) = (cut.times + 1, cut.last.max(at)),
            None if room => {
                questions.insert(question, TruncatedQuestion { route, size, times: 1, first: at, last: at, missed });
            }
            None => {}
        }
        self.waiting.store(questions.len(), Ordering::Release);
    }

    /// Records a TCP query of a client; the name may be in any letter case.
    #[inline]
    pub fn asked_over_tcp(&self, client: IpAddr, name: &[u8], qtype: RrType) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.take(client, name, qtype);
        }
    }

    #[cold]
    fn take(&self, client: IpAddr, name: &[u8], qtype: RrType) {
        let question = (key(client), name.to_ascii_lowercase().into(), qtype);
        let Some(mut questions) = self.try_lock() else {
            self.missed.fetch_add(1, Ordering::Release);
            return;
        };
        questions.remove(&question);
        self.waiting.store(questions.len(), Ordering::Release);
    }

    /// Removes and returns the responses whose clients have not come back in time.
    pub(super) fn overdue(&self, now: Millis) -> Vec<(TruncatedKey, TruncatedQuestion)> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut overdue: Vec<_> = questions.extract_if(|_, cut| now >= cut.first + PATIENCE).collect();
        self.waiting.store(questions.len(), Ordering::Release);
        drop(questions);
        let (missed, all) = (self.missed.load(Ordering::Acquire), overdue.len());
        overdue.retain(|(_, cut)| cut.missed == missed);
        self.dropped.fetch_add((all - overdue.len()) as u64, Ordering::Relaxed);
        overdue
    }

    /// Returns the number of truncated responses that could not be recorded or whose outcome is unknown.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Tries the lock, for workers. Ignores poisoning: the table is consistent between any two calls.
    fn try_lock(&self) -> Option<MutexGuard<'_, HashMap<TruncatedKey, TruncatedQuestion, RandomState>>> {
        match self.questions.try_lock() {
            Ok(questions) => Some(questions),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtype::{A, AAAA};

    #[test]
    fn who_comes_back_over_tcp_is_not_overdue() {
        let truncated = Truncated::default();
        let clients: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        for (at, client) in [(1_000, clients[0]), (1_500, clients[1]), (3_000, clients[0])] {
            truncated.cut(client, b"\x03big\x00", A, None, 512, at);
        }
        // A query for another type or name, or by another client, does not count.
        truncated.asked_over_tcp(clients[0], b"\x03big\x00", AAAA);
        truncated.asked_over_tcp(clients[0], b"\x03bug\x00", A);
        truncated.asked_over_tcp(clients[1], b"\x03BiG\x00", A);
        assert!(truncated.overdue(1_000 + PATIENCE - 1).is_empty());
        let overdue = truncated.overdue(1_000 + PATIENCE);
        let [((client, ..), cut)] = overdue.as_slice() else { panic!("{overdue:?}") };
        assert_eq!((*client, cut.times, cut.first, cut.last), (key(clients[0]), 2, 1_000, 3_000));
        assert!(truncated.overdue(1_000_000).is_empty(), "it is told once");
    }

    #[test]
    fn there_are_never_more_than_are_kept() {
        let truncated = Truncated::default();
        for number in 0..2 * MOST as u32 {
            truncated.cut(IpAddr::V4(number.into()), b"\x03big\x00", A, None, 512, 1_000);
        }
        assert_eq!(truncated.overdue(1_000 + PATIENCE).len(), MOST);
    }

    #[test]
    fn nobody_is_blamed_for_what_may_not_have_been_noted() {
        let truncated = Truncated::default();
        let client: IpAddr = [10, 0, 0, 1].into();
        truncated.cut(client, b"\x03big\x00", A, None, 512, 1_000);
        let held = truncated.questions.lock().expect("a lock");
        truncated.asked_over_tcp(client, b"\x03big\x00", A);
        truncated.cut(client, b"\x03bug\x00", A, None, 512, 1_000);
        drop(held);
        truncated.cut(client, b"\x03bag\x00", A, None, 512, 1_000);
        let overdue = truncated.overdue(1_000 + PATIENCE);
        let [((_, name, _), _)] = overdue.as_slice() else { panic!("{overdue:?}") };
        assert_eq!((&**name, truncated.dropped()), (&b"\x03bag\x00"[..], 2));
    }
}

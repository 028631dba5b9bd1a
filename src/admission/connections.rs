//! Limits of TCP connections, in all and per client.
//!
//! When a limit is reached, the connection that has been idle longest makes room for a new one (RFC 7766 section 6.2.3): one of
//! the same client, or of the client with the most connections. If none is idle, the new connection waits, since most
//! connections bring one query and close.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::descriptors::Descriptors;
use crate::clock::Millis;

/// Least connections per client when file descriptors are scarce.
const LEAST_PER_CLIENT: usize = 4;
/// Least idle time, in milliseconds, before a connection makes room: the query of a new one may still be on its way.
const GRACE: Millis = 250;
/// Divisor of the limit: connections that may wait in addition to the open ones.
const WAITING_PART: usize = 4;
/// Longest time that a connection waits.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub total: usize,
    /// Connections of one client.
    pub per_client: usize,
}

/// Limits of connections of clients that are not admitted: each gets a response that says so, and is closed.
const STRANGERS: Caps = Caps { total: 16, per_client: 4 };

/// Open connections of all workers.
#[derive(Debug)]
pub(crate) struct Connections {
    descriptors: Arc<Descriptors>,
    /// Connections of clients that are not admitted.
    strangers: Option<Arc<Self>>,
    open: Mutex<OpenConnections>,
    /// Notification that a connection has closed.
    freed: Notify,
}

#[derive(Debug, Default)]
struct OpenConnections {
    total: usize,
    waiting: usize,
    by_client: HashMap<IpAddr, OpenOfClient>,
}

#[derive(Debug, Default)]
struct OpenOfClient {
    spots: Vec<Arc<Spot>>,
    waiting: usize,
}

/// State of a connection that other connections can see.
#[derive(Debug, Default)]
struct Spot {
    /// Time since which the connection is idle; [`BUSY`] if it is not.
    idle_since: AtomicU64,
    leave: Notify,
}

/// Value of `idle_since` for a connection that is not idle.
const BUSY: u64 = u64::MAX;

/// Slot of one connection; dropping it makes room for another one.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    of: Arc<Connections>,
    client: IpAddr,
    spot: Arc<Spot>,
}

/// Connection that waits for a slot.
#[derive(Debug)]
pub(crate) struct QueuedConnection {
    of: Arc<Connections>,
    client: IpAddr,
    caps: Caps,
}

/// Result of the admission of a connection.
#[derive(Debug)]
pub(crate) enum Admitted {
    Now(ConnectionSlot),
    /// A wait for a slot.
    Later(QueuedConnection),
    Never,
}

impl Default for Connections {
    /// Returns limits that do not depend on file descriptors.
    fn default() -> Self {
        Self::within(Arc::new(Descriptors::unlimited()))
    }
}

impl Connections {
    /// Returns an empty set of connections, bounded by the clients' share of `descriptors`.
    pub(crate) fn within(descriptors: Arc<Descriptors>) -> Self {
        let of = |strangers| Self {
            descriptors: Arc::clone(&descriptors),
            strangers,
            open: Mutex::default(),
            freed: Notify::new(),
        };
        of(Some(Arc::new(of(None))))
    }

    /// Admits a connection of a client that may not send queries, within limits of its own.
    pub(crate) fn admit_stranger(&self, client: IpAddr, now: Millis) -> Admitted {
        self.strangers.as_ref().map_or(Admitted::Never, |strangers| strangers.admit(client, STRANGERS, now))
    }

    /// Admits a connection of `client` that was accepted, or has been idle, since `now`. If there are too few descriptors for
    /// the limits, both limits shrink in proportion.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr, caps: Caps, now: Millis) -> Admitted {
        let room = self.descriptors.clients();
        let allowed = within(room, caps);
        let mut open = self.open();
        if let Some(place) = self.place(&mut open, client, allowed, now) {
            return Admitted::Now(place);
        }
        let has_room = open.total + open.waiting < room && open.waiting < allowed.total.div_ceil(WAITING_PART);
        let of_client = open.by_client.entry(client).or_default();
        if !has_room || of_client.waiting >= allowed.per_client {
            open.forget_if_gone(client);
            return Admitted::Never;
        }
        of_client.waiting += 1;
        open.waiting += 1;
        Admitted::Later(QueuedConnection { of: Arc::clone(self), client, caps })
    }

    fn place(
        self: &Arc<Self>,
        open: &mut OpenConnections,
        client: IpAddr,
        caps: Caps,
        now: Millis,
    ) -> Option<ConnectionSlot> {
        let of_client = open.by_client.get(&client).map_or(0, |of_client| of_client.spots.len());
        if of_client >= caps.per_client {
            open.free_one_of(client, now)?;
        } else if open.total >= caps.total {
            let (most, _) = open.by_client.iter().max_by_key(|(_, other)| other.spots.len())?;
            // A client that has as many connections as any other gives up one of its own.
            let most = if open.of(*most) > of_client { *most } else { client };
            open.free_one_of(most, now)?;
        }
        let spot = Arc::new(Spot { idle_since: now.into(), leave: Notify::new() });
        open.total += 1;
        open.by_client.entry(client).or_default().spots.push(Arc::clone(&spot));
        Some(ConnectionSlot { of: Arc::clone(self), client, spot })
    }

    /// Locks the state. It is consistent between any two statements that can panic.
    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    fn of(&self, client: IpAddr) -> usize {
        self.by_client.get(&client).map_or(0, |of_client| of_client.spots.len())
    }

    /// Removes the client's longest idle connection from the count, and signals it to close.
    fn free_one_of(&mut self, client: IpAddr, now: Millis) -> Option<()> {
        let spots = &mut self.by_client.get_mut(&client)?.spots;
        let since = |spot: &Arc<Spot>| spot.idle_since.load(Ordering::Relaxed);
        let at = (0..spots.len()).min_by_key(|at| since(&spots[*at]))?;
        if since(&spots[at]).saturating_add(GRACE) > now {
            return None;
        }
        spots.swap_remove(at).leave.notify_one();
        self.total -= 1;
        Some(())
    }

    fn forget_if_gone(&mut self, client: IpAddr) {
        if self.by_client.get(&client).is_some_and(|of_client| of_client.spots.is_empty() && of_client.waiting == 0) {
            self.by_client.remove(&client);
        }
    }
}

/// Returns the limits, reduced if `room`, the available file descriptors, is less.
fn within(room: usize, caps: Caps) -> Caps {
    if caps.total <= room {
        return caps;
    }
    let share = caps.per_client.saturating_mul(room) / caps.total;
    Caps { total: room, per_client: share.max(LEAST_PER_CLIENT).min(caps.per_client) }
}

impl ConnectionSlot {
    /// Records since when the connection is idle; `None` if it is in use and must not make room for another one.
    pub(crate) fn note_idle(&self, since: Option<Millis>) {
        self.spot.idle_since.store(since.unwrap_or(BUSY), Ordering::Relaxed);
    }

    /// Waits until the slot has been given to another connection; this one must close then.
    pub(crate) async fn given_away(&self) {
        self.spot.leave.notified().await;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut open = self.of.open();
        if let Some(of_client) = open.by_client.get_mut(&self.client) {
            let at = of_client.spots.iter().position(|spot| Arc::ptr_eq(spot, &self.spot));
            // Otherwise another connection has the slot.
            if let Some(at) = at {
                of_client.spots.swap_remove(at);
                open.total -= 1;
            }
        }
        open.forget_if_gone(self.client);
        drop(open);
        self.of.freed.notify_waiters();
    }
}

impl QueuedConnection {
    /// Returns a slot if one becomes free in time. `now` returns the current time.
    pub(crate) async fn place(self, now: impl Fn() -> Millis) -> Option<ConnectionSlot> {
        let found = async {
            loop {
                let freed = self.of.freed.notified();
                let allowed = within(self.of.descriptors.clients(), self.caps);
                let place = self.of.place(&mut self.of.open(), self.client, allowed, now());
                if let Some(place) = place {
                    return place;
                }
                // A connection that becomes idle sends no notification.
                let _ = timeout(Duration::from_millis(GRACE), freed).await;
            }
        };
        timeout(PATIENCE, found).await.ok()
    }
}

impl Drop for QueuedConnection {
    fn drop(&mut self) {
        let mut open = self.of.open();
        open.waiting -= 1;
        if let Some(of_client) = open.by_client.get_mut(&self.client) {
            of_client.waiting -= 1;
        }
        open.forget_if_gone(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps(total: usize, per_client: usize) -> Caps {
        Caps { total, per_client }
    }

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn place(open: &Arc<Connections>, last: u8, caps: Caps, now: Millis) -> Option<ConnectionSlot> {
        match open.admit(client(last), caps, now) {
            Admitted::Now(place) => Some(place),
            Admitted::Later(_) | Admitted::Never => None,
        }
    }

    #[test]
    fn few_descriptors_lower_both_caps() {
        let within = |room, total, per_client| {
            let Caps { total, per_client } = within(room, caps(total, per_client));
            (total, per_client)
        };
        assert_eq!(within(usize::MAX, 1_024, 64), (1_024, 64));
        assert_eq!(within(256, 1_024, 64), (256, 16));
        assert_eq!(within(20, 1_024, 64), (20, LEAST_PER_CLIENT));
        assert_eq!(within(20, 1_024, 2), (20, 2));
    }

    #[test]
    fn caps_in_all_and_per_client() {
        let open = Arc::new(Connections::default());
        let busy = |last| {
            let place = place(&open, last, caps(3, 2), 0);
            place.inspect(|place| place.note_idle(None))
        };
        let first = busy(1).expect("room");
        let _second = busy(1).expect("room");
        assert!(busy(1).is_none());
        let _third = busy(2).expect("room");
        assert!(busy(3).is_none());
        drop(first);
        assert!(busy(3).is_some());
        assert_eq!(open.open().total, 2);
    }

    #[tokio::test]
    async fn the_longest_idle_one_of_the_client_makes_room() {
        let open = Arc::new(Connections::default());
        let caps = caps(10, 3);
        let places = [0, 1, 2].map(|at| place(&open, 1, caps, at).expect("room"));
        places[0].note_idle(None);
        places[2].note_idle(Some(1_000));
        // The second connection is idle since 1, which is not yet long enough.
        assert!(place(&open, 1, caps, GRACE).is_none());
        let new = place(&open, 1, caps, GRACE + 1).expect("room");
        places[1].given_away().await;
        assert_eq!(open.open().total, 3);
        drop(places);
        assert_eq!(open.open().total, 1, "the place of the one that left is the new one's");
        drop(new);
        assert!(open.open().by_client.is_empty());
    }

    #[tokio::test]
    async fn over_the_cap_in_all_the_one_with_most_makes_room() {
        let open = Arc::new(Connections::default());
        let caps = caps(4, 3);
        let many = [0, 1, 2].map(|at| place(&open, 1, caps, at).expect("room"));
        let _old = place(&open, 2, caps, 0).expect("room");
        let _new = place(&open, 3, caps, 10_000).expect("room");
        many[0].given_away().await;
        // No client has more connections than the newcomer: it gives up one of its own.
        let own = place(&open, 3, caps, 20_000).expect("room");
        many[1].given_away().await;
        let _again = place(&open, 3, caps, 30_000).expect("room: its own");
        tokio::select! {
            biased;
            () = _new.given_away() => {}
            () = own.given_away() => panic!("the longest idle one is to go"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_is_idle_a_few_wait() {
        let open = Arc::new(Connections::default());
        let caps = caps(8, 2);
        let busy = [0, 1].map(|_| place(&open, 1, caps, 0).expect("room"));
        busy.iter().for_each(|place| place.note_idle(None));
        let waiting = [0, 1].map(|_| open.admit(client(1), caps, 0));
        assert!(matches!(open.admit(client(1), caps, 0), Admitted::Never), "two wait already");
        let [first, Admitted::Later(waiting)] = waiting else { panic!("both wait") };
        drop((first, busy));
        let place = waiting.place(|| 0).await.expect("a place");
        place.note_idle(None);
        let _other = open.admit(client(1), caps, 0);
        let Admitted::Later(waiting) = open.admit(client(1), caps, 0) else { panic!("it waits") };
        assert!(waiting.place(|| 0).await.is_none(), "not for ever");
        drop(place);
        drop(_other);
        assert!(open.open().by_client.is_empty() && open.open().waiting == 0);
    }
}

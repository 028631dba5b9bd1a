//! How many TCP connections there may be, in all and of one client.
//!
//! Over a cap, the longest idle connection makes room for a new one (RFC 7766 section 6.2.3): of the same client, or of the
//! one that has most. Where none is idle the new one waits for a place, since most connections bring one query and go.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::descriptors::Descriptors;
use crate::clock::Millis;

/// Connections that one client may have where file descriptors are scarce, at least.
const LEAST_PER_CLIENT: usize = 4;
/// How long a connection must have been idle to make room: the query of a new one may be on its way.
const GRACE: Millis = 250;
/// Of the connections that there may be, one part in so many may wait for a place besides.
const WAITING_PART: usize = 4;
/// How long one waits for a place.
const PATIENCE: Duration = Duration::from_secs(5);

/// Caps on connections.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// In all.
    pub total: usize,
    /// Of one client.
    pub per_client: usize,
}

/// Connections of those who may not ask: each is told so, and closed.
const STRANGERS: Caps = Caps { total: 16, per_client: 4 };

/// The open connections of all workers.
#[derive(Debug)]
pub struct Connections {
    descriptors: Arc<Descriptors>,
    /// Those of clients that may not ask.
    strangers: Option<Arc<Self>>,
    open: Mutex<Open>,
    /// A place has become free.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    waiting: usize,
    by_client: HashMap<IpAddr, OfClient>,
}

#[derive(Debug, Default)]
struct OfClient {
    spots: Vec<Arc<Spot>>,
    waiting: usize,
}

/// What others see of a connection.
#[derive(Debug, Default)]
struct Spot {
    /// Since when it is idle; [`BUSY`]: it is not.
    idle_since: AtomicU64,
    /// It is to make room.
    leave: Notify,
}

/// No time.
const BUSY: u64 = u64::MAX;

/// One connection's place; dropping it makes room for another.
#[derive(Debug)]
pub struct Place {
    of: Arc<Connections>,
    client: IpAddr,
    spot: Arc<Spot>,
}

/// A connection that waits for a place.
#[derive(Debug)]
pub struct Waiting {
    of: Arc<Connections>,
    client: IpAddr,
    caps: Caps,
}

/// Whether there is room for a connection.
#[derive(Debug)]
pub enum Admitted {
    /// This is its place.
    Now(Place),
    /// Not yet.
    Later(Waiting),
    /// No.
    Never,
}

impl Default for Connections {
    /// Not bounded by file descriptors.
    fn default() -> Self {
        Self::within(Arc::new(Descriptors::unlimited()))
    }
}

impl Connections {
    /// At most as many as their share of the file descriptors.
    pub fn within(descriptors: Arc<Descriptors>) -> Self {
        let of = |strangers| Self {
            descriptors: Arc::clone(&descriptors),
            strangers,
            open: Mutex::default(),
            freed: Notify::new(),
        };
        of(Some(Arc::new(of(None))))
    }

    /// A place for a connection of a client that may not ask, among few that are for such alone.
    pub fn admit_stranger(&self, client: IpAddr, now: Millis) -> Admitted {
        self.strangers.as_ref().map_or(Admitted::Never, |strangers| strangers.admit(client, STRANGERS, now))
    }

    /// A place for a connection of `client` that came at `now`, or for one that is idle since. Where there are not descriptors
    /// enough for the caps, both are less, in the same proportion.
    pub fn admit(self: &Arc<Self>, client: IpAddr, caps: Caps, now: Millis) -> Admitted {
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
        Admitted::Later(Waiting { of: Arc::clone(self), client, caps })
    }

    fn place(self: &Arc<Self>, open: &mut Open, client: IpAddr, caps: Caps, now: Millis) -> Option<Place> {
        let of_client = open.by_client.get(&client).map_or(0, |of_client| of_client.spots.len());
        if of_client >= caps.per_client {
            open.free_one_of(client, now)?;
        } else if open.total >= caps.total {
            let (most, _) = open.by_client.iter().max_by_key(|(_, other)| other.spots.len())?;
            // One that has as many as anybody has to do with these.
            let most = if open.of(*most) > of_client { *most } else { client };
            open.free_one_of(most, now)?;
        }
        let spot = Arc::new(Spot { idle_since: now.into(), leave: Notify::new() });
        open.total += 1;
        open.by_client.entry(client).or_default().spots.push(Arc::clone(&spot));
        Some(Place { of: Arc::clone(self), client, spot })
    }

    /// They are consistent between any two statements that can panic.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn of(&self, client: IpAddr) -> usize {
        self.by_client.get(&client).map_or(0, |of_client| of_client.spots.len())
    }

    /// Takes the place of the client's longest idle connection, and tells that to leave.
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

/// Caps while file descriptors are not scarce; lower ones where they are.
fn within(room: usize, caps: Caps) -> Caps {
    if caps.total <= room {
        return caps;
    }
    let share = caps.per_client.saturating_mul(room) / caps.total;
    Caps { total: room, per_client: share.max(LEAST_PER_CLIENT).min(caps.per_client) }
}

impl Place {
    /// Notes that the connection is idle since then, or that it is not: then nobody may take its place.
    pub fn note_idle(&self, since: Option<Millis>) {
        self.spot.idle_since.store(since.unwrap_or(BUSY), Ordering::Relaxed);
    }

    /// Waits until another connection has the place: this one is to end.
    pub async fn given_away(&self) {
        self.spot.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.open();
        if let Some(of_client) = open.by_client.get_mut(&self.client) {
            let at = of_client.spots.iter().position(|spot| Arc::ptr_eq(spot, &self.spot));
            // Otherwise another one has its place.
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

impl Waiting {
    /// The place, if one becomes free in time. `now` tells the time.
    pub async fn place(self, now: impl Fn() -> Millis) -> Option<Place> {
        let found = async {
            loop {
                let freed = self.of.freed.notified();
                let allowed = within(self.of.descriptors.clients(), self.caps);
                let place = self.of.place(&mut self.of.open(), self.client, allowed, now());
                if let Some(place) = place {
                    return place;
                }
                // One that has become idle does not say so.
                let _ = timeout(Duration::from_millis(GRACE), freed).await;
            }
        };
        timeout(PATIENCE, found).await.ok()
    }
}

impl Drop for Waiting {
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

    fn place(open: &Arc<Connections>, last: u8, caps: Caps, now: Millis) -> Option<Place> {
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
        // The second is idle since 1, and not long enough by now.
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
        // Now nobody has much more than another: each has to do with what it has.
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

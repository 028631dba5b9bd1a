//! How many TCP connections there may be, in all and of one client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::descriptors::Descriptors;

/// Connections that one client may have where file descriptors are scarce, at least.
const LEAST_PER_CLIENT: usize = 4;

/// The open connections of all workers.
#[derive(Debug)]
pub struct Connections {
    descriptors: Arc<Descriptors>,
    by_client: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// One connection's place; dropping it makes room for another.
#[derive(Debug)]
pub struct Place {
    of: Arc<Connections>,
    client: IpAddr,
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
        Self { descriptors, by_client: Mutex::default() }
    }

    /// A place for a connection of `client`, unless there are `most` already, or `most_per_client` of this client. Where there
    /// are not descriptors enough for `most`, both are less, in the same proportion.
    pub fn admit(self: &Arc<Self>, client: IpAddr, most: usize, most_per_client: usize) -> Option<Place> {
        let (most, most_per_client) = within(self.descriptors.clients(), most, most_per_client);
        let mut open = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = open.1.get(&client).copied().unwrap_or(0);
        if open.0 >= most || of_client >= most_per_client {
            return None;
        }
        open.0 += 1;
        open.1.insert(client, of_client + 1);
        Some(Place { of: Arc::clone(self), client })
    }
}

/// Caps while file descriptors are not scarce.
fn within(room: usize, most: usize, most_per_client: usize) -> (usize, usize) {
    if most <= room {
        return (most, most_per_client);
    }
    let share = most_per_client.saturating_mul(room) / most;
    (room, share.max(LEAST_PER_CLIENT).min(most_per_client))
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.of.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 = open.0.saturating_sub(1);
        if let Some(count) = open.1.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.1.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_lower_both_caps() {
        assert_eq!(within(usize::MAX, 1_024, 64), (1_024, 64));
        assert_eq!(within(256, 1_024, 64), (256, 16));
        assert_eq!(within(20, 1_024, 64), (20, LEAST_PER_CLIENT));
        assert_eq!(within(20, 1_024, 2), (20, 2));
    }

    #[test]
    fn caps_in_all_and_per_client() {
        let open = Arc::new(Connections::default());
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        let first = open.admit(a, 3, 2).expect("room");
        let _second = open.admit(a, 3, 2).expect("room");
        assert!(open.admit(a, 3, 2).is_none());
        let _third = open.admit(b, 3, 2).expect("room");
        assert!(open.admit(c, 3, 2).is_none());
        drop(first);
        assert!(open.admit(c, 3, 2).is_some());
    }
}

//! How many TCP connections there may be, in all and of one client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The open connections of all workers.
#[derive(Debug, Default)]
pub struct Connections {
    by_client: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// One connection's place; dropping it makes room for another.
#[derive(Debug)]
pub struct Place {
    of: Arc<Connections>,
    client: IpAddr,
}

impl Connections {
    /// A place for a connection of `client`, unless there are `most` already, or `most_per_client` of this client.
    pub fn admit(self: &Arc<Self>, client: IpAddr, most: usize, most_per_client: usize) -> Option<Place> {
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

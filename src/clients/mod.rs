//! Attribution: from a source address and a time to a pod, its job and its project.
//!
//! ```text
//! the API's events ──► watch ──► manifest ──► runner ──► pods ──► address_owners ──┐
//!                                parsed      job and    addresses swapped          │
//!                                pod         its facts  over time whole            ├──► Clients ──► identity
//! [[client]] of the configuration ──────────────────────► static_clients ──────────┘
//!                                                          in the snapshot
//! ```
//!
//! [`views`] chooses the view of a client.
//!
//! If more than one pod may have an address, the client is unknown. An unknown client never delays or fails a query.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::clock::Millis;

mod address;
pub mod address_owners;
pub(crate) mod api;
pub mod client;
pub(crate) mod manifest;
pub mod pods;
pub(crate) mod predicted_hosts;
pub(crate) mod runner;
mod runner_kinds;
pub(crate) mod search;
pub(crate) mod startup_taint;
pub(crate) mod static_clients;
mod unknown;
pub(crate) mod view_cache;
pub(crate) mod views;
pub(crate) mod watch;

pub use address::key;
pub use address_owners::AddressOwners;
pub use client::Client;
pub use static_clients::StaticClients;
pub use unknown::Unknown;
pub use views::Views;

/// Owners of the pods' addresses: an immutable table, swapped as a whole. The `[[client]]`s are part of the configuration's
/// snapshot and change together with the views that select them.
#[derive(Debug, Default)]
pub struct Clients {
    pods: ArcSwap<AddressOwners>,
}

/// The current table of pods and the clients of one configuration, for a batch of look-ups without further atomic
/// operations.
pub struct Tables<'s> {
    fixed: &'s StaticClients,
    pods: Guard<Arc<AddressOwners>>,
}

/// Result of the attribution of an address to a client.
#[derive(Clone, Copy, Debug)]
pub enum ClientIdentity<'t> {
    /// The address belongs to one client, at the time of the query.
    Known {
        /// The client that has the address.
        client: &'t Arc<Client>,
        /// Time since which it is known to have the address; `None` for a `[[client]]`.
        since: Option<Millis>,
    },
    /// An unidentified client, with the reason.
    Unknown(Unknown),
}

impl Clients {
    /// Returns the current table of pods together with the clients of a configuration.
    #[inline]
    pub fn tables<'s>(&self, fixed: &'s StaticClients) -> Tables<'s> {
        Tables { fixed, pods: self.pods.load() }
    }

    /// Replaces the table of pods.
    pub fn put_pods(&self, pods: AddressOwners) {
        self.pods.store(Arc::new(pods));
    }
}

impl Tables<'_> {
    /// Returns the client that had `address` at `at`. An identified pod takes precedence over a `[[client]]` for its
    /// network.
    #[inline]
    pub fn identify(&self, address: IpAddr, at: Millis) -> ClientIdentity<'_> {
        match self.pods.identify(address, at) {
            Ok((client, since)) => ClientIdentity::Known { client, since: Some(since) },
            Err(why) => match self.fixed.identify(address) {
                Some(client) => ClientIdentity::Known { client, since: None },
                None => ClientIdentity::Unknown(why),
            },
        }
    }
}

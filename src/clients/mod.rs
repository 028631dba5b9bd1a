//! Who asks: from a source address and a time to a pod, its job, its project.
//!
//! ```text
//! the API's events ──► watch ──► manifest ──► runner ──► pods ──► table ──┐
//!                                what is     is it a    who has   swapped │
//!                                kept        job?       what      in      ├──► Clients ──► who asks?
//! [[client]] of the configuration ──────────────────────► fixed ──────────┘
//!                                                          in the snapshot
//! ```
//!
//! [`views`] tells which of the configuration's views the one who asks is of.
//!
//! Rightly or not at all: where two pods may be meant, nobody is. Knowing nobody never delays or fails a query.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::clock::Millis;

mod address;
pub mod api;
pub mod client;
pub mod fixed;
pub mod likely;
pub mod manifest;
pub mod pods;
pub mod runner;
pub mod search;
pub mod table;
mod unknown;
pub mod view_cache;
pub mod views;
pub mod watch;

pub use address::key;
pub use client::Client;
pub use fixed::StaticClients;
pub use table::Table;
pub use unknown::Unknown;
pub use views::Views;

/// Which pod has which address: an immutable table, swapped as a whole. The configuration's own clients are part of its
/// snapshot, so that they and the views that select them change together.
#[derive(Debug, Default)]
pub struct Clients {
    pods: ArcSwap<Table>,
}

/// The pods of this moment and the clients of one configuration, for a batch of look-ups without any further atomic
/// operation.
pub struct Tables<'s> {
    fixed: &'s StaticClients,
    pods: Guard<Arc<Table>>,
}

/// Whoever asks.
#[derive(Clone, Copy, Debug)]
pub enum ClientIdentity<'t> {
    /// This one, without doubt.
    Known {
        /// It.
        client: &'t Arc<Client>,
        /// Since when it is known to have the address; none if the configuration says so.
        since: Option<Millis>,
    },
    /// Not known, and why.
    Unknown(Unknown),
}

impl Clients {
    /// The pods of this moment beside the clients of a configuration.
    #[inline]
    pub fn tables<'s>(&self, fixed: &'s StaticClients) -> Tables<'s> {
        Tables { fixed, pods: self.pods.load() }
    }

    /// Puts another table of pods in force.
    pub fn put_pods(&self, pods: Table) {
        self.pods.store(Arc::new(pods));
    }
}

impl Tables<'_> {
    /// Who had `address` at `at`. A pod that is known beyond doubt comes before what the configuration says of its
    /// network.
    #[inline]
    pub fn who(&self, address: IpAddr, at: Millis) -> ClientIdentity<'_> {
        match self.pods.who(address, at) {
            Ok((client, since)) => ClientIdentity::Known { client, since: Some(since) },
            Err(why) => match self.fixed.who(address) {
                Some(client) => ClientIdentity::Known { client, since: None },
                None => ClientIdentity::Unknown(why),
            },
        }
    }
}

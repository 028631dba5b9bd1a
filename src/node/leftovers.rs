//! Removal of what an earlier configuration has left on the node: addresses of nodens that are no longer configured or have moved
//! to another link, and a table that is no longer configured.
//!
//! A predecessor in standby may serve again, and holds its sockets until it exits. So an address stays as long as any process
//! listens on it, unless another program has put it on a link too. What another process adds later is not a leftover.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::addresses::{Inventory, Present};
use super::error::NodeError;
use super::listeners::{TCP, UDP, listening};
use super::maintenance::is_over;
use super::nft::Nft;
use super::removal::{is_automatic, remove_addresses};
use super::{NodeNetwork, firewall};

/// First interval between checks, which doubles up to [`LONGEST_PAUSE`]. A process that starts at the same time has opened its
/// sockets by the first check.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Number of times that the table is removed: a predecessor that still serves restores it once.
const TABLE_CHECKS: u8 = 2;

/// Addresses that are to be removed once that is safe.
#[derive(Default)]
struct Leftovers {
    /// Addresses that are configured, but on another link.
    moved: Vec<Present>,
    /// Addresses that are not configured.
    old: Vec<Present>,
}

impl NodeNetwork {
    /// Removes leftovers, each as soon as that is safe, and none while `is_paused`; returns when there are none. To be called when the process
    /// begins to serve.
    pub(crate) async fn remove_leftovers(&self, mut is_paused: watch::Receiver<bool>) {
        is_over(&mut is_paused).await;
        let mut table_checks = if self.firewall.is_none() { TABLE_CHECKS } else { 0 };
        let mut left = self.leftovers().unwrap_or_default();
        let (mut pause, mut is_told) = (FIRST_PAUSE, false);
        loop {
            if table_checks > 0 && remove_unused_table() {
                table_checks -= 1;
            }
            if left.is_empty() && table_checks == 0 {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            is_over(&mut is_paused).await;
            left = left.remove_unused().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot remove addresses of an earlier configuration");
                Leftovers::default()
            });
            if !left.is_empty() && !std::mem::replace(&mut is_told, true) {
                let addresses = left.old.iter().map(|found| found.ip.to_string()).collect::<Vec<_>>().join(", ");
                tracing::info!(addresses, "a process listens on an address of an earlier configuration");
            }
        }
    }

    /// Returns the addresses that an earlier configuration has left; `None` if the kernel does not list them.
    fn leftovers(&self) -> Option<Leftovers> {
        let inventory = Inventory::read().ok()?;
        let wanted = &self.settings.addresses;
        let is_own = |found: &&Present| inventory.is_own(found) && !is_automatic(found.ip);
        let own = inventory.present.iter().filter(is_own).cloned();
        let (configured, old): (Vec<_>, _) = own.partition(|found| wanted.contains(&found.ip));
        let link = inventory.link_for(&self.settings.interface, wanted);
        let is_moved = |found: &Present| {
            let is_there = |other: &Present| other.ip == found.ip && link.is_some_and(|link| link.index == other.link);
            !inventory.is_good(found, &self.settings.interface)
                && !is_there(found)
                && inventory.present.iter().any(is_there)
        };
        Some(Leftovers { moved: configured.into_iter().filter(is_moved).collect(), old })
    }
}

impl Leftovers {
    fn is_empty(&self) -> bool {
        self.moved.is_empty() && self.old.is_empty()
    }

    /// Removes the addresses on which no process listens, and those that have moved; returns the others.
    ///
    /// # Errors
    /// The kernel refuses.
    fn remove_unused(self) -> Result<Self, NodeError> {
        let busy: HashSet<IpAddr> = match self.old.is_empty() {
            true => HashSet::new(),
            false => {
                let inventory = Inventory::read()?;
                let busy = listening(&[UDP, TCP].concat()).into_iter().map(|socket| socket.address.ip());
                busy.filter(|ip| !inventory.is_shared(*ip)).collect()
            }
        };
        let (busy, unused): (Vec<_>, Vec<_>) = self.old.into_iter().partition(|found| busy.contains(&found.ip));
        let is_wanted = |found: &Present| {
            unused.iter().chain(&self.moved).any(|left| (left.ip, left.link) == (found.ip, found.link))
        };
        let removed =
            if unused.is_empty() && self.moved.is_empty() { Vec::new() } else { remove_addresses(is_wanted)? };
        if !removed.is_empty() {
            tracing::info!(removed = removed.join(", "), "address of an earlier configuration removed");
        }
        Ok(Self { moved: Vec::new(), old: busy })
    }
}

/// Removes the table if no process renews its addresses; returns false if it has to stay for now. Its fallback would get all queries.
fn remove_unused_table() -> bool {
    let is_alive = Nft::open().and_then(|mut nft| firewall::is_alive(&mut nft));
    match is_alive {
        Ok(true) => false,
        Ok(false) => {
            if firewall::remove().unwrap_or(false) {
                tracing::info!("nftables table of an earlier configuration removed");
            }
            true
        }
        // No permission, or a kernel without nftables.
        Err(_) => true,
    }
}

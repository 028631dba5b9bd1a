//! The node's network: one fixed address that is the same on every node, and queries to it without connection tracking.
//!
//! ```text
//! start ──► link ──► addresses ──► firewall ──► (listeners are bound)
//!             reconcile: on a notification of the kernel, and every minute
//! stop  ──► firewall ──► addresses, link: removes only what nodens created
//! ```
//!
//! - `addresses`: links and addresses, over rtnetlink, and `placement`: which link gets which address;
//! - `firewall`: the table of nftables, `rules`: its content, `nft` and `expression`: their encoding for the kernel, over
//!   nfnetlink, and `kernel_table`: what the kernel has;
//! - `renewal`: tells the kernel that nodens serves, so that its fallback does not;
//! - `foreign`: chains of other programs that may drop queries;
//! - `leftovers`: removes what an earlier configuration has left, `listeners`: which addresses are in use;
//! - `maintenance`: reconciles, `state`: what `nodens node status` shows;
//! - `netlink`: the protocol for all requests to the kernel.
//!
//! A process that dies leaves everything in place, and its successor finds it as configured. Until then the fallback answers.
//! Without a successor, `nodens node cleanup` removes it.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use self::addresses::{Inventory, LOOPBACK, Present};
pub(crate) use self::error::NodeError;
use self::firewall::Firewall;
pub(crate) use self::firewall::PacketCounts;
use self::listeners::{TCP, UDP, listening};
pub(crate) use self::listeners::{inode, others_at};
pub(crate) use self::removal::remove;
use self::removal::remove_addresses;
pub(crate) use self::renewal::{Renewal, Successor};
use self::rules::Fallback;
use crate::config::node::{FirewallKind as WantedFirewall, Interface};
use crate::config::{Config, NodeConfig as Settings};

mod addresses;
mod error;
mod expression;
mod firewall;
mod foreign;
pub(crate) mod ipv6;
mod kernel_table;
mod leftovers;
mod listeners;
mod maintenance;
mod netlink;
mod nft;
mod placement;
mod removal;
mod renewal;
mod rules;
pub(crate) mod state;

/// Link on which NodeLocal DNSCache puts its addresses, and which it leaves on the node if it is killed.
const NODE_CACHE_LINK: &str = "nodelocaldns";

/// Configured network of the node.
pub(crate) struct NodeNetwork {
    settings: Settings,
    firewall: Option<Firewall>,
    /// Addresses of the server's sockets; one may be the wildcard address.
    served: Vec<SocketAddr>,
}

/// Repairs that were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repaired {
    /// Addresses that were missing.
    pub addresses: Vec<IpAddr>,
    /// Index of the link that has them now.
    link: u32,
    /// True if the table was missing or different.
    pub firewall: bool,
}

impl Repaired {
    pub(crate) fn is_nothing(&self) -> bool {
        self.addresses.is_empty() && !self.firewall
    }
}

impl NodeNetwork {
    /// Returns the network that the configuration asks for, if any. With `take_over`, an address has no fallback while another program
    /// has it too.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let settings = config.node.clone()?;
        let inventory = settings.take_over.then(|| Inventory::read().ok()).flatten();
        let is_shared = |ip: &&IpAddr| inventory.as_ref().is_some_and(|inventory| inventory.is_shared(**ip));
        let shared: Vec<IpAddr> = settings.addresses.iter().filter(is_shared).copied().collect();
        let fallback = Fallback { servers: &settings.fallback, shared: &shared };
        let firewall = (settings.firewall == WantedFirewall::Nft).then(|| Firewall::new(&settings.listen, fallback));
        Some(Self { settings, firewall, served: config.server.listen.clone() })
    }

    /// Puts the network into the configured state, without changes to the parts that are correct. `serves` is true if a predecessor
    /// serves on these addresses.
    ///
    /// # Errors
    /// An address cannot be set up. A failure of the firewall is only logged as a warning, since the addresses work without it.
    pub(crate) fn set_up(&self, serves: bool) -> Result<Repaired, NodeError> {
        let mut repaired = Repaired::default();
        if let Err(error) = self.put_addresses(&mut repaired) {
            // Half of the addresses would answer no query.
            self.undo_addresses(&repaired);
            return Err(error);
        }
        let dropping: Vec<_> =
            foreign::dropping_chains(&self.settings.listen).iter().map(ToString::to_string).collect();
        if !dropping.is_empty() {
            tracing::warn!("another firewall of this node may drop queries: {}", dropping.join("; "));
        }
        match self.put_firewall(serves) {
            Ok(firewall) => Ok(Repaired { firewall, ..repaired }),
            Err(error) => {
                let why = NodeError::of(error, "write the table nodens of nftables");
                tracing::warn!(%why, "cannot exclude queries from connection tracking; serving without the exclusion");
                Ok(repaired)
            }
        }
    }

    /// Puts the network into the configured state without serving, so that the fallback answers until nodens serves. Changes nothing
    /// if nodens serves already.
    ///
    /// # Errors
    /// There is no fallback, or the kernel refuses it; another program listens on an address; an address cannot be set up.
    pub(crate) fn prepare(&self) -> Result<(), NodeError> {
        let firewall =
            self.firewall.as_ref().filter(|firewall| firewall.has_fallback()).ok_or(NodeError::NoFallback)?;
        if renewal::is_renewed() {
            return Ok(());
        }
        if let Some(used) = self.used_by_others(&HashSet::new()).first() {
            return Err(NodeError::InUse(*used));
        }
        let mut repaired = Repaired::default();
        let failed = |error| NodeError::of(error, "write the table nodens of nftables");
        let put = self.put_addresses(&mut repaired).and_then(|()| self.put_firewall(false).map_err(failed));
        let put = put.and_then(|is_new| match firewall.has_fallback() {
            true => Ok(()),
            false => {
                // There is another error to report.
                let _ = is_new.then(firewall::remove);
                Err(NodeError::NoFallback)
            }
        });
        put.inspect_err(|_| self.undo_addresses(&repaired))
    }

    /// Adds the missing addresses, and records them in `repaired`.
    fn put_addresses(&self, repaired: &mut Repaired) -> Result<(), NodeError> {
        let Settings { interface, addresses: wanted, .. } = &self.settings;
        let (mut addresses, inventory) = Inventory::open()?;
        let link = inventory.link_for(interface, wanted);
        if let (Interface::Named(name), None) = (interface, link) {
            return Err(NodeError::NoLink(name.clone()));
        }
        let is_foreign = |found: &&Present| wanted.contains(&found.ip) && !inventory.is_own(found);
        if let (true, Some(link)) = (self.settings.take_over, link)
            && link.name != LOOPBACK
            && inventory.present.iter().filter(is_foreign).any(|found| found.link == link.index)
        {
            return Err(NodeError::ForeignLink(link.name.clone()));
        }
        let may_share = |found: &Present| self.settings.take_over || is_left_by_node_cache(found, &inventory);
        let missing = inventory.missing(interface, wanted, link, may_share)?;
        let link = match link {
            Some(link) => link.clone(),
            None if missing.is_empty() => return Ok(()),
            None => addresses.make(interface)?,
        };
        addresses.set_up(&link)?;
        repaired.link = link.index;
        for ip in missing {
            let failed = |error| NodeError::of(error, format!("put {ip} on the link {}", link.name));
            addresses.add(ip, &link).map_err(failed)?;
            if inventory.is_shared(ip) {
                tracing::info!(address = %ip, link = link.name, "added an address that another program has on another link");
            }
            repaired.addresses.push(ip);
        }
        Ok(())
    }

    /// Removes the addresses that were added.
    pub(crate) fn undo_addresses(&self, repaired: &Repaired) {
        let is_added = |found: &Present| found.link == repaired.link && repaired.addresses.contains(&found.ip);
        if !repaired.addresses.is_empty() {
            // There is another error to report.
            let _ = remove_addresses(is_added);
        }
    }

    /// Writes the table if it is not as configured; returns whether it did.
    fn put_firewall(&self, serves: bool) -> io::Result<bool> {
        let Some(firewall) = &self.firewall else { return Ok(false) };
        let missing = !firewall.is_there()?;
        if missing {
            firewall.put(serves)?;
        }
        Ok(missing)
    }

    /// Removes everything that nodens created, except for a fallback that is to remain and for what another process uses: addresses
    /// on which it listens for queries, unless it has them on a link of its own, and the table, unless that has a fallback that the
    /// process does not renew. `own` has the inodes of this process's sockets. Continues after a failure.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) fn tear_down(&self, own: &HashSet<u64>) -> Result<Vec<String>, NodeError> {
        let used = self.needed_by_others(own);
        if !used.is_empty() {
            let addresses = used.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            tracing::info!(addresses, "another process listens here: its addresses stay");
        }
        let is_unused = |ip: &IpAddr| self.settings.addresses.contains(ip) && !used.contains(ip);
        let has_fallback = self.firewall.as_ref().is_some_and(Firewall::has_fallback);
        // The fallback would get all queries of a process that does not renew, because it is no nodens.
        let is_shared = || !used.is_empty() && (!has_fallback || renewal::is_renewed());
        if self.settings.keep_fallback && has_fallback || is_shared() {
            return remove_addresses(|found| is_unused(&found.ip));
        }
        removal::remove_all(|found| is_unused(&found.ip))
    }

    /// Undoes a set-up after which this process does not serve. The table remains if another process listens on the addresses.
    pub(crate) fn undo(&self, repaired: &Repaired) {
        self.undo_addresses(repaired);
        if repaired.firewall && self.needed_by_others(&HashSet::new()).is_empty() {
            // There is another error to report.
            let _ = firewall::remove();
        }
    }

    /// Returns the addresses that other processes use and would not have without nodens.
    fn needed_by_others(&self, own: &HashSet<u64>) -> Vec<IpAddr> {
        let mut used = self.used_by_others(own);
        if !used.is_empty()
            && let Ok(inventory) = Inventory::read()
        {
            used.retain(|ip| !inventory.is_shared(*ip));
        }
        used
    }

    /// Returns the node's addresses on which sockets of other processes listen for queries.
    fn used_by_others(&self, own: &HashSet<u64>) -> Vec<IpAddr> {
        let others: Vec<SocketAddr> =
            listening(UDP).iter().filter(|socket| !own.contains(&socket.inode)).map(|socket| socket.address).collect();
        let is_used = |address: &&SocketAddr| {
            let is_of = |other: &SocketAddr| {
                let covers = other.ip() == address.ip() || other.ip().is_unspecified();
                covers && other.port() == address.port() && self.served.contains(other)
            };
            others.iter().any(is_of)
        };
        self.settings.listen.iter().filter(is_used).map(SocketAddr::ip).collect()
    }

    /// Tells the kernel again and again that nodens serves, while `is_responsive` returns true. `None` without a fallback.
    pub(crate) fn renewal(&self, is_responsive: impl Fn() -> bool + Send + 'static) -> Option<Renewal> {
        let firewall = self.firewall.as_ref().filter(|firewall| firewall.has_fallback())?;
        match Renewal::start(firewall.switched(), is_responsive) {
            Ok(renewal) => Some(renewal),
            Err(error) => {
                tracing::error!(%error, "no thread tells the kernel that nodens serves: its fallback answers");
                None
            }
        }
    }

    /// Returns whether the table is configured.
    pub(crate) fn has_table(&self) -> bool {
        self.firewall.is_some()
    }

    /// Sets the counters of the firewall to zero.
    ///
    /// # Errors
    /// The kernel refuses the table.
    pub(crate) fn reset_counts(&self) -> io::Result<()> {
        self.firewall.as_ref().map_or(Ok(()), |firewall| firewall.put(false))
    }
}

/// Removes the table of a predecessor, whose fallback would get all queries once that does not serve.
pub(crate) fn remove_table() {
    // An error means that processes of this network cannot have tables.
    if firewall::remove().unwrap_or(false) {
        tracing::info!("nftables table of the predecessor removed");
    }
}

/// Returns the packets that the table has counted; zero without a table.
pub(crate) fn counts() -> PacketCounts {
    firewall::counts().unwrap_or_default()
}

/// Returns the addresses on this node that are recognizably nodens's own.
///
/// # Errors
/// The kernel does not list its addresses.
pub(crate) fn own_addresses() -> Result<Vec<IpAddr>, NodeError> {
    let inventory = Inventory::read()?;
    Ok(inventory.present.iter().filter(|found| inventory.is_own(found)).map(|found| found.ip).collect())
}

/// Reports whether NodeLocal DNSCache has left the address on the node: it is on its link, and no process listens there.
fn is_left_by_node_cache(found: &Present, inventory: &Inventory) -> bool {
    inventory.link_of(found).is_some_and(|link| link.name == NODE_CACHE_LINK)
        && listening(&[UDP, TCP].concat()).iter().all(|socket| socket.address.ip() != found.ip)
}

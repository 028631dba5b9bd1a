//! Removal of what nodens put on the node.

use std::io;
use std::net::IpAddr;

use super::addresses::{Inventory, NodeLink, Present};
use super::error::NodeError;
use super::{firewall, rules};

/// Removes what nodens put on the node: the table, nodens's own link, and those of `addresses` that nodens put on other links.
/// If `addresses` is empty, removes all addresses that are recognizably nodens's own. Returns what was removed.
///
/// # Errors
/// The first failure. The other removals are still attempted, unless the kernel does not list its links and addresses.
pub(crate) fn remove(addresses: &[IpAddr]) -> Result<Vec<String>, NodeError> {
    remove_all(|found| addresses.is_empty() || addresses.contains(&found.ip))
}

/// As [`remove`], for the wanted addresses.
///
/// # Errors
/// As for [`remove`].
pub(super) fn remove_all(is_wanted: impl Fn(&Present) -> bool) -> Result<Vec<String>, NodeError> {
    let mut removal = Removal::default();
    // The table is removed before the addresses: without nodens these addresses are translated, which needs tracking.
    removal.note(format!("the table {} of nftables", rules::TABLE), firewall::remove().or_else(not_there));
    remove_others(is_wanted, removal)
}

/// Removes those of the wanted addresses that nodens put on the node, and nodens's own link if no other address is left there.
/// Returns what was removed.
///
/// # Errors
/// As for [`remove`].
pub(super) fn remove_addresses(is_wanted: impl Fn(&Present) -> bool) -> Result<Vec<String>, NodeError> {
    remove_others(is_wanted, Removal::default())
}

/// What was removed, and the first failure.
#[derive(Default)]
struct Removal {
    removed: Vec<String>,
    failed: Option<NodeError>,
}

impl Removal {
    fn note(&mut self, what: String, result: io::Result<bool>) {
        match result {
            Ok(true) => self.removed.push(what),
            Ok(false) => {}
            Err(error) => drop(self.failed.get_or_insert(NodeError::of(error, format!("remove {what}")))),
        }
    }
}

fn remove_others(is_wanted: impl Fn(&Present) -> bool, mut removal: Removal) -> Result<Vec<String>, NodeError> {
    let (mut addresses, inventory) = Inventory::open()?;
    let own = inventory.links.iter().find(|link| link.is_own());
    let is_on = |found: &Present, link: &NodeLink| found.link == link.index;
    // With the link, the kernel removes its addresses.
    let unused = own.filter(|link| {
        let mut others = inventory.present.iter().filter(|found| is_on(found, link) && !is_wanted(found));
        others.all(|found| is_automatic(found.ip))
    });
    for found in inventory.present.iter().filter(|found| inventory.is_own(found) && is_wanted(found)) {
        let Some(link) = inventory.link_of(found).filter(|_| unused.is_none_or(|link| !is_on(found, link))) else {
            continue;
        };
        let what = format!("{} from the link {}", found.ip, link.name);
        removal.note(what, addresses.remove(found).map(|()| true));
    }
    if let Some(link) = unused {
        removal.note(format!("the link {}", link.name), addresses.remove_link(link).map(|()| true));
    }
    removal.failed.map_or(Ok(removal.removed), Err)
}

/// Reports whether the kernel may have added the address by itself.
pub(super) fn is_automatic(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Treats the error of a kernel without nftables as a missing table.
fn not_there(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL) => Ok(false),
        _ => Err(error),
    }
}

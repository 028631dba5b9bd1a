//! Removal of what nodens put on the node.

use std::io;
use std::net::IpAddr;

use super::addresses::Addresses;
use super::error::NodeError;
use super::{firewall, rules};

/// Removes what nodens put on the node: the table, nodens's own link, and those of `addresses` that nodens put on other links.
/// If `addresses` is empty, removes all addresses that are recognizably nodens's own. Returns what was removed.
///
/// # Errors
/// The first failure. The other removals are still attempted, unless the kernel does not list its links and addresses.
pub(crate) fn remove(addresses: &[IpAddr]) -> Result<Vec<String>, NodeError> {
    let mut removal = Removal::default();
    // The table is removed before the addresses: without nodens these addresses are translated, which needs tracking.
    removal.note(format!("the table {} of nftables", rules::TABLE), firewall::remove().or_else(not_there));
    remove_others(addresses, removal)
}

/// As [`remove`], without the table.
///
/// # Errors
/// As for [`remove`].
pub(super) fn remove_addresses(addresses: &[IpAddr]) -> Result<Vec<String>, NodeError> {
    remove_others(addresses, Removal::default())
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

/// Removes nodens's own link, and those of `addresses` that nodens put on other links.
fn remove_others(addresses: &[IpAddr], mut removal: Removal) -> Result<Vec<String>, NodeError> {
    let mut tables = Addresses::open().map_err(|error| NodeError::of(error, "ask the kernel for its addresses"))?;
    let links = tables.links().map_err(|error| NodeError::of(error, "list links"))?;
    for present in tables.present().map_err(|error| NodeError::of(error, "list addresses"))? {
        let Some(link) = links.iter().find(|link| link.index == present.link) else { continue };
        let wanted = addresses.is_empty() || addresses.contains(&present.ip);
        if wanted && present.is_own(link) && !link.is_own() {
            removal.note(format!("{} from the link {}", present.ip, link.name), tables.remove(&present).map(|()| true));
        }
    }
    if let Some(link) = links.iter().find(|link| link.is_own()) {
        removal.note(format!("the link {}", link.name), tables.remove_link(link).map(|()| true));
    }
    removal.failed.map_or(Ok(removal.removed), Err)
}

/// Treats the error of a kernel without nftables as a missing table.
fn not_there(error: io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL) => Ok(false),
        _ => Err(error),
    }
}

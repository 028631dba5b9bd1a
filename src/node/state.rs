//! Actual state of the node's network, for `nodens node status`.

use std::net::IpAddr;

use super::addresses::{Inventory, LINK};
use super::error::NodeError;
use super::firewall::{self, PacketCounts};
use super::foreign::{DroppingChain, dropping_chains};
use super::nft::Nft;
use super::{NodeNetwork, counts};
use crate::config::node::Interface;

/// Actual state of the configured network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// Name of the link with the addresses, if any.
    pub link: Option<String>,
    /// The configured addresses, in the order of the file.
    pub addresses: Vec<AddressState>,
    /// True if the table is as configured; `None` if none is configured or the kernel reports an error.
    pub firewall: Option<bool>,
    /// Packets that the table has counted.
    pub counts: PacketCounts,
    /// The fallback; `None` if there is none.
    pub fallback: Option<FallbackState>,
    /// Chains of other programs that may drop queries or responses.
    pub dropping: Vec<DroppingChain>,
}

/// Actual state of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressState {
    pub ip: IpAddr,
    /// True if it is on the link of all addresses.
    pub is_there: bool,
    /// True if nodens put it there.
    pub is_own: bool,
    /// Link on which the program from which nodens takes over has it.
    pub taken_over: Option<String>,
}

/// Actual state of the fallback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FallbackState {
    /// Servers that answer while nodens does not serve.
    pub servers: Vec<IpAddr>,
    /// True if they answer now.
    pub is_in_use: bool,
}

impl NodeState {
    /// Reports whether the state is as configured.
    pub(crate) fn is_good(&self) -> bool {
        self.addresses.iter().all(|address| address.is_there) && self.firewall != Some(false)
    }
}

impl NodeNetwork {
    /// Returns the actual state.
    ///
    /// # Errors
    /// The kernel does not list its addresses.
    pub(crate) fn state(&self) -> Result<NodeState, NodeError> {
        let inventory = Inventory::read()?;
        let wanted = match &self.settings.interface {
            Interface::Dummy => Some(LINK),
            other => other.name(),
        };
        let mut link_found = None;
        let look = |ip: &IpAddr| {
            let found = inventory.present.iter().filter(|found| found.ip == *ip);
            let on = found.filter_map(|found| Some((found, inventory.link_of(found)?)));
            let on = on.filter(|(_, link)| wanted.is_none_or(|wanted| wanted == link.name));
            // Another program may have put the address on its own link too.
            let there = on.max_by_key(|(found, link)| found.is_own(link));
            if let Some((_, link)) = &there {
                link_found.get_or_insert_with(|| link.name.clone());
            }
            let other = inventory.present.iter().find(|found| found.ip == *ip && !inventory.is_own(found));
            let taken_over = other.filter(|_| self.settings.take_over).and_then(|found| inventory.link_of(found));
            AddressState {
                ip: *ip,
                is_there: there.is_some(),
                is_own: there.is_some_and(|(there, link)| there.is_own(link)),
                taken_over: taken_over.map(|link| link.name.clone()),
            }
        };
        let addresses = self.settings.addresses.iter().map(look).collect();
        Ok(NodeState {
            link: link_found,
            addresses,
            firewall: self.firewall.as_ref().and_then(|firewall| firewall.is_there().ok()),
            counts: counts(),
            dropping: dropping_chains(&self.settings.listen),
            fallback: self.firewall.as_ref().filter(|firewall| firewall.has_fallback()).map(|_| FallbackState {
                servers: self.settings.fallback.clone(),
                is_in_use: Nft::open().and_then(|mut nft| firewall::is_alive(&mut nft)).is_ok_and(|alive| !alive),
            }),
        })
    }
}

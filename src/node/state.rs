//! Actual state of the node's network, for `nodens node status`.

use std::net::IpAddr;

use super::addresses::{Inventory, LINK};
use super::error::NodeError;
use super::firewall::{self, Firewall, PacketCounts};
use super::foreign::{DroppingChain, dropping_chains};
use super::nft::Nft;
use super::{NodeNetwork, counts};
use crate::config::node::Interface;

/// Actual state of the configured network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// The configured addresses, in the order of the file.
    pub addresses: Vec<AddressState>,
    /// True if the table is as configured; `None` if none is configured or the kernel reports an error.
    pub firewall: Option<bool>,
    /// Packets that the table has counted.
    pub counts: PacketCounts,
    /// The fallback; `None` if there is none.
    pub fallback: Option<FallbackState>,
    /// True if the kernel has refused the fallback.
    pub is_fallback_refused: bool,
    /// Chains of other programs that may drop queries or responses.
    pub dropping: Vec<DroppingChain>,
}

/// Actual state of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressState {
    pub ip: IpAddr,
    /// Link on which it is as configured.
    pub link: Option<String>,
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
        self.addresses.iter().all(|address| address.link.is_some()) && self.firewall != Some(false)
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
        let look = |ip: &IpAddr| {
            let found = inventory.present.iter().filter(|found| found.ip == *ip);
            let on = found.filter_map(|found| Some((found, inventory.link_of(found)?)));
            let on = on.filter(|(_, link)| wanted.is_none_or(|wanted| wanted == link.name));
            // Another program may have put the address on its own link too.
            let there = on.max_by_key(|(found, link)| found.is_own(link));
            let is_own = there.is_some_and(|(found, link)| found.is_own(link));
            let other = inventory.present.iter().find(|found| found.ip == *ip && !inventory.is_own(found));
            let other = other.filter(|_| is_own && self.settings.take_over).and_then(|found| inventory.link_of(found));
            AddressState {
                ip: *ip,
                link: there.map(|(_, link)| link.name.clone()),
                is_own,
                taken_over: other.map(|link| link.name.clone()),
            }
        };
        let addresses = self.settings.addresses.iter().map(look).collect();
        // What nodens found at its start has decided which addresses have a fallback.
        let written = self.firewall.as_ref().filter(|_| self.settings.take_over);
        let written = written.and_then(|_| Firewall::as_written(&self.settings.listen, &self.settings.fallback).ok());
        let firewall = written.as_ref().or(self.firewall.as_ref());
        let is_plain = firewall.is_some_and(|firewall| firewall.is_plain().unwrap_or(false));
        let fallback = firewall.filter(|firewall| firewall.has_fallback() && !is_plain);
        let firewall = firewall.and_then(|firewall| Some(is_plain || firewall.is_there().ok()?));
        Ok(NodeState {
            addresses,
            firewall,
            counts: counts(),
            dropping: dropping_chains(&self.settings.listen),
            is_fallback_refused: is_plain,
            fallback: fallback.map(|_| FallbackState {
                servers: self.settings.fallback.clone(),
                is_in_use: Nft::open().and_then(|mut nft| firewall::is_alive(&mut nft)).is_ok_and(|alive| !alive),
            }),
        })
    }
}

//! Exclusion of queries to the node's addresses from connection tracking: one table of nftables, which belongs to nodens.
//!
//! Connection tracking costs an entry for each query, two queries race for one entry when a stub resolver asks for A and AAAA
//! at once, and a full table drops packets. nodens has no use for it, since these packets' addresses are not translated. Both
//! directions are excluded: queries on arrival or when the node's own processes send them, and responses when they are sent.

use std::io;
use std::net::SocketAddr;

use super::nft::{Hook, KernelRule, Nft, NotrackRule, PacketSide};

/// Name of the table, of the family `inet`.
pub(super) const TABLE: &str = "nodens";

pub(super) struct Firewall {
    rules: Vec<NotrackRule>,
}

/// Number of packets that were excluded from tracking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Untracked {
    /// Packets to the addresses.
    pub queries: u64,
    /// Packets from the addresses.
    pub responses: u64,
}

impl Firewall {
    /// Creates the rules for queries to these addresses and ports.
    pub(super) fn new(listen: &[SocketAddr]) -> Self {
        let mut rules = Vec::new();
        for address in listen {
            for (protocol, name) in [(libc::IPPROTO_UDP, "UDP"), (libc::IPPROTO_TCP, "TCP")] {
                for (hook, end, what) in [
                    (Hook::Prerouting, PacketSide::Destination, "queries to"),
                    (Hook::Output, PacketSide::Destination, "queries to"),
                    (Hook::Output, PacketSide::Source, "responses from"),
                ] {
                    let comment = format!("{name} {what} {address}");
                    let (address, port) = (address.ip(), address.port());
                    rules.push(NotrackRule { hook, end, protocol: protocol as u8, address, port, comment });
                }
            }
        }
        Self { rules }
    }

    /// Reports whether the kernel's table is as configured.
    pub(super) fn is_there(&self) -> io::Result<bool> {
        let mut nft = Nft::open()?;
        let chains = nft.chains(TABLE)?;
        let found = nft.rules(TABLE)?;
        let has_chain = |hook: Hook| chains.iter().any(|chain| chain == hook.chain());
        // The kernel lists the rules chain by chain.
        let in_order = |hook: Hook| {
            let wanted = self.rules.iter().filter(|rule| rule.hook == hook).map(|rule| rule.comment.as_str());
            let there = found.iter().filter(|rule| rule.chain == hook.chain()).map(|rule| rule.comment.as_str());
            wanted.eq(there)
        };
        Ok(Hook::ALL.iter().all(|hook| has_chain(*hook) && in_order(*hook)) && found.len() == self.rules.len())
    }

    /// Writes the table in one transaction.
    pub(super) fn put(&self) -> io::Result<()> {
        Nft::open()?.replace(TABLE, &self.rules)
    }
}

/// Removes the table; returns whether it existed.
pub(super) fn remove() -> io::Result<bool> {
    Nft::open()?.remove(TABLE)
}

/// Returns the packets that the table has counted.
pub(super) fn untracked() -> io::Result<Untracked> {
    let count = |found: &[KernelRule], what: &str| {
        found.iter().filter(|rule| rule.comment.contains(what)).map(|rule| rule.packets).sum()
    };
    let found = Nft::open()?.rules(TABLE)?;
    Ok(Untracked { queries: count(&found, " queries to "), responses: count(&found, " responses from ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_and_both_transports_of_each_address() {
        let listen = ["169.254.20.10:53", "[fd00::a]:53"].map(|address| address.parse().expect("an address"));
        let rules = Firewall::new(&listen).rules;
        assert_eq!(rules.len(), 12);
        let ways = |hook, end| rules.iter().filter(|rule| (rule.hook, rule.end) == (hook, end)).count();
        assert_eq!(ways(Hook::Prerouting, PacketSide::Destination), 4);
        assert_eq!((ways(Hook::Output, PacketSide::Destination), ways(Hook::Output, PacketSide::Source)), (4, 4));
        assert_eq!(ways(Hook::Prerouting, PacketSide::Source), 0);
        assert_eq!(rules[0].comment, "UDP queries to 169.254.20.10:53");
    }
}

//! Queries to the node's addresses pass the firewall untracked: one table of nftables, which is nodens' alone.
//!
//! Connection tracking costs an entry for each query, two of them race for the same entry when a resolver asks for A and AAAA
//! at once, and a full table drops packets: all of it for nothing, as nobody translates these packets' addresses. Both ways
//! are taken out: queries as they come in or are sent by the node's own processes, and responses as they are sent.

use std::io;
use std::net::SocketAddr;

use super::nft::{End, Found, Hook, Nft, Rule};

/// The table, of the family `inet`.
pub(super) const TABLE: &str = "nodens";

/// The table as it is to be.
pub(super) struct Firewall {
    rules: Vec<Rule>,
}

/// Packets that were not tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Untracked {
    /// To the addresses.
    pub queries: u64,
    /// From them.
    pub responses: u64,
}

impl Firewall {
    /// For queries to these addresses and ports.
    pub(super) fn new(listen: &[SocketAddr]) -> Self {
        let mut rules = Vec::new();
        for address in listen {
            for (protocol, name) in [(libc::IPPROTO_UDP, "UDP"), (libc::IPPROTO_TCP, "TCP")] {
                for (hook, end, what) in [
                    (Hook::Prerouting, End::Destination, "queries to"),
                    (Hook::Output, End::Destination, "queries to"),
                    (Hook::Output, End::Source, "responses from"),
                ] {
                    let comment = format!("{name} {what} {address}");
                    let (address, port) = (address.ip(), address.port());
                    rules.push(Rule { hook, end, protocol: protocol as u8, address, port, comment });
                }
            }
        }
        Self { rules }
    }

    /// Whether the table is as it is to be.
    pub(super) fn is_there(&self) -> io::Result<bool> {
        let mut nft = Nft::open()?;
        let chains = nft.chains(TABLE)?;
        let found = nft.rules(TABLE)?;
        let has_chain = |hook: Hook| chains.iter().any(|chain| chain == hook.chain());
        // The kernel lists one chain after the other.
        let in_order = |hook: Hook| {
            let wanted = self.rules.iter().filter(|rule| rule.hook == hook).map(|rule| rule.comment.as_str());
            let there = found.iter().filter(|rule| rule.chain == hook.chain()).map(|rule| rule.comment.as_str());
            wanted.eq(there)
        };
        Ok(Hook::ALL.iter().all(|hook| has_chain(*hook) && in_order(*hook)) && found.len() == self.rules.len())
    }

    /// Puts it there, in one step.
    pub(super) fn put(&self) -> io::Result<()> {
        Nft::open()?.replace(TABLE, &self.rules)
    }
}

/// Takes the table away; whether there was one.
pub(super) fn remove() -> io::Result<bool> {
    Nft::open()?.remove(TABLE)
}

/// What the table has counted.
pub(super) fn untracked() -> io::Result<Untracked> {
    let count = |found: &[Found], what: &str| {
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
        assert_eq!(ways(Hook::Prerouting, End::Destination), 4);
        assert_eq!((ways(Hook::Output, End::Destination), ways(Hook::Output, End::Source)), (4, 4));
        assert_eq!(ways(Hook::Prerouting, End::Source), 0);
        assert_eq!(rules[0].comment, "UDP queries to 169.254.20.10:53");
    }
}

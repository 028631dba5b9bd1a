//! Placement of the node's addresses: the link for those that are missing, and those that are good where they are.
//!
//! With `interface = "auto"`, an address is good on the loopback link, and on each link on which nodens has put it. The kernel may
//! have had no dummy links at that time, and have them now. With another `interface`, nodens adds the address to the configured
//! link. A copy that nodens has put on another link stays until [`leftovers`](super::leftovers) removes it, so that the node has
//! the address all the time.
//!
//! An address that another program has put on another link is an error, unless nodens may have it there too: it then has the address
//! when the other program removes its own.

use std::net::IpAddr;

use super::addresses::{Inventory, LINK, LOOPBACK, NodeLink, Present};
use super::error::NodeError;
use crate::config::node::Interface;

impl Inventory {
    /// Returns the link that gets missing addresses: the configured one or, for `addresses` of which some are good elsewhere,
    /// the link of these. `None` if it does not exist.
    pub(super) fn link_for(&self, wanted: &Interface, addresses: &[IpAddr]) -> Option<&NodeLink> {
        if let Interface::Named(name) = wanted {
            return self.links.iter().find(|link| link.name == *name);
        }
        let own = self.links.iter().find(|link| link.is_own());
        own.or_else(|| {
            let good =
                self.present.iter().find(|found| addresses.contains(&found.ip) && self.is_good(found, wanted))?;
            self.link_of(good)
        })
    }

    /// Returns those of `addresses` that are to be added to `link`, the result of [`Self::link_for`]. `may_share` tells whether
    /// an address may be on a link of another program too.
    ///
    /// # Errors
    /// Another program has put one of the addresses on another link.
    pub(super) fn missing(
        &self,
        wanted: &Interface,
        addresses: &[IpAddr],
        link: Option<&NodeLink>,
        may_share: impl Fn(&Present) -> bool,
    ) -> Result<Vec<IpAddr>, NodeError> {
        let mut missing = Vec::new();
        for ip in addresses {
            let found = || self.present.iter().filter(|found| found.ip == *ip);
            let is_on = |found: &Present| link.is_some_and(|link| link.index == found.link);
            if found().any(|found| is_on(found) || self.is_good(found, wanted)) {
                continue;
            }
            match found().find(|found| !self.is_own(found) && !may_share(found)) {
                Some(foreign) => return Err(self.elsewhere(foreign, link.map_or(LINK, |link| &*link.name))),
                None => missing.push(*ip),
            }
        }
        Ok(missing)
    }

    /// Reports whether another program has put this address on a link too. Then the node has it without nodens.
    pub(super) fn is_shared(&self, ip: IpAddr) -> bool {
        self.present.iter().any(|found| found.ip == ip && !self.is_own(found))
    }

    /// Reports whether "auto" accepts the address where it is.
    pub(super) fn is_good(&self, found: &Present, wanted: &Interface) -> bool {
        let is_loopback = || self.link_of(found).is_some_and(|link| link.name == LOOPBACK);
        *wanted == Interface::Auto && (self.is_own(found) || is_loopback())
    }

    fn elsewhere(&self, found: &Present, wanted: &str) -> NodeError {
        NodeError::Elsewhere {
            address: found.ip,
            link: self.link_of(found).map_or_else(|| found.link.to_string(), |link| link.name.clone()),
            wanted: wanted.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::addresses::tests::{address, link};

    const ADDRESSES: [IpAddr; 2] =
        [IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 10)), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];

    /// Returns the link for missing addresses, and what is missing: for links with the number of their index, and for the first
    /// address on these links, each with whether nodens put it there.
    fn placed(
        wanted: &Interface,
        links: &[(&str, bool)],
        on: &[(u32, bool)],
        may_share: bool,
    ) -> (Option<String>, Result<Vec<IpAddr>, String>) {
        let links = (1..).zip(links).map(|(index, (name, is_dummy))| link(index, name, *is_dummy)).collect::<Vec<_>>();
        let present = on.iter().map(|(index, is_own)| {
            let name = &links[*index as usize - 1].name;
            address(ADDRESSES[0], *index, &if *is_own { format!("{name}:nodens") } else { name.clone() })
        });
        let inventory = Inventory { present: present.collect(), links: links.clone() };
        let link = inventory.link_for(wanted, &ADDRESSES);
        let missing = inventory.missing(wanted, &ADDRESSES, link, |_| may_share);
        let missing = missing.map_err(|error| error.to_string());
        (link.map(|link| link.name.clone()), missing)
    }

    #[test]
    fn dummy_links_that_come_later_change_nothing() {
        const BEFORE: &[(&str, bool)] = &[("lo", false), ("eth0", false)];
        const LATER: &[(&str, bool)] = &[("lo", false), ("eth0", false), ("nodens", true)];
        let auto = Interface::Auto;
        let (all, other) = (ADDRESSES.to_vec(), ADDRESSES[1..].to_vec());
        let of = |name: &str| Some(name.to_owned());
        // Nothing is there yet.
        assert_eq!(placed(&auto, BEFORE, &[], false), (None, Ok(all.clone())));
        assert_eq!(placed(&auto, LATER, &[], false), (of("nodens"), Ok(all)));
        // An earlier process had to use the loopback link: the rest goes there too, and no link is created.
        assert_eq!(placed(&auto, BEFORE, &[(1, true)], false), (of("lo"), Ok(other.clone())));
        assert_eq!(placed(&auto, LATER, &[(1, true)], false), (of("nodens"), Ok(other.clone())));
        // The same where nodens cannot recognize its address.
        assert_eq!(placed(&auto, LATER, &[(1, false)], false), (of("nodens"), Ok(other.clone())));
        assert_eq!(placed(&auto, LATER, &[(2, true)], false), (of("nodens"), Ok(other)));
        let (_, foreign) = placed(&auto, LATER, &[(2, false)], false);
        assert!(foreign.expect_err("it is foreign").contains("on the link eth0 already, not on nodens"));
    }

    #[test]
    fn only_own_addresses_move_to_a_configured_link() {
        const LINKS: &[(&str, bool)] = &[("lo", false), ("eth0", false)];
        let (lo, all) = (Interface::Named("lo".to_owned()), ADDRESSES.to_vec());
        let of = |name: &str| Some(name.to_owned());
        assert_eq!(placed(&lo, LINKS, &[(2, true)], false), (of("lo"), Ok(all.clone())));
        assert_eq!(placed(&lo, LINKS, &[(1, false), (2, true)], false), (of("lo"), Ok(ADDRESSES[1..].to_vec())));
        assert_eq!(placed(&Interface::Dummy, LINKS, &[(1, true)], false), (None, Ok(all)));
        let (_, foreign) = placed(&Interface::Dummy, LINKS, &[(1, false)], false);
        assert!(foreign.expect_err("it is foreign").contains("on the link lo already, not on nodens"));
        assert_eq!(placed(&Interface::Named("eth1".to_owned()), LINKS, &[], false).0, None);
    }

    #[test]
    fn an_address_may_be_on_a_link_of_another_program_too() {
        const LINKS: &[(&str, bool)] = &[("lo", false), ("nodelocaldns", true), ("nodens", true)];
        let (auto, dummy) = (Interface::Auto, Interface::Dummy);
        for (wanted, on, missing) in [
            (&auto, &[(2, false)][..], &ADDRESSES[..]),
            (&dummy, &[(2, false)], &ADDRESSES),
            // The address is added once, and stays when the other program is gone.
            (&auto, &[(2, false), (3, true)], &ADDRESSES[1..]),
            (&auto, &[(3, true)], &ADDRESSES[1..]),
        ] {
            assert_eq!(placed(wanted, LINKS, on, true), (Some("nodens".to_owned()), Ok(missing.to_vec())), "{on:?}");
        }
    }
}

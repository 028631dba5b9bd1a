//! The node's addresses, on a link of nodens's own or on an existing one, over rtnetlink.
//!
//! nodens recognizes what it created, also after a crash, and removes nothing else:
//!
//! - A link is its own if it is a dummy link with the name `nodens`.
//! - An address is its own if it is on that link, or if the kernel's data about it show it: the protocol that added it
//!   (IFA_PROTO, Linux 5.18), or its label `LINK:nodens` for IPv4 on older kernels. On these an IPv6 address on another link
//!   cannot be recognized.

use std::io;
use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use super::error::NodeError;
use super::netlink::{KernelRequest, Netlink, attribute, flag, put, text};
use crate::config::node::Interface;

/// Name of the link that nodens creates.
pub(super) const LINK: &str = "nodens";
/// Suffix after the link's name in an address's label.
const LABEL: &str = ":nodens";
/// Protocol number of nodens's addresses, which neither the kernel nor any known daemon uses.
const PROTOCOL: u8 = 0x6e;
/// Name of the loopback link.
pub(super) const LOOPBACK: &str = "lo";

/// Message types: see rtnetlink(7).
mod kind {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const DELETE_LINK: u16 = 17;
    pub(super) const GET_LINK: u16 = 18;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const DELETE_ADDRESS: u16 = 21;
    pub(super) const GET_ADDRESS: u16 = 22;
}

/// Attributes of links (IFLA_) and addresses (IFA_).
mod attr {
    pub(super) const LINK_NAME: u16 = 3;
    pub(super) const LINK_INFO: u16 = 18;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LOCAL: u16 = 2;
    pub(super) const LABEL: u16 = 3;
    pub(super) const FLAGS: u16 = 8;
    pub(super) const PROTOCOL: u16 = 11;
}

/// Bytes of the header of a link's message, and of an address's message.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
/// Flag of a link that is up (IFF_UP).
const UP: u32 = 1;
/// Flag that disables duplicate address detection, which would fail for an address that every node has (IFA_F_NODAD).
const NO_DAD: u32 = 2;

/// Multicast groups for changes of links and addresses (RTMGRP_), as bits.
pub(super) const GROUPS: u32 = 0x1 | 0x10 | 0x100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeLink {
    pub(super) index: u32,
    pub(super) name: String,
    is_dummy: bool,
    is_up: bool,
}

impl NodeLink {
    /// Reports whether nodens created the link.
    pub(super) fn is_own(&self) -> bool {
        self.is_dummy && self.name == LINK
    }
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) ip: IpAddr,
    pub(super) link: u32,
    prefix: u8,
    label: String,
    protocol: u8,
}

impl Present {
    /// Reports whether nodens put the address on `link`.
    pub(super) fn is_own(&self, link: &NodeLink) -> bool {
        self.link == link.index
            && (link.is_own() || self.protocol == PROTOCOL || self.label == format!("{}{LABEL}", link.name))
    }
}

/// Links and addresses of the node.
pub(super) struct Inventory {
    pub(super) links: Vec<NodeLink>,
    pub(super) present: Vec<Present>,
}

impl Inventory {
    /// Asks the kernel for its links and addresses.
    pub(super) fn read() -> Result<Self, NodeError> {
        Ok(Self::open()?.1)
    }

    /// The same; returns the access to the kernel too, for changes.
    pub(super) fn open() -> Result<(Addresses, Self), NodeError> {
        let open = || {
            let mut addresses = Addresses::open()?;
            let inventory = Self { links: addresses.links()?, present: addresses.present()? };
            Ok((addresses, inventory))
        };
        open().map_err(|error: io::Error| NodeError::of(error, "ask the kernel for its addresses"))
    }

    pub(super) fn link_of(&self, found: &Present) -> Option<&NodeLink> {
        self.links.iter().find(|link| link.index == found.link)
    }

    /// Reports whether nodens put the address where it is.
    pub(super) fn is_own(&self, found: &Present) -> bool {
        self.link_of(found).is_some_and(|link| found.is_own(link))
    }
}

/// Access to the kernel's links and addresses.
pub(super) struct Addresses(Netlink);

impl Addresses {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkRoute).map(Self)
    }

    pub(super) fn links(&mut self) -> io::Result<Vec<NodeLink>> {
        let answers =
            self.0.dump(&KernelRequest::new(kind::GET_LINK, flag::REQUEST | flag::DUMP, &[0; LINK_HEADER]))?;
        let links = answers.iter().filter(|answer| answer.kind == kind::NEW_LINK);
        Ok(links.filter_map(|answer| read_link(&answer.body)).collect())
    }

    pub(super) fn present(&mut self) -> io::Result<Vec<Present>> {
        let message = KernelRequest::new(kind::GET_ADDRESS, flag::REQUEST | flag::DUMP, &[0; ADDRESS_HEADER]);
        let answers = self.0.dump(&message)?;
        let addresses = answers.iter().filter(|answer| answer.kind == kind::NEW_ADDRESS);
        Ok(addresses.filter_map(|answer| read_address(&answer.body)).collect())
    }

    /// Creates nodens's own link; for "auto" on a kernel without dummy links, returns the loopback link.
    ///
    /// # Errors
    /// The kernel does not make the link, or a named link does not exist.
    pub(super) fn make(&mut self, wanted: &Interface) -> Result<NodeLink, NodeError> {
        if let Interface::Named(name) = wanted {
            return Err(NodeError::NoLink(name.clone()));
        }
        let has_no_dummies = |error: &io::Error| error.raw_os_error() == Some(libc::EOPNOTSUPP);
        let name = match self.make_link() {
            Ok(()) => LINK,
            Err(error) if has_no_dummies(&error) && *wanted == Interface::Auto => LOOPBACK,
            Err(error) => return Err(NodeError::of(error, "make the dummy link nodens")),
        };
        let links = self.links().map_err(|error| NodeError::of(error, "list links"))?;
        links.into_iter().find(|link| link.name == name).ok_or_else(|| NodeError::NoLink(name.to_owned()))
    }

    /// Sets a link up, unless it is up.
    pub(super) fn set_up(&mut self, link: &NodeLink) -> Result<(), NodeError> {
        if link.is_up {
            return Ok(());
        }
        let message = KernelRequest::new(kind::NEW_LINK, flag::REQUEST | flag::ACK, &link_header(link.index, UP));
        self.0.change(&message).map_err(|error| NodeError::of(error, format!("set the link {} up", link.name)))
    }

    fn make_link(&mut self) -> io::Result<()> {
        let mut info = Vec::new();
        put(&mut info, attr::INFO_KIND, b"dummy");
        let flags = flag::REQUEST | flag::ACK | flag::CREATE | flag::EXCL;
        self.0.change(
            &KernelRequest::new(kind::NEW_LINK, flags, &link_header(0, UP))
                .text(attr::LINK_NAME, LINK)
                .nest(attr::LINK_INFO, &info),
        )
    }

    pub(super) fn remove_link(&mut self, link: &NodeLink) -> io::Result<()> {
        self.0.change(&KernelRequest::new(kind::DELETE_LINK, flag::REQUEST | flag::ACK, &link_header(link.index, 0)))
    }

    /// Adds an address to a link, marked as nodens's own.
    pub(super) fn add(&mut self, ip: IpAddr, link: &NodeLink) -> io::Result<()> {
        let flags = flag::REQUEST | flag::ACK | flag::CREATE | flag::EXCL;
        let mut message = address_message(kind::NEW_ADDRESS, flags, ip, link.index)
            .put(attr::FLAGS, &NO_DAD.to_ne_bytes())
            .put(attr::PROTOCOL, &[PROTOCOL]);
        let label = format!("{}{LABEL}", link.name);
        // A label has the size of a link's name: IFNAMSIZ (16) bytes with the terminating zero.
        if ip.is_ipv4() && label.len() < 16 {
            message = message.text(attr::LABEL, &label);
        }
        self.0.change(&message)
    }

    /// Removes an address from a link.
    pub(super) fn remove(&mut self, address: &Present) -> io::Result<()> {
        self.0.change(&address_message(kind::DELETE_ADDRESS, flag::REQUEST | flag::ACK, address.ip, address.link))
    }
}

fn link_header(index: u32, flags: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&UP.to_ne_bytes());
    header
}

fn address_message(kind: u16, flags: u16, ip: IpAddr, link: u32) -> KernelRequest {
    let (family, bits, octets) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET, 32, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, 128, ip.octets().to_vec()),
    };
    let mut header = [0; ADDRESS_HEADER];
    (header[0], header[1]) = (family as u8, bits);
    header[4..].copy_from_slice(&link.to_ne_bytes());
    KernelRequest::new(kind, flags, &header).put(attr::LOCAL, &octets).put(attr::ADDRESS, &octets)
}

fn read_link(body: &[u8]) -> Option<NodeLink> {
    let number = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
    let info = attribute(body, LINK_HEADER, attr::LINK_INFO);
    let kind = info.and_then(|info| attribute(info, 0, attr::INFO_KIND)).map(text);
    Some(NodeLink {
        index: number(4)?,
        name: text(attribute(body, LINK_HEADER, attr::LINK_NAME)?),
        is_dummy: kind.as_deref() == Some("dummy"),
        is_up: number(8)? & UP != 0,
    })
}

fn read_address(body: &[u8]) -> Option<Present> {
    let value = |kind| attribute(body, ADDRESS_HEADER, kind);
    // On a point-to-point link IFA_LOCAL is this end, and IFA_ADDRESS the other one.
    let octets = value(attr::LOCAL).or_else(|| value(attr::ADDRESS))?;
    let ip = match octets.len() {
        4 => IpAddr::from(*octets.first_chunk::<4>()?),
        _ => IpAddr::from(*octets.first_chunk::<16>()?),
    };
    Some(Present {
        ip,
        link: u32::from_ne_bytes(*body.get(4..)?.first_chunk()?),
        prefix: *body.get(1)?,
        label: value(attr::LABEL).map(text).unwrap_or_default(),
        protocol: value(attr::PROTOCOL).and_then(|value| value.first().copied()).unwrap_or(0),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::node) fn link(index: u32, name: &str, is_dummy: bool) -> NodeLink {
        NodeLink { index, name: name.to_owned(), is_dummy, is_up: true }
    }

    pub(in crate::node) fn address(ip: IpAddr, link: u32, label: &str) -> Present {
        Present { ip, link, prefix: if ip.is_ipv4() { 32 } else { 128 }, label: label.to_owned(), protocol: 0 }
    }

    #[test]
    fn the_loopback_is_read() {
        let mut addresses = Addresses::open().expect("a socket");
        let links = addresses.links().expect("links");
        let lo = links.iter().find(|link| link.name == "lo").expect("lo");
        assert!(!lo.is_own() && lo.is_up);
        let present = addresses.present().expect("addresses");
        let own = present.iter().find(|address| address.ip == IpAddr::from([127, 0, 0, 1])).expect("127.0.0.1");
        assert!(own.link == lo.index && own.prefix == 8 && !own.is_own(lo), "{own:?}");
    }

    #[test]
    fn what_is_its_own_is_known_by_link_protocol_or_label() {
        let link = |name: &str, is_dummy| super::tests::link(3, name, is_dummy);
        let address = |link, label: &str, protocol| Present {
            protocol,
            ..super::tests::address([169, 254, 20, 10].into(), link, label)
        };
        let (own, lo) = (link("nodens", true), link("lo", false));
        assert!(own.is_own() && !lo.is_own() && !link("nodens", false).is_own() && !link("nodens0", true).is_own());
        for (address, on, expected) in [
            (address(3, "nodens", 0), &own, true),
            (address(4, "nodens", 0), &own, false),
            (address(3, "lo", 0), &lo, false),
            (address(3, "lo", PROTOCOL), &lo, true),
            (address(3, "lo:nodens", 0), &lo, true),
            (address(4, "lo:nodens", PROTOCOL), &lo, false),
        ] {
            assert_eq!(address.is_own(on), expected, "{address:?}");
        }
    }
}

//! Expressions of nftables rules, as bytes: what a rule matches, and what it does.

use std::net::IpAddr;

use super::netlink::{nest, put};

/// Attribute types, prefixed with the expression that they belong to.
mod attr {
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const META_REGISTER: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const META_SOURCE: u16 = 3;
    pub(super) const CT_REGISTER: u16 = 1;
    pub(super) const CT_KEY: u16 = 2;
    pub(super) const CT_SOURCE: u16 = 4;
    pub(super) const PAYLOAD_REGISTER: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LENGTH: u16 = 4;
    pub(super) const PAYLOAD_SOURCE: u16 = 5;
    pub(super) const PAYLOAD_CHECKSUM_TYPE: u16 = 6;
    pub(super) const PAYLOAD_CHECKSUM_OFFSET: u16 = 7;
    pub(super) const PAYLOAD_CHECKSUM_FLAGS: u16 = 8;
    pub(super) const COMPARE_REGISTER: u16 = 1;
    pub(super) const COMPARE_OPERATION: u16 = 2;
    pub(super) const COMPARE_DATA: u16 = 3;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_REGISTER: u16 = 2;
    pub(super) const BITS_SOURCE: u16 = 1;
    pub(super) const BITS_REGISTER: u16 = 2;
    pub(super) const BITS_LENGTH: u16 = 3;
    pub(super) const BITS_MASK: u16 = 4;
    pub(super) const BITS_FLIP: u16 = 5;
    pub(super) const IMMEDIATE_REGISTER: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
}

/// Register for values.
const REGISTER: u32 = 1;
/// Register for verdicts.
const VERDICT: u32 = 0;
/// Comparison for equality (NFT_CMP_EQ).
const EQUAL: u32 = 0;
/// Metadata of a packet (NFT_META_): its mark, its family, and the protocol above IP.
const META_MARK: u32 = 3;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
/// Data of a tracked connection (NFT_CT_): the packet's direction, and the connection's mark.
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;
/// Direction of replies (IP_CT_DIR_REPLY).
const REPLY: u8 = 1;
/// Parts of a packet (NFT_PAYLOAD_).
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Checksum of the IPv4 header (NFT_PAYLOAD_CSUM_INET), and its offset.
const HEADER_CHECKSUM: u32 = 1;
const HEADER_CHECKSUM_OFFSET: u32 = 10;
/// The checksum of UDP and TCP covers the addresses too (NFT_PAYLOAD_L4CSUM_PSEUDOHDR).
const TRANSPORT_CHECKSUM: u32 = 1;
/// Verdict that ends the evaluation of a chain (NF_ACCEPT).
const ACCEPT: u32 = 1;

/// Side of a packet whose address or port is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketSide {
    Source,
    Destination,
}

/// A match or an action of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Matches packets of this address's family.
    FamilyOf(IpAddr),
    /// Matches packets of this address's family with this address.
    Address(PacketSide, IpAddr),
    /// Matches packets with this IP protocol number.
    Protocol(u8),
    /// Matches packets with this port.
    Port(PacketSide, u16),
    /// Matches packets whose address is in the set of this name.
    InSet(PacketSide, IpAddr, &'static str),
    /// Matches packets whose mark has these bits under this mask.
    Mark {
        bits: u32,
        mask: u32,
    },
    /// Matches packets whose connection's mark has these bits under this mask.
    ConnectionMark {
        bits: u32,
        mask: u32,
    },
    /// Matches the packets of tracked connections that go back to their client.
    Reply,
    Counter,
    /// Excludes the packet from connection tracking.
    Notrack,
    /// Ends the evaluation of the chain.
    Accept,
    /// Replaces the bits of the packet's mark under the mask.
    SetMark {
        bits: u32,
        mask: u32,
    },
    /// Replaces the bits of the connection's mark under the mask.
    SetConnectionMark {
        bits: u32,
        mask: u32,
    },
    /// Replaces an address of the packet, and corrects the checksums.
    SetAddress(PacketSide, IpAddr),
    /// Source NAT to the address of the link that the packet leaves by.
    Masquerade,
}

impl Expression {
    /// Appends the expression to the list of a rule's expressions.
    pub(super) fn append(self, list: &mut Vec<u8>) {
        match self {
            Self::FamilyOf(ip) => {
                meta(list, META_FAMILY);
                equals(list, &[parts(ip).0]);
            }
            Self::Address(side, ip) => {
                Self::FamilyOf(ip).append(list);
                let octets = parts(ip).1;
                payload(list, NETWORK_HEADER, address_offset(side, ip), octets.len());
                equals(list, &octets);
            }
            Self::Protocol(protocol) => {
                meta(list, META_PROTOCOL);
                equals(list, &[protocol]);
            }
            Self::Port(side, port) => {
                let offset = if side == PacketSide::Source { 0 } else { 2 };
                payload(list, TRANSPORT_HEADER, offset, 2);
                equals(list, &port.to_be_bytes());
            }
            Self::InSet(side, ip, set) => {
                payload(list, NETWORK_HEADER, address_offset(side, ip), parts(ip).1.len());
                let mut data = Vec::new();
                put(&mut data, attr::LOOKUP_SET, &[set.as_bytes(), &[0]].concat());
                put(&mut data, attr::LOOKUP_REGISTER, &REGISTER.to_be_bytes());
                expression(list, "lookup", &data);
            }
            Self::Mark { bits, mask } => {
                meta(list, META_MARK);
                bitwise(list, mask, 0);
                equals(list, &bits.to_ne_bytes());
            }
            Self::ConnectionMark { bits, mask } => {
                connection(list, attr::CT_REGISTER, CT_MARK);
                bitwise(list, mask, 0);
                equals(list, &bits.to_ne_bytes());
            }
            Self::Reply => {
                connection(list, attr::CT_REGISTER, CT_DIRECTION);
                equals(list, &[REPLY]);
            }
            Self::Counter => expression(list, "counter", &[]),
            Self::Notrack => expression(list, "notrack", &[]),
            Self::Accept => {
                let (mut verdict, mut inner) = (Vec::new(), Vec::new());
                put(&mut verdict, attr::VERDICT_CODE, &ACCEPT.to_be_bytes());
                nest(&mut inner, attr::DATA_VERDICT, &verdict);
                immediate(list, VERDICT, &inner);
            }
            Self::SetMark { bits, mask } => {
                meta(list, META_MARK);
                bitwise(list, !mask, bits);
                let mut data = Vec::new();
                put(&mut data, attr::META_KEY, &META_MARK.to_be_bytes());
                put(&mut data, attr::META_SOURCE, &REGISTER.to_be_bytes());
                expression(list, "meta", &data);
            }
            Self::SetConnectionMark { bits, mask } => {
                connection(list, attr::CT_REGISTER, CT_MARK);
                bitwise(list, !mask, bits);
                connection(list, attr::CT_SOURCE, CT_MARK);
            }
            Self::SetAddress(side, ip) => set_address(list, side, ip),
            Self::Masquerade => expression(list, "masq", &[]),
        }
    }
}

/// Returns the family (NFPROTO_) and the bytes of an address.
fn parts(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (libc::NFPROTO_IPV4 as u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::NFPROTO_IPV6 as u8, ip.octets().to_vec()),
    }
}

/// Returns the offset of an address in the header of its family.
fn address_offset(side: PacketSide, ip: IpAddr) -> u32 {
    match (side, ip) {
        (PacketSide::Source, IpAddr::V4(_)) => 12,
        (PacketSide::Destination, IpAddr::V4(_)) => 16,
        (PacketSide::Source, IpAddr::V6(_)) => 8,
        (PacketSide::Destination, IpAddr::V6(_)) => 24,
    }
}

fn set_address(list: &mut Vec<u8>, side: PacketSide, ip: IpAddr) {
    let (_, octets) = parts(ip);
    let (mut value, mut data) = (Vec::new(), Vec::new());
    put(&mut value, attr::DATA_VALUE, &octets);
    immediate(list, REGISTER, &value);
    put(&mut data, attr::PAYLOAD_SOURCE, &REGISTER.to_be_bytes());
    put(&mut data, attr::PAYLOAD_BASE, &NETWORK_HEADER.to_be_bytes());
    put(&mut data, attr::PAYLOAD_OFFSET, &address_offset(side, ip).to_be_bytes());
    put(&mut data, attr::PAYLOAD_LENGTH, &(octets.len() as u32).to_be_bytes());
    if ip.is_ipv4() {
        put(&mut data, attr::PAYLOAD_CHECKSUM_TYPE, &HEADER_CHECKSUM.to_be_bytes());
        put(&mut data, attr::PAYLOAD_CHECKSUM_OFFSET, &HEADER_CHECKSUM_OFFSET.to_be_bytes());
    }
    put(&mut data, attr::PAYLOAD_CHECKSUM_FLAGS, &TRANSPORT_CHECKSUM.to_be_bytes());
    expression(list, "payload", &data);
}

/// Appends an expression that loads metadata of the packet.
fn meta(list: &mut Vec<u8>, key: u32) {
    let mut data = Vec::new();
    put(&mut data, attr::META_KEY, &key.to_be_bytes());
    put(&mut data, attr::META_REGISTER, &REGISTER.to_be_bytes());
    expression(list, "meta", &data);
}

/// Appends an expression that loads data of the connection, or stores it.
fn connection(list: &mut Vec<u8>, register: u16, key: u32) {
    let mut data = Vec::new();
    put(&mut data, attr::CT_KEY, &key.to_be_bytes());
    put(&mut data, register, &REGISTER.to_be_bytes());
    expression(list, "ct", &data);
}

/// Appends an expression that loads bytes of the packet.
fn payload(list: &mut Vec<u8>, base: u32, offset: u32, length: usize) {
    let mut data = Vec::new();
    put(&mut data, attr::PAYLOAD_REGISTER, &REGISTER.to_be_bytes());
    put(&mut data, attr::PAYLOAD_BASE, &base.to_be_bytes());
    put(&mut data, attr::PAYLOAD_OFFSET, &offset.to_be_bytes());
    put(&mut data, attr::PAYLOAD_LENGTH, &(length as u32).to_be_bytes());
    expression(list, "payload", &data);
}

/// Appends an expression that compares the loaded value.
fn equals(list: &mut Vec<u8>, value: &[u8]) {
    let (mut data, mut inner) = (Vec::new(), Vec::new());
    put(&mut inner, attr::DATA_VALUE, value);
    put(&mut data, attr::COMPARE_REGISTER, &REGISTER.to_be_bytes());
    put(&mut data, attr::COMPARE_OPERATION, &EQUAL.to_be_bytes());
    nest(&mut data, attr::COMPARE_DATA, &inner);
    expression(list, "cmp", &data);
}

/// Appends an expression that keeps the bits of `mask` of the loaded mark, and flips those of `flip`. Marks are in the host's
/// byte order.
fn bitwise(list: &mut Vec<u8>, mask: u32, flip: u32) {
    let mut data = Vec::new();
    put(&mut data, attr::BITS_SOURCE, &REGISTER.to_be_bytes());
    put(&mut data, attr::BITS_REGISTER, &REGISTER.to_be_bytes());
    put(&mut data, attr::BITS_LENGTH, &(size_of::<u32>() as u32).to_be_bytes());
    for (attribute, value) in [(attr::BITS_MASK, mask), (attr::BITS_FLIP, flip)] {
        let mut inner = Vec::new();
        put(&mut inner, attr::DATA_VALUE, &value.to_ne_bytes());
        nest(&mut data, attribute, &inner);
    }
    expression(list, "bitwise", &data);
}

/// Appends an expression that sets a register.
fn immediate(list: &mut Vec<u8>, register: u32, value: &[u8]) {
    let mut data = Vec::new();
    put(&mut data, attr::IMMEDIATE_REGISTER, &register.to_be_bytes());
    nest(&mut data, attr::IMMEDIATE_DATA, value);
    expression(list, "immediate", &data);
}

fn expression(list: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut inner = Vec::new();
    put(&mut inner, attr::EXPRESSION_NAME, &[name.as_bytes(), &[0]].concat());
    if !data.is_empty() || name == "counter" {
        nest(&mut inner, attr::EXPRESSION_DATA, data);
    }
    nest(list, attr::LIST_ELEMENT, &inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how often each expression occurs in a list.
    fn names(expressions: &[Expression]) -> Vec<usize> {
        let mut list = Vec::new();
        expressions.iter().for_each(|expression| expression.append(&mut list));
        ["meta", "ct", "payload", "cmp", "bitwise", "lookup", "immediate", "counter", "notrack", "masq"]
            .map(|name| [name.as_bytes(), &[0]].concat())
            .map(|name| list.windows(name.len()).filter(|window| *window == name).count())
            .to_vec()
    }

    #[test]
    fn each_expression_is_written() {
        let ip: IpAddr = "fd00::a".parse().expect("an address");
        let (bits, mask, side) = (0x2000, 0x3000, PacketSide::Source);
        for (expression, expected) in [
            (Expression::FamilyOf(ip), [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
            (Expression::Address(side, ip), [1, 0, 1, 2, 0, 0, 0, 0, 0, 0]),
            (Expression::Protocol(17), [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
            (Expression::Port(side, 53), [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]),
            (Expression::InSet(side, ip, "alive6"), [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]),
            (Expression::Mark { bits, mask }, [1, 0, 0, 1, 1, 0, 0, 0, 0, 0]),
            (Expression::ConnectionMark { bits, mask }, [0, 1, 0, 1, 1, 0, 0, 0, 0, 0]),
            (Expression::Reply, [0, 1, 0, 1, 0, 0, 0, 0, 0, 0]),
            (Expression::SetMark { bits, mask }, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0]),
            (Expression::SetConnectionMark { bits, mask }, [0, 2, 0, 0, 1, 0, 0, 0, 0, 0]),
            (Expression::SetAddress(side, ip), [0, 0, 1, 0, 0, 0, 1, 0, 0, 0]),
            (Expression::Accept, [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
            (Expression::Counter, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
            (Expression::Notrack, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
            (Expression::Masquerade, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ] {
            assert_eq!(names(&[expression]), expected, "{expression:?}");
        }
    }
}

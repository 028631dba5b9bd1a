//! Messages of nftables (nfnetlink): tables, chains, rules and their expressions, as bytes.
//!
//! Covers only the needs of [`firewall`](super::firewall): a table of the family `inet`, filter chains on two hooks, and rules
//! that match an address, a protocol and a port, count the packet, and exclude it from connection tracking. Changes are sent as
//! one batch, which the kernel applies as a whole or not at all. Numbers are in network order.

use std::io;
use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use super::netlink::{KernelMessage, KernelRequest, Netlink, attribute, attributes, flag, nest, put, text};

/// Subsystem number of nftables (NFNL_SUBSYS_NFTABLES), the upper byte of its message types.
const SUBSYSTEM: u16 = 10;
/// Family of tables for both IPv4 and IPv6 (NFPROTO_INET).
const INET: u8 = 1;
/// Bytes of the family's own header.
const HEADER: usize = 4;
/// Multicast group for changes of nftables (NFNLGRP_NFTABLES), as a bit.
pub(super) const GROUPS: u32 = 1 << 6;

/// Message types of batches and of nftables.
mod kind {
    use super::SUBSYSTEM;

    pub(super) const BATCH_BEGIN: u16 = 0x10;
    pub(super) const BATCH_END: u16 = 0x11;
    pub(super) const NEW_TABLE: u16 = SUBSYSTEM << 8;
    pub(super) const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
    pub(super) const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
    pub(super) const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
    pub(super) const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
    pub(super) const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
}

/// Attribute types, prefixed with the object that they belong to.
mod attr {
    pub(super) const TABLE_NAME: u16 = 1;
    pub(super) const CHAIN_TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_TABLE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USERDATA: u16 = 7;
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const META_REGISTER: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const PAYLOAD_REGISTER: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LENGTH: u16 = 4;
    pub(super) const COMPARE_REGISTER: u16 = 1;
    pub(super) const COMPARE_OPERATION: u16 = 2;
    pub(super) const COMPARE_DATA: u16 = 3;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const COUNTER_PACKETS: u16 = 2;
}

/// Register that holds a value for a comparison.
const REGISTER: u32 = 1;
/// Comparison for equality (NFT_CMP_EQ).
const EQUAL: u32 = 0;
/// Metadata of a packet (NFT_META_): its family, and the protocol above IP.
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
/// Parts of a packet (NFT_PAYLOAD_).
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Policy of a chain for packets that no rule decides (NF_ACCEPT).
const ACCEPT: u32 = 1;
/// Priority before connection tracking (NF_IP_PRI_RAW).
const RAW: i32 = -300;
/// Type of the comment in a rule's user data, which `nft` shows.
const COMMENT: u8 = 0;

/// Hooks of the family `inet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Hook for arriving packets.
    Prerouting,
    /// Hook for packets of the node's own processes.
    Output,
}

impl Hook {
    pub(super) const ALL: [Self; 2] = [Self::Prerouting, Self::Output];

    /// Returns the name of the hook's chain.
    pub(super) fn chain(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
        }
    }
}

/// Side of a packet whose address and port a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketSide {
    Source,
    Destination,
}

/// A rule that excludes a protocol's packets to or from an address and port from connection tracking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotrackRule {
    pub(super) hook: Hook,
    pub(super) end: PacketSide,
    /// IP protocol number of UDP or TCP.
    pub(super) protocol: u8,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Human-readable comment, which identifies the rule.
    pub(super) comment: String,
}

/// A rule in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelRule {
    pub(super) chain: String,
    pub(super) comment: String,
    /// Packets that the rule has counted.
    pub(super) packets: u64,
}

/// Access to the kernel's nftables.
pub(super) struct Nft(Netlink);

impl Nft {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkNetFilter).map(Self)
    }

    /// Replaces the table of this name, if any, with these rules.
    pub(super) fn replace(&mut self, table: &str, rules: &[NotrackRule]) -> io::Result<()> {
        let mut messages = vec![batch(kind::BATCH_BEGIN), new_table(table), delete_table(table), new_table(table)];
        messages.extend(Hook::ALL.map(|hook| new_chain(table, hook)));
        messages.extend(rules.iter().map(|rule| new_rule(table, rule)));
        self.commit(messages)
    }

    /// Removes a table; returns whether it existed.
    pub(super) fn remove(&mut self, table: &str) -> io::Result<bool> {
        match self.commit(vec![batch(kind::BATCH_BEGIN), delete_table(table)]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        }
    }

    fn commit(&mut self, mut messages: Vec<KernelRequest>) -> io::Result<()> {
        let ends = messages.len() - 1;
        messages.push(batch(kind::BATCH_END));
        self.0.ask(&messages, ends).map(drop)
    }

    /// Returns the names of a table's chains that are attached to a hook.
    pub(super) fn chains(&mut self, table: &str) -> io::Result<Vec<String>> {
        let message = KernelRequest::new(kind::GET_CHAIN, flag::REQUEST | flag::DUMP, &header(0));
        let answers = self.0.dump(&message)?;
        let own = answers.iter().filter(|answer| is_of(answer, kind::NEW_CHAIN, attr::CHAIN_TABLE, table));
        let hooked = own.filter(|answer| attribute(&answer.body, HEADER, attr::CHAIN_HOOK).is_some());
        Ok(hooked.filter_map(|answer| attribute(&answer.body, HEADER, attr::CHAIN_NAME).map(text)).collect())
    }

    /// Returns a table's rules in their order.
    pub(super) fn rules(&mut self, table: &str) -> io::Result<Vec<KernelRule>> {
        let message =
            KernelRequest::new(kind::GET_RULE, flag::REQUEST | flag::DUMP, &header(0)).text(attr::RULE_TABLE, table);
        let answers = match self.0.dump(&message) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            answers => answers?,
        };
        let own = answers.iter().filter(|answer| is_of(answer, kind::NEW_RULE, attr::RULE_TABLE, table));
        Ok(own.map(|answer| read_rule(&answer.body)).collect())
    }
}

fn is_of(answer: &KernelMessage, kind: u16, attribute_of_table: u16, table: &str) -> bool {
    answer.kind == kind && attribute(&answer.body, HEADER, attribute_of_table).map(text).as_deref() == Some(table)
}

/// Returns the header of a message: the family, and for a batch its subsystem.
fn header(resource: u16) -> [u8; HEADER] {
    let [high, low] = resource.to_be_bytes();
    [if resource == 0 { INET } else { 0 }, 0, high, low]
}

fn batch(kind: u16) -> KernelRequest {
    KernelRequest::new(kind, flag::REQUEST, &header(SUBSYSTEM))
}

fn new_table(table: &str) -> KernelRequest {
    KernelRequest::new(kind::NEW_TABLE, flag::REQUEST | flag::ACK | flag::CREATE, &header(0))
        .text(attr::TABLE_NAME, table)
}

fn delete_table(table: &str) -> KernelRequest {
    KernelRequest::new(kind::DELETE_TABLE, flag::REQUEST | flag::ACK, &header(0)).text(attr::TABLE_NAME, table)
}

fn new_chain(table: &str, hook: Hook) -> KernelRequest {
    let mut place = Vec::new();
    put(&mut place, attr::HOOK_NUMBER, &hook.number().to_be_bytes());
    put(&mut place, attr::HOOK_PRIORITY, &RAW.to_be_bytes());
    KernelRequest::new(kind::NEW_CHAIN, flag::REQUEST | flag::ACK | flag::CREATE, &header(0))
        .text(attr::CHAIN_TABLE, table)
        .text(attr::CHAIN_NAME, hook.chain())
        .nest(attr::CHAIN_HOOK, &place)
        .put(attr::CHAIN_POLICY, &ACCEPT.to_be_bytes())
        .text(attr::CHAIN_TYPE, "filter")
}

fn new_rule(table: &str, rule: &NotrackRule) -> KernelRequest {
    let (family, octets, addresses): (u8, Vec<u8>, [u32; 2]) = match rule.address {
        IpAddr::V4(ip) => (libc::NFPROTO_IPV4 as u8, ip.octets().to_vec(), [12, 16]),
        IpAddr::V6(ip) => (libc::NFPROTO_IPV6 as u8, ip.octets().to_vec(), [8, 24]),
    };
    let (address, port) = match rule.end {
        PacketSide::Source => (addresses[0], 0),
        PacketSide::Destination => (addresses[1], 2),
    };
    let mut expressions = Vec::new();
    // The expressions that exclude most packets come first.
    meta(&mut expressions, META_FAMILY, &[family]);
    load(&mut expressions, NETWORK_HEADER, address, &octets);
    meta(&mut expressions, META_PROTOCOL, &[rule.protocol]);
    load(&mut expressions, TRANSPORT_HEADER, port, &rule.port.to_be_bytes());
    expression(&mut expressions, "counter", &[]);
    expression(&mut expressions, "notrack", &[]);
    let mut comment = vec![COMMENT, (rule.comment.len() + 1) as u8];
    comment.extend_from_slice(rule.comment.as_bytes());
    comment.push(0);
    KernelRequest::new(kind::NEW_RULE, flag::REQUEST | flag::ACK | flag::CREATE | flag::APPEND, &header(0))
        .text(attr::RULE_TABLE, table)
        .text(attr::RULE_CHAIN, rule.hook.chain())
        .nest(attr::RULE_EXPRESSIONS, &expressions)
        .put(attr::RULE_USERDATA, &comment)
}

/// Appends expressions that match packets whose metadata equal `value`.
fn meta(expressions: &mut Vec<u8>, key: u32, value: &[u8]) {
    let mut data = Vec::new();
    put(&mut data, attr::META_KEY, &key.to_be_bytes());
    put(&mut data, attr::META_REGISTER, &REGISTER.to_be_bytes());
    expression(expressions, "meta", &data);
    equals(expressions, value);
}

/// Appends expressions that match packets whose bytes at `offset` equal `value`.
fn load(expressions: &mut Vec<u8>, base: u32, offset: u32, value: &[u8]) {
    let mut data = Vec::new();
    put(&mut data, attr::PAYLOAD_REGISTER, &REGISTER.to_be_bytes());
    put(&mut data, attr::PAYLOAD_BASE, &base.to_be_bytes());
    put(&mut data, attr::PAYLOAD_OFFSET, &offset.to_be_bytes());
    put(&mut data, attr::PAYLOAD_LENGTH, &(value.len() as u32).to_be_bytes());
    expression(expressions, "payload", &data);
    equals(expressions, value);
}

fn equals(expressions: &mut Vec<u8>, value: &[u8]) {
    let (mut data, mut inner) = (Vec::new(), Vec::new());
    put(&mut inner, attr::DATA_VALUE, value);
    put(&mut data, attr::COMPARE_REGISTER, &REGISTER.to_be_bytes());
    put(&mut data, attr::COMPARE_OPERATION, &EQUAL.to_be_bytes());
    nest(&mut data, attr::COMPARE_DATA, &inner);
    expression(expressions, "cmp", &data);
}

fn expression(expressions: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut inner = Vec::new();
    put(&mut inner, attr::EXPRESSION_NAME, &[name.as_bytes(), &[0]].concat());
    if !data.is_empty() || name == "counter" {
        nest(&mut inner, attr::EXPRESSION_DATA, data);
    }
    nest(expressions, attr::LIST_ELEMENT, &inner);
}

fn read_rule(body: &[u8]) -> KernelRule {
    let value = |kind| attribute(body, HEADER, kind);
    let comment = value(attr::RULE_USERDATA).and_then(read_comment).unwrap_or_default();
    let expressions = value(attr::RULE_EXPRESSIONS).unwrap_or_default();
    let counted = attributes(expressions, 0).filter_map(|(_, expression)| {
        let name = attribute(expression, 0, attr::EXPRESSION_NAME).map(text)?;
        let data = attribute(expression, 0, attr::EXPRESSION_DATA).filter(|_| name == "counter")?;
        let packets = attribute(data, 0, attr::COUNTER_PACKETS)?.first_chunk()?;
        Some(u64::from_be_bytes(*packets))
    });
    KernelRule { chain: value(attr::RULE_CHAIN).map(text).unwrap_or_default(), comment, packets: counted.sum() }
}

/// Returns the comment from user data, a list of type, length and value.
fn read_comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let (value, others) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        data = others;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        let rule = NotrackRule {
            hook: Hook::Output,
            end: PacketSide::Source,
            protocol: 17,
            address: "fd00::a".parse().expect("an address"),
            port: 53,
            comment: "responses from [fd00::a]:53".to_owned(),
        };
        let bytes = new_rule("nodens", &rule).bytes(0);
        let found = read_rule(&bytes[16..]);
        assert_eq!(found, KernelRule { chain: "output".to_owned(), comment: rule.comment, packets: 0 });
        let at = |wanted: &[u8]| bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
        assert_eq!(
            ["notrack\0", "counter\0", "payload\0", "meta\0", "cmp\0"].map(|name| at(name.as_bytes())),
            [1, 1, 2, 2, 4]
        );
    }

    #[test]
    fn comments_are_found_among_other_data() {
        assert_eq!(read_comment(b"\x01\x02ab\x00\x03xy\x00").as_deref(), Some("xy"));
        for data in [&b""[..], b"\x00", b"\x00\x09ab", b"\x01\x01a"] {
            assert_eq!(read_comment(data), None, "{data:?}");
        }
    }
}

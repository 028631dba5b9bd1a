//! Messages of nftables (nfnetlink) that change or list tables, chains, rules and sets, as bytes.
//!
//! Covers only the needs of [`firewall`](super::firewall): a table of the family `inet`, its chains, rules, and sets of
//! addresses whose elements expire. Changes are sent as one batch, which the kernel applies as a whole or not at all. Numbers are
//! in network order.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::socket::SockProtocol;

use super::expression::Expression;
use super::netlink::{KernelMessage, KernelRequest, Netlink, attribute, attributes, flag, nest, put};

/// Subsystem number of nftables (NFNL_SUBSYS_NFTABLES), the upper byte of its message types.
const SUBSYSTEM: u16 = 10;
/// Family of tables for both IPv4 and IPv6 (NFPROTO_INET).
pub(super) const INET: u8 = 1;
/// Bytes of the family's own header.
pub(super) const HEADER: usize = 4;
/// Multicast group for changes of nftables (NFNLGRP_NFTABLES), as a bit.
pub(super) const GROUPS: u32 = 1 << 6;

/// Message types of batches and of nftables.
pub(super) mod kind {
    use super::SUBSYSTEM;

    pub(crate) const BATCH_BEGIN: u16 = 0x10;
    pub(crate) const BATCH_END: u16 = 0x11;
    pub(crate) const NEW_TABLE: u16 = SUBSYSTEM << 8;
    pub(crate) const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
    pub(crate) const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
    pub(crate) const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
    pub(crate) const GET_CHAIN: u16 = SUBSYSTEM << 8 | 4;
    pub(crate) const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
    pub(crate) const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
    pub(crate) const DELETE_RULE: u16 = SUBSYSTEM << 8 | 8;
    pub(crate) const NEW_SET: u16 = SUBSYSTEM << 8 | 9;
    pub(crate) const NEW_ELEMENT: u16 = SUBSYSTEM << 8 | 12;
    pub(crate) const GET_ELEMENT: u16 = SUBSYSTEM << 8 | 13;
    pub(crate) const DELETE_ELEMENT: u16 = SUBSYSTEM << 8 | 14;
}

/// Attribute types, prefixed with the object that they belong to.
pub(super) mod attr {
    pub(crate) const TABLE_NAME: u16 = 1;
    pub(crate) const TABLE_FLAGS: u16 = 2;
    pub(crate) const CHAIN_TABLE: u16 = 1;
    pub(crate) const CHAIN_NAME: u16 = 3;
    pub(crate) const CHAIN_HOOK: u16 = 4;
    pub(crate) const CHAIN_POLICY: u16 = 5;
    pub(crate) const CHAIN_TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    pub(crate) const RULE_TABLE: u16 = 1;
    pub(crate) const RULE_CHAIN: u16 = 2;
    pub(crate) const RULE_EXPRESSIONS: u16 = 4;
    pub(crate) const RULE_USERDATA: u16 = 7;
    pub(crate) const EXPRESSION_NAME: u16 = 1;
    pub(crate) const EXPRESSION_DATA: u16 = 2;
    pub(crate) const COUNTER_PACKETS: u16 = 2;
    pub(crate) const SET_TABLE: u16 = 1;
    pub(crate) const SET_NAME: u16 = 2;
    pub(crate) const SET_FLAGS: u16 = 3;
    pub(crate) const SET_KEY_TYPE: u16 = 4;
    pub(crate) const SET_KEY_LENGTH: u16 = 5;
    pub(crate) const SET_ID: u16 = 10;
    pub(crate) const ELEMENTS_TABLE: u16 = 1;
    pub(crate) const ELEMENTS_SET: u16 = 2;
    pub(crate) const ELEMENTS_LIST: u16 = 3;
    pub(crate) const LIST_ELEMENT: u16 = 1;
    pub(crate) const ELEMENT_KEY: u16 = 1;
    pub(crate) const ELEMENT_TIMEOUT: u16 = 4;
    pub(crate) const DATA_VALUE: u16 = 1;
}

/// Policy of a chain for packets that no rule decides (NF_ACCEPT).
pub(super) const ACCEPT: u32 = 1;
/// Flag of a set whose elements expire (NFT_SET_TIMEOUT).
const EXPIRES: u32 = 0x10;
/// Type of the comment in a rule's user data, which `nft` shows.
pub(super) const COMMENT: u8 = 0;

/// A chain that is attached to a hook of the family `inet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: Hook,
    pub(super) priority: i32,
}

/// Hooks, with their numbers (NF_INET_).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Prerouting = 0,
    Input = 1,
    Output = 3,
    Postrouting = 4,
}

/// A set of addresses whose elements expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: &'static str,
    /// Type of the elements, for `nft` to show them.
    pub(super) key_type: u32,
    /// Size of an element in bytes.
    pub(super) key_length: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Name of its chain.
    pub(super) chain: &'static str,
    pub(super) expressions: Vec<Expression>,
    /// Human-readable comment, which identifies the rule.
    pub(super) comment: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) chains: Vec<Chain>,
    pub(super) sets: Vec<Set>,
    pub(super) rules: Vec<Rule>,
}

impl Rule {
    /// Encodes the list of expressions.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let mut list = Vec::new();
        self.expressions.iter().for_each(|expression| expression.append(&mut list));
        list
    }
}

/// Access to the kernel's nftables.
pub(super) struct Nft(Netlink);

impl Nft {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkNetFilter).map(Self)
    }

    /// Replaces the table of this name, if any. The elements expire after the given time.
    pub(super) fn replace(&mut self, table: &Table, elements: &[(Set, IpAddr)], expiry: Duration) -> io::Result<()> {
        let name = table.name;
        let mut messages = vec![batch(kind::BATCH_BEGIN), new_table(name), delete_table(name), new_table(name)];
        messages.extend((1..).zip(&table.sets).map(|(id, set)| new_set(name, *set, id)));
        messages.extend(table.chains.iter().map(|chain| new_chain(name, *chain)));
        messages.extend(table.rules.iter().map(|rule| new_rule(name, rule)));
        messages.extend(elements.iter().map(|element| self::element(kind::NEW_ELEMENT, name, *element, Some(expiry))));
        self.commit(messages)
    }

    /// Removes a table; returns whether it existed.
    pub(super) fn remove(&mut self, table: &str) -> io::Result<bool> {
        match self.commit(vec![batch(kind::BATCH_BEGIN), delete_table(table)]) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Makes elements of sets expire after this time from now, whether they exist or not; without a time, removes them.
    pub(super) fn renew(
        &mut self,
        table: &str,
        elements: &[(Set, IpAddr)],
        expiry: Option<Duration>,
    ) -> io::Result<()> {
        let mut messages = vec![batch(kind::BATCH_BEGIN)];
        for element in elements {
            let of = |kind, expiry| self::element(kind, table, *element, expiry);
            // A new element replaces no old one, and only what exists can be deleted.
            let life = Some(expiry.unwrap_or(Duration::from_secs(1)));
            messages.extend([of(kind::NEW_ELEMENT, life), of(kind::DELETE_ELEMENT, None)]);
            messages.extend(expiry.map(|expiry| of(kind::NEW_ELEMENT, Some(expiry))));
        }
        self.commit(messages)
    }

    fn commit(&mut self, mut messages: Vec<KernelRequest>) -> io::Result<()> {
        let ends = messages.len() - 1;
        messages.push(batch(kind::BATCH_END));
        self.0.ask(&messages, ends).map(drop)
    }

    /// Returns the messages about all objects of a kind, such as chains, in the tables of a family.
    pub(super) fn list(&mut self, kind: u16, family: u8) -> io::Result<Vec<KernelMessage>> {
        self.0.dump(&KernelRequest::new(kind, flag::REQUEST | flag::DUMP, &[family, 0, 0, 0]))
    }

    /// Returns the messages about a table's rules in their order.
    pub(super) fn list_rules(&mut self, table: &str) -> io::Result<Vec<KernelMessage>> {
        let message =
            KernelRequest::new(kind::GET_RULE, flag::REQUEST | flag::DUMP, &header(0)).text(attr::RULE_TABLE, table);
        match self.0.dump(&message) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            answers => answers,
        }
    }

    /// Returns whether a set has any element; false without such a set.
    pub(super) fn has_elements(&mut self, table: &str, set: Set) -> io::Result<bool> {
        let message = KernelRequest::new(kind::GET_ELEMENT, flag::REQUEST | flag::DUMP, &header(0))
            .text(attr::ELEMENTS_TABLE, table)
            .text(attr::ELEMENTS_SET, set.name);
        match self.0.dump(&message) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            answers => Ok(answers?.iter().any(|answer| {
                let list = attribute(&answer.body, HEADER, attr::ELEMENTS_LIST);
                list.is_some_and(|list| attributes(list, 0).next().is_some())
            })),
        }
    }
}

/// Returns whether a notification is about a table, a chain or a rule.
pub(super) fn is_of_rules(kind: u16) -> bool {
    (kind::NEW_TABLE..=kind::DELETE_RULE).contains(&kind)
}

/// Returns the header of a message: the family, and for a batch its subsystem.
fn header(resource: u16) -> [u8; HEADER] {
    let [high, low] = resource.to_be_bytes();
    [if resource == 0 { INET } else { 0 }, 0, high, low]
}

fn batch(kind: u16) -> KernelRequest {
    KernelRequest::new(kind, flag::REQUEST, &header(SUBSYSTEM))
}

pub(super) fn new_table(table: &str) -> KernelRequest {
    KernelRequest::new(kind::NEW_TABLE, flag::REQUEST | flag::ACK | flag::CREATE, &header(0))
        .text(attr::TABLE_NAME, table)
}

fn delete_table(table: &str) -> KernelRequest {
    KernelRequest::new(kind::DELETE_TABLE, flag::REQUEST | flag::ACK, &header(0)).text(attr::TABLE_NAME, table)
}

fn new_set(table: &str, set: Set, id: u32) -> KernelRequest {
    KernelRequest::new(kind::NEW_SET, flag::REQUEST | flag::ACK | flag::CREATE, &header(0))
        .text(attr::SET_TABLE, table)
        .text(attr::SET_NAME, set.name)
        .put(attr::SET_FLAGS, &EXPIRES.to_be_bytes())
        .put(attr::SET_KEY_TYPE, &set.key_type.to_be_bytes())
        .put(attr::SET_KEY_LENGTH, &set.key_length.to_be_bytes())
        .put(attr::SET_ID, &id.to_be_bytes())
}

/// Returns a message that adds or deletes an element.
fn element(kind: u16, table: &str, (set, ip): (Set, IpAddr), expiry: Option<Duration>) -> KernelRequest {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (mut key, mut element, mut list) = (Vec::new(), Vec::new(), Vec::new());
    put(&mut key, attr::DATA_VALUE, &octets);
    nest(&mut element, attr::ELEMENT_KEY, &key);
    if let Some(expiry) = expiry {
        put(&mut element, attr::ELEMENT_TIMEOUT, &(expiry.as_millis() as u64).to_be_bytes());
    }
    nest(&mut list, attr::LIST_ELEMENT, &element);
    let create = if kind == kind::NEW_ELEMENT { flag::CREATE } else { 0 };
    KernelRequest::new(kind, flag::REQUEST | flag::ACK | create, &header(0))
        .text(attr::ELEMENTS_TABLE, table)
        .text(attr::ELEMENTS_SET, set.name)
        .nest(attr::ELEMENTS_LIST, &list)
}

fn new_chain(table: &str, chain: Chain) -> KernelRequest {
    let mut place = Vec::new();
    put(&mut place, attr::HOOK_NUMBER, &(chain.hook as u32).to_be_bytes());
    put(&mut place, attr::HOOK_PRIORITY, &chain.priority.to_be_bytes());
    KernelRequest::new(kind::NEW_CHAIN, flag::REQUEST | flag::ACK | flag::CREATE, &header(0))
        .text(attr::CHAIN_TABLE, table)
        .text(attr::CHAIN_NAME, chain.name)
        .nest(attr::CHAIN_HOOK, &place)
        .put(attr::CHAIN_POLICY, &ACCEPT.to_be_bytes())
        .text(attr::CHAIN_TYPE, chain.kind)
}

pub(super) fn new_rule(table: &str, rule: &Rule) -> KernelRequest {
    let mut comment = vec![COMMENT, (rule.comment.len() + 1) as u8];
    comment.extend_from_slice(rule.comment.as_bytes());
    comment.push(0);
    KernelRequest::new(kind::NEW_RULE, flag::REQUEST | flag::ACK | flag::CREATE | flag::APPEND, &header(0))
        .text(attr::RULE_TABLE, table)
        .text(attr::RULE_CHAIN, rule.chain)
        .nest(attr::RULE_EXPRESSIONS, &rule.encoded())
        .put(attr::RULE_USERDATA, &comment)
}

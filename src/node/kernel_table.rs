//! A table of nftables as the kernel has it, and its comparison with the table that nodens writes.
//!
//! The comparison covers everything that decides about a packet: the table's flags, the hooks and policies of its chains, and the
//! expressions of its rules. The counters of rules and the elements of sets are left out, because they change.

use std::io;

use super::netlink::{KernelMessage, attribute, attributes, marked_attributes, nest, put, text};
use super::nft::{ACCEPT, COMMENT, Chain, HEADER, INET, Nft, Rule, Table, attr, kind};

/// Flag of a table that is switched off (NFT_TABLE_F_DORMANT).
const DORMANT: u32 = 1;

/// A table in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelTable {
    is_dormant: bool,
    chains: Vec<KernelChain>,
    /// Without numbers of packets.
    rules: Vec<KernelRule>,
}

/// A chain in the kernel that is attached to a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelChain {
    /// Family of its table (NFPROTO_).
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) name: String,
    kind: String,
    pub(super) hook: u32,
    priority: i32,
    pub(super) policy: u32,
}

/// A rule in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelRule {
    pub(super) chain: String,
    pub(super) comment: String,
    /// Packets that the rule has counted.
    pub(super) packets: u64,
    /// List of expressions, without the values of counters.
    expressions: Vec<u8>,
}

impl KernelTable {
    /// Reads a table of the family `inet`. Without such a table, the result is empty.
    pub(super) fn read(nft: &mut Nft, table: &str) -> io::Result<Self> {
        Ok(Self {
            is_dormant: dormant(nft, INET)?.iter().any(|(_, name)| name == table),
            chains: chains(nft, INET)?.into_iter().filter(|chain| chain.table == table).collect(),
            rules: rules(nft, table)?.into_iter().map(|rule| KernelRule { packets: 0, ..rule }).collect(),
        })
    }

    /// Reports whether the table is as it was written.
    pub(super) fn is(&self, written: &Table) -> bool {
        let is_good = |chain: &Chain| {
            let found = self.rules.iter().filter(|rule| rule.chain == chain.name);
            let mut rules = written.rules.iter().filter(|rule| rule.chain == chain.name).zip(found);
            self.chains.iter().any(|found| found.is(chain)) && rules.all(|(rule, found)| found.is(rule))
        };
        let number_in = |chain: &str| self.rules.iter().filter(|rule| rule.chain == chain).count();
        let has_all = |chain: &Chain| {
            number_in(chain.name) == written.rules.iter().filter(|rule| rule.chain == chain.name).count()
        };
        !self.is_dormant
            && self.chains.len() == written.chains.len()
            && self.rules.len() == written.rules.len()
            && written.chains.iter().all(|chain| has_all(chain) && is_good(chain))
    }
}

impl KernelChain {
    fn is(&self, written: &Chain) -> bool {
        (&*self.name, &*self.kind, self.hook, self.priority, self.policy)
            == (written.name, written.kind, written.hook as u32, written.priority, ACCEPT)
    }
}

impl KernelRule {
    fn is(&self, written: &Rule) -> bool {
        self.comment == written.comment && is_same(&without_counts(&written.encoded()), &self.expressions)
    }
}

/// Returns family and name of the tables that are switched off. The family 0 stands for all.
pub(super) fn dormant(nft: &mut Nft, family: u8) -> io::Result<Vec<(u8, String)>> {
    let read = |answer: &KernelMessage| {
        let flags = number(attribute(&answer.body, HEADER, attr::TABLE_FLAGS)?)?;
        let name = attribute(&answer.body, HEADER, attr::TABLE_NAME).map(text)?;
        (flags & DORMANT != 0).then_some((*answer.body.first()?, name))
    };
    let answers = nft.list(kind::GET_TABLE, family)?;
    Ok(answers.iter().filter(|answer| answer.kind == kind::NEW_TABLE).filter_map(read).collect())
}

/// Returns the chains of a family that are attached to a hook. The family 0 stands for all.
pub(super) fn chains(nft: &mut Nft, family: u8) -> io::Result<Vec<KernelChain>> {
    let answers = nft.list(kind::GET_CHAIN, family)?;
    let chains = answers.iter().filter(|answer| answer.kind == kind::NEW_CHAIN);
    Ok(chains.filter_map(|answer| read_chain(&answer.body)).collect())
}

/// Returns the rules of a table of the family `inet` in their order.
pub(super) fn rules(nft: &mut Nft, table: &str) -> io::Result<Vec<KernelRule>> {
    let is_own = |answer: &&KernelMessage| {
        let name = attribute(&answer.body, HEADER, attr::RULE_TABLE).map(text);
        answer.kind == kind::NEW_RULE && name.as_deref() == Some(table)
    };
    Ok(nft.list_rules(table)?.iter().filter(is_own).map(|answer| read_rule(&answer.body)).collect())
}

fn read_chain(body: &[u8]) -> Option<KernelChain> {
    let value = |kind| attribute(body, HEADER, kind);
    let hook = value(attr::CHAIN_HOOK)?;
    Some(KernelChain {
        family: *body.first()?,
        table: value(attr::CHAIN_TABLE).map(text)?,
        name: value(attr::CHAIN_NAME).map(text)?,
        kind: value(attr::CHAIN_TYPE).map(text)?,
        hook: number(attribute(hook, 0, attr::HOOK_NUMBER)?)?,
        priority: number(attribute(hook, 0, attr::HOOK_PRIORITY)?)? as i32,
        policy: number(value(attr::CHAIN_POLICY)?)?,
    })
}

fn read_rule(body: &[u8]) -> KernelRule {
    let value = |kind| attribute(body, HEADER, kind);
    let comment = value(attr::RULE_USERDATA).and_then(read_comment).unwrap_or_default();
    let expressions = value(attr::RULE_EXPRESSIONS).unwrap_or_default();
    let counted = attributes(expressions, 0).filter(|(_, expression)| is_counter(expression));
    let packets = counted.filter_map(|(_, expression)| {
        let data = attribute(expression, 0, attr::EXPRESSION_DATA)?;
        Some(u64::from_be_bytes(*attribute(data, 0, attr::COUNTER_PACKETS)?.first_chunk()?))
    });
    let packets = packets.fold(0, u64::saturating_add);
    let chain = value(attr::RULE_CHAIN).map(text).unwrap_or_default();
    KernelRule { chain, comment, packets, expressions: without_counts(expressions) }
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

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_be_bytes)
}

fn is_counter(expression: &[u8]) -> bool {
    attribute(expression, 0, attr::EXPRESSION_NAME).map(text).as_deref() == Some("counter")
}

/// Returns a list of expressions whose counters have no values.
fn without_counts(expressions: &[u8]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, expression) in attributes(expressions, 0) {
        if is_counter(expression) {
            let mut name = Vec::new();
            put(&mut name, attr::EXPRESSION_NAME, b"counter\0");
            nest(&mut list, kind, &name);
        } else {
            nest(&mut list, kind, expression);
        }
    }
    list
}

/// Reports whether attributes in the kernel are the written ones: all that was written is there in its order, and what the kernel
/// adds, its defaults, is zero. Only written attributes are marked as nested.
fn is_same(written: &[u8], found: &[u8]) -> bool {
    let mut rest: Vec<_> = attributes(found, 0).collect();
    let is_there = |(kind, is_nested, value): (u16, bool, &[u8])| {
        let Some(at) = rest.iter().position(|(other, _)| *other == kind) else { return false };
        let (_, found) = rest.remove(at);
        if is_nested { is_same(value, found) } else { value == found }
    };
    marked_attributes(written, 0).all(is_there) && rest.iter().all(|(_, value)| value.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::expression::{Expression, PacketSide};
    use crate::node::nft::{new_rule, new_table};

    const COMMENT: &str = "responses from [fd00::a]:53";

    fn rule(expressions: &[Expression]) -> Rule {
        Rule { chain: "output", expressions: expressions.to_vec(), comment: COMMENT.to_owned() }
    }

    fn read(rule: &Rule) -> KernelRule {
        read_rule(&new_rule("nodens", rule).bytes(0)[16..])
    }

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        let written = rule(&[Expression::Protocol(17), Expression::Counter, Expression::Notrack]);
        let found = read(&written);
        assert_eq!((&*found.chain, &*found.comment, found.packets), ("output", COMMENT, 0));
        assert!(found.is(&written));
    }

    #[test]
    fn a_rule_with_other_expressions_is_another_one() {
        let ip = "fd00::a".parse().expect("an address");
        let side = PacketSide::Destination;
        let written = [Expression::InSet(side, ip, "alive6"), Expression::Port(side, 53), Expression::Counter];
        let found = read(&rule(&written));
        for other in [
            &[Expression::InSet(side, ip, "alive4"), Expression::Port(side, 53), Expression::Counter][..],
            &[Expression::InSet(side, ip, "alive6"), Expression::Port(side, 54), Expression::Counter],
            &[Expression::InSet(side, ip, "alive6"), Expression::Counter, Expression::Port(side, 53)],
            &written[..2],
            &[],
        ] {
            assert!(!found.is(&rule(other)) && !read(&rule(other)).is(&rule(&written)), "{other:?}");
        }
        assert!(found.is(&rule(&written)));
    }

    #[test]
    fn defaults_that_the_kernel_adds_are_no_difference() {
        let (mut written, mut inner) = (Vec::new(), Vec::new());
        put(&mut inner, 1, b"set");
        nest(&mut written, 2, &inner);
        for (value, expected) in [([0, 0], true), ([0, 1], false)] {
            let (mut found, mut more) = (Vec::new(), inner.clone());
            put(&mut more, 5, &value);
            put(&mut found, 2, &more);
            assert_eq!(is_same(&written, &found), expected);
        }
        assert!(!is_same(&written, &[]) && !is_same(&[], &written) && is_same(&[], &[]));
    }

    #[test]
    fn comments_are_found_among_other_data() {
        assert_eq!(read_comment(b"\x01\x02ab\x00\x03xy\x00").as_deref(), Some("xy"));
        for data in [&b""[..], b"\x00", b"\x00\x09ab", b"\x01\x01a"] {
            assert_eq!(read_comment(data), None, "{data:?}");
        }
    }

    #[test]
    fn what_is_no_chain_is_left_out() {
        assert_eq!(read_chain(&new_table("nodens").bytes(0)[16..]), None);
        assert_eq!(read_chain(b""), None);
    }
}

//! Static records, as in a hosts file: a name that has one is answered here for every type.

use std::sync::Arc;

use foldhash::HashMap;

use crate::config;
use crate::wire::make::LocalRecords;
use crate::wire::name::Name;
use crate::wire::{Rcode, RrType, class, rcode, rtype};

/// How many CNAMEs among static records are followed here.
const LONGEST_CHAIN: usize = 8;

/// How long a missing type of a static name may be cached, in seconds.
const NO_DATA_TTL: u32 = 60;

/// The static records by name. A view's own lie over those of all clients, which it shares.
#[derive(Clone, Debug, Default)]
pub struct Records {
    common: Arc<Table>,
    own: Option<Arc<Table>>,
}

type Table = HashMap<Box<[u8]>, Vec<Data>>;

/// What a record says; its name is the table's key.
#[derive(Clone, Debug)]
struct Data {
    rtype: RrType,
    ttl: u32,
    rdata: Box<[u8]>,
}

/// What static records say to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This is the answer.
    Answer(LocalRecords),
    /// The name is an alias for one that is not static: to be asked for, with these records before its answer.
    Alias(LocalRecords, Name),
}

impl Records {
    /// The table of these records.
    pub fn new<'r>(records: impl IntoIterator<Item = &'r config::Record>) -> Self {
        Self { common: Arc::new(table(records)), own: None }
    }

    /// The records of `self`, which are shared, and these, before which those of the same names are hidden.
    #[must_use]
    pub fn with<'r>(&self, records: impl IntoIterator<Item = &'r config::Record>) -> Self {
        let own = table(records);
        Self { common: Arc::clone(&self.common), own: (!own.is_empty()).then(|| Arc::new(own)) }
    }

    /// The names that have static records of all clients, in no order.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.common.keys().map(|name| &**name)
    }

    /// The names that have static records which are not shared, in no order.
    pub fn own_names(&self) -> impl Iterator<Item = &[u8]> {
        self.own.iter().flat_map(|own| own.keys()).map(|name| &**name)
    }

    /// Whether `name` (lower-case wire form) has static records. Those of all clients are `hidden` where a view denies them.
    pub fn has(&self, name: &[u8], hidden: impl Fn(&[u8]) -> bool) -> bool {
        self.of(name, hidden).is_some()
    }

    /// Whether the records of all clients are the same ones in memory.
    pub fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.common, &other.common)
    }

    fn of(&self, name: &[u8], hidden: impl Fn(&[u8]) -> bool) -> Option<&Vec<Data>> {
        let own = self.own.as_ref().and_then(|own| own.get(name));
        own.or_else(|| self.common.get(name).filter(|_| !hidden(name)))
    }

    /// The answer for `name`, if it is static and the class is IN. ANY is not asked here: it has its own answer. `hidden`
    /// as for [`Self::has`].
    ///
    /// CNAMEs that lead in a circle are answered once around, as by a zone that holds such.
    pub fn find(&self, name: &[u8], qtype: RrType, qclass: u16, hidden: impl Fn(&[u8]) -> bool) -> Option<Found> {
        let mut here = self.of(name, &hidden).filter(|_| qclass == class::IN)?;
        let mut records = LocalRecords::default();
        let mut owner = name.to_vec();
        let mut passed: Vec<Name> = Vec::new();
        loop {
            let matching = here.iter().filter(|record| record.rtype == qtype);
            for record in matching.clone() {
                records.answer_of(&owner, qtype, record.ttl, &record.rdata);
            }
            if matching.count() > 0 {
                return Some(Found::Answer(records));
            }
            let alias = here.iter().find(|record| record.rtype == rtype::CNAME);
            let Some((alias, target)) = alias.and_then(|alias| Some((alias, Name::from_wire(&alias.rdata).ok()?)))
            else {
                records.soa(&owner, NO_DATA_TTL);
                return Some(Found::Answer(records));
            };
            records.answer_of(&owner, rtype::CNAME, alias.ttl, &alias.rdata);
            if target.as_wire() == name || passed.contains(&target) || passed.len() == LONGEST_CHAIN {
                return Some(Found::Answer(records));
            }
            match self.of(target.as_wire(), &hidden) {
                Some(next) => (here, owner) = (next, target.as_wire().to_vec()),
                None => return Some(Found::Alias(records, target)),
            }
            passed.push(target);
        }
    }

    /// The response code of every static answer: the name exists.
    pub const RCODE: Rcode = rcode::NOERROR;
}

fn table<'r>(records: impl IntoIterator<Item = &'r config::Record>) -> Table {
    let mut table = Table::default();
    for record in records {
        let data = Data { rtype: record.rtype, ttl: record.ttl, rdata: record.rdata.as_slice().into() };
        table.entry(record.name.as_wire().into()).or_default().push(data);
    }
    // Most names have one record: room for more would be half of the table.
    table.values_mut().for_each(Vec::shrink_to_fit);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect(text)
    }

    fn shown(_: &[u8]) -> bool {
        false
    }

    /// Records by owner: an address, or the name that it is an alias of.
    fn records(list: &[(&str, &str)]) -> Records {
        let record = |(owner, value): &(&str, &str)| {
            let (rtype, rdata) = match value.parse::<std::net::Ipv4Addr>() {
                Ok(address) => (rtype::A, address.octets().to_vec()),
                Err(_) => (rtype::CNAME, name(value).as_wire().to_vec()),
            };
            config::Record { name: name(owner), rtype, ttl: 60, rdata }
        };
        Records::new(&list.iter().map(record).collect::<Vec<_>>())
    }

    #[test]
    fn answers_and_aliases() {
        let records = records(&[
            ("a", "192.0.2.1"),
            ("a", "192.0.2.2"),
            ("www", "a"),
            ("out", "elsewhere.example"),
            ("round", "about"),
            ("about", "round"),
            ("self", "self"),
            ("into", "self"),
        ]);
        for (asked, qtype, answers, authorities, alias) in [
            ("a", rtype::A, 2, 0, None),
            ("a", rtype::AAAA, 0, 1, None),
            ("www", rtype::A, 3, 0, None),
            ("www", rtype::CNAME, 1, 0, None),
            ("www", rtype::AAAA, 1, 1, None),
            ("out", rtype::A, 1, 0, Some("elsewhere.example")),
            ("out", rtype::CNAME, 1, 0, None),
            ("round", rtype::A, 2, 0, None),
            ("self", rtype::A, 1, 0, None),
            ("into", rtype::A, 2, 0, None),
        ] {
            let found = records.find(name(asked).as_wire(), qtype, class::IN, shown).expect(asked);
            let (found, target) = match found {
                Found::Answer(found) => (found, None),
                Found::Alias(found, target) => (found, Some(target)),
            };
            assert_eq!((found.answers, found.authorities), (answers, authorities), "{asked} {qtype}");
            assert_eq!(target, alias.map(name), "{asked} {qtype}");
        }
        assert_eq!(records.find(name("b").as_wire(), rtype::A, class::IN, shown), None);
        assert_eq!(records.find(name("a").as_wire(), rtype::A, class::CH, shown), None);
    }

    #[test]
    fn long_chains_end() {
        let owners: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
        let links: Vec<(&str, &str)> = owners.windows(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        let Some(Found::Answer(found)) = records(&links).find(name("n0").as_wire(), rtype::A, class::IN, shown) else {
            panic!("no answer");
        };
        assert_eq!(usize::from(found.answers), LONGEST_CHAIN + 1);
    }

    #[test]
    fn a_views_own_records_hide_those_of_all_and_so_does_what_it_denies() {
        let common = records(&[("a", "192.0.2.1"), ("b", "192.0.2.2"), ("www", "b"), ("hidden", "192.0.2.3")]);
        let own = config::Record { name: name("a"), rtype: rtype::AAAA, ttl: 60, rdata: vec![0; 16] };
        let view = common.with([&own]);
        let hidden = |asked: &[u8]| asked == name("hidden").as_wire() || asked == name("b").as_wire();
        let answers = |asked: &str, qtype| match view.find(name(asked).as_wire(), qtype, class::IN, hidden) {
            Some(Found::Answer(found)) => (found.answers, None),
            Some(Found::Alias(found, target)) => (found.answers, Some(target)),
            None => (0, None),
        };
        assert_eq!((answers("a", rtype::A).0, answers("a", rtype::AAAA).0), (0, 1));
        assert_eq!(answers("www", rtype::A), (1, Some(name("b"))), "what it leads to is asked for, and denied there");
        assert!(!view.has(name("hidden").as_wire(), hidden) && view.has(name("hidden").as_wire(), shown));
        assert!(view.shares_with(&common));
    }
}

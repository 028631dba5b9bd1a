//! Static records, as in a hosts file: a name that has one is answered here for every type.

use foldhash::HashMap;

use crate::config;
use crate::wire::make::LocalRecords;
use crate::wire::name::Name;
use crate::wire::{class, rcode, rtype};

/// How many CNAMEs among static records are followed here.
const LONGEST_CHAIN: usize = 8;

/// How long a missing type of a static name may be cached, in seconds.
const NO_DATA_TTL: u32 = 60;

/// The static records by name.
#[derive(Clone, Debug, Default)]
pub struct Records(HashMap<Box<[u8]>, Vec<config::Record>>);

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
        let mut table: HashMap<Box<[u8]>, Vec<config::Record>> = HashMap::default();
        for record in records {
            table.entry(record.name.as_wire().into()).or_default().push(record.clone());
        }
        Self(table)
    }

    /// Whether `name` (lower-case wire form) has static records.
    pub fn has(&self, name: &[u8]) -> bool {
        self.0.contains_key(name)
    }

    /// The names that have static records, in no order.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(|name| &**name)
    }

    /// The answer for `name`, if it is static and the class is IN. ANY is not asked here: it has its own answer.
    ///
    /// CNAMEs that lead in a circle are answered once around, as by a zone that holds such.
    pub fn find(&self, name: &[u8], qtype: u16, qclass: u16) -> Option<Found> {
        let mut here = self.0.get(name).filter(|_| qclass == class::IN)?;
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
            match self.0.get(target.as_wire()) {
                Some(next) => (here, owner) = (next, target.as_wire().to_vec()),
                None => return Some(Found::Alias(records, target)),
            }
            passed.push(target);
        }
    }

    /// The response code of every static answer: the name exists.
    pub const RCODE: u16 = rcode::NOERROR;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect(text)
    }

    /// Records by owner: an address, or the name that it is an alias of.
    fn records(list: &[(&str, &str)]) -> Records {
        let mut table: HashMap<Box<[u8]>, Vec<config::Record>> = HashMap::default();
        for (owner, value) in list {
            let (rtype, rdata) = match value.parse::<std::net::Ipv4Addr>() {
                Ok(address) => (rtype::A, address.octets().to_vec()),
                Err(_) => (rtype::CNAME, name(value).as_wire().to_vec()),
            };
            let record = config::Record { name: name(owner), rtype, ttl: 60, rdata };
            table.entry(record.name.as_wire().into()).or_default().push(record);
        }
        Records(table)
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
            let found = records.find(name(asked).as_wire(), qtype, class::IN).expect(asked);
            let (found, target) = match found {
                Found::Answer(found) => (found, None),
                Found::Alias(found, target) => (found, Some(target)),
            };
            assert_eq!((found.answers, found.authorities), (answers, authorities), "{asked} {qtype}");
            assert_eq!(target, alias.map(name), "{asked} {qtype}");
        }
        assert_eq!(records.find(name("b").as_wire(), rtype::A, class::IN), None);
        assert_eq!(records.find(name("a").as_wire(), rtype::A, class::CH), None);
    }

    #[test]
    fn long_chains_end() {
        let owners: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
        let links: Vec<(&str, &str)> = owners.windows(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        let Some(Found::Answer(found)) = records(&links).find(name("n0").as_wire(), rtype::A, class::IN) else {
            panic!("no answer");
        };
        assert_eq!(usize::from(found.answers), LONGEST_CHAIN + 1);
    }
}

//! Static records, as in a hosts file: a name that has one is answered here for every type.

use std::collections::HashMap;

use crate::config::{self, Config};
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
    /// The table of a configuration's records.
    pub fn new(config: &Config) -> Self {
        let mut table: HashMap<Box<[u8]>, Vec<config::Record>> = HashMap::new();
        for record in &config.records {
            table.entry(record.name.as_wire().into()).or_default().push(record.clone());
        }
        Self(table)
    }

    /// Whether `name` (lower-case wire form) has static records.
    pub fn has(&self, name: &[u8]) -> bool {
        self.0.contains_key(name)
    }

    /// The answer for `name`, if it is static and the class is IN.
    pub fn find(&self, name: &[u8], qtype: u16, qclass: u16) -> Option<Found> {
        let mut here = self.0.get(name).filter(|_| qclass == class::IN)?;
        let mut records = LocalRecords::default();
        let mut owner = name.to_vec();
        for _ in 0..LONGEST_CHAIN {
            for record in here.iter().filter(|record| record.rtype == qtype) {
                records.answer_of(&owner, qtype, record.ttl, &record.rdata);
            }
            let alias = here.iter().find(|record| record.rtype == rtype::CNAME && qtype != rtype::CNAME);
            let Some(alias) = alias else {
                if here.iter().all(|record| record.rtype != qtype) {
                    records.soa(&owner, NO_DATA_TTL);
                }
                return Some(Found::Answer(records));
            };
            records.answer_of(&owner, rtype::CNAME, alias.ttl, &alias.rdata);
            let target = Name::from_wire(&alias.rdata).ok()?;
            match self.0.get(target.as_wire()) {
                Some(next) => (here, owner) = (next, target.as_wire().to_vec()),
                None => return Some(Found::Alias(records, target)),
            }
        }
        Some(Found::Answer(records))
    }

    /// The response code of every static answer: the name exists.
    pub const RCODE: u16 = rcode::NOERROR;
}

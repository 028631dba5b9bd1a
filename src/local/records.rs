//! Static records, as in a hosts file: a name that has one is answered here for every type.
//!
//! A wildcard covers the names below it that do not exist (RFC 4592): those that have no records of their own, are no ancestors
//! of a name with records, and have no such name between them and the wildcard.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use crate::config;
use crate::wire::name::{Name, suffixes};
use crate::wire::write::LocalRecords;
use crate::wire::{Rcode, RrType, class, rcode, rtype};

/// Most CNAMEs among static records that are followed here.
const LONGEST_CHAIN: usize = 8;

/// TTL of a missing type of a static name, in seconds.
const NO_DATA_TTL: u32 = 60;

/// Static records by name. A view's own records take precedence over the common ones, which it shares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    common: Arc<OriginRecords>,
    own: Option<Arc<OriginRecords>>,
}

/// Records of one origin.
#[derive(Debug, Default)]
struct OriginRecords {
    by_name: HashMap<Box<[u8]>, Vec<Data>>,
    /// Names directly above a wildcard.
    wildcards: HashSet<Box<[u8]>>,
    /// Names that exist, with or without records; empty if there are no wildcards.
    existing: HashSet<Box<[u8]>>,
    /// Zones whose names are resolved under another suffix.
    rewrites: Vec<config::Rewrite>,
}

/// Label of a wildcard, in wire form.
const WILDCARD: &[u8] = b"\x01*";

/// Content of a record; its name is the table's key.
#[derive(Clone, Debug)]
struct Data {
    rtype: RrType,
    ttl: u32,
    rdata: Box<[u8]>,
}

/// Context of static records: denials of a view, and its routes.
pub(crate) trait RecordContext {
    /// Returns whether the view denies this name, which hides its common records.
    fn denies(&self, name: &[u8]) -> bool;
    /// Returns the number of labels of the zone by which the name takes its route.
    fn depth(&self, name: &[u8]) -> usize;
}

/// Static answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StaticAnswer {
    Answer(LocalRecords),
    /// Alias of a name that is not static: that name is to be resolved, and these records precede its answer.
    Alias(LocalRecords, Name),
}

impl Records {
    /// Returns the table of these records and rewrites.
    pub(crate) fn new<'r>(
        records: impl IntoIterator<Item = &'r config::RecordConfig>,
        rewrites: &[config::Rewrite],
    ) -> Self {
        let mut common = OriginRecords { rewrites: rewrites.to_vec(), ..table(records) };
        // The longest suffix takes precedence.
        common.rewrites.sort_by_key(|rewrite| std::cmp::Reverse(rewrite.zone.as_wire().len()));
        Self { common: Arc::new(common), own: None }
    }

    /// Returns the common records of `self`, shared, with these records, which hide common ones of the same name.
    #[must_use]
    pub(crate) fn with<'r>(&self, records: impl IntoIterator<Item = &'r config::RecordConfig>) -> Self {
        let own = table(records);
        Self { common: Arc::clone(&self.common), own: (!own.by_name.is_empty()).then(|| Arc::new(own)) }
    }

    /// Returns the names of common static records, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.common.by_name.keys().map(|name| &**name)
    }

    /// Returns the names of static records that are not shared, in no order.
    pub(crate) fn own_names(&self) -> impl Iterator<Item = &[u8]> {
        self.own.iter().flat_map(|own| own.by_name.keys()).map(|name| &**name)
    }

    /// Returns whether `name` (lower-case wire form) has static records.
    pub(crate) fn has(&self, name: &[u8], around: &impl RecordContext) -> bool {
        self.of(name, around).is_some() || self.rewritten(name, around).is_some()
    }

    /// Returns whether the common records are the same in memory.
    pub(crate) fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.common, &other.common)
    }

    fn of(&self, name: &[u8], around: &impl RecordContext) -> Option<&Vec<Data>> {
        let own = self.own.as_deref();
        let common = || Some(&*self.common).filter(|_| !around.denies(name));
        own.and_then(|own| own.by_name.get(name))
            .or_else(|| common()?.by_name.get(name))
            .or_else(|| own?.wildcard_for(name, || self.nearest(name, around)))
            .or_else(|| common()?.wildcard_for(name, || self.nearest(name, around)))
    }

    /// Returns the label count of the closest zone that a route or a rewrite claims; no wildcard reaches into it (RFC 4592
    /// section 4.2).
    fn nearest(&self, name: &[u8], around: &impl RecordContext) -> usize {
        let rewrite = self.common.rewrite(name).map_or(0, |rewrite| rewrite.zone.label_count());
        around.depth(name).max(rewrite)
    }

    /// Returns the answer for `name`, if it is static and the class is IN. ANY does not get here: it has its own answer.
    ///
    /// A loop of CNAMEs is answered with each CNAME once, as by a zone that contains such a loop.
    pub(crate) fn find(
        &self,
        name: &[u8],
        qtype: RrType,
        qclass: u16,
        around: &impl RecordContext,
    ) -> Option<StaticAnswer> {
        if qclass != class::IN {
            return None;
        }
        let mut records = LocalRecords::default();
        let mut owner = Cow::Borrowed(name);
        let mut passed: Vec<Name> = Vec::new();
        loop {
            let (target, ttl) = match self.of(&owner, around) {
                Some(here) => {
                    let matching = here.iter().filter(|record| record.rtype == qtype);
                    for record in matching.clone() {
                        records.answer_of(&owner, qtype, record.ttl, &record.rdata);
                    }
                    if matching.count() > 0 {
                        return Some(StaticAnswer::Answer(records));
                    }
                    let alias = here.iter().find(|record| record.rtype == rtype::CNAME);
                    let Some(alias) = alias.and_then(|alias| Some((Name::from_wire(&alias.rdata).ok()?, alias.ttl)))
                    else {
                        records.soa(&owner, NO_DATA_TTL);
                        return Some(StaticAnswer::Answer(records));
                    };
                    alias
                }
                None => match (self.rewritten(&owner, around), passed.pop()) {
                    (Some(alias), last) => {
                        passed.extend(last);
                        alias
                    }
                    (None, Some(target)) => return Some(StaticAnswer::Alias(records, target)),
                    (None, None) => return None,
                },
            };
            records.answer_of(&owner, rtype::CNAME, ttl, target.as_wire());
            let is_circle = target.as_wire() == name || passed.contains(&target) || passed.len() == LONGEST_CHAIN;
            if is_circle || qtype == rtype::CNAME {
                return Some(StaticAnswer::Answer(records));
            }
            owner = Cow::Owned(target.as_wire().to_vec());
            passed.push(target);
        }
    }

    /// Returns the name that replaces this one, and the TTL of the alias; `None` if no rewrite applies or the name would be too
    /// long.
    fn rewritten(&self, name: &[u8], around: &impl RecordContext) -> Option<(Name, u32)> {
        let rewrite = self.common.rewrite(name).filter(|_| !around.denies(name))?;
        // A longer zone belongs to its route.
        if around.depth(name) > rewrite.zone.label_count() {
            return None;
        }
        let below = name.len() - rewrite.zone.as_wire().len();
        let target = [&name[..below], rewrite.to.as_wire()].concat();
        Some((Name::from_wire(&target).ok()?, rewrite.ttl))
    }

    /// Response code of every static answer: the name exists.
    pub(crate) const RCODE: Rcode = rcode::NOERROR;
}

impl OriginRecords {
    /// Returns the rewrite of the longest zone that `name` is within.
    fn rewrite(&self, name: &[u8]) -> Option<&config::Rewrite> {
        self.rewrites.iter().find(|rewrite| suffixes(name).any(|suffix| suffix == rewrite.zone.as_wire()))
    }

    /// Returns the records of the wildcard that covers `name`, which has none of its own. It reaches no name below a closer
    /// zone, which has `nearest` labels.
    fn wildcard_for(&self, name: &[u8], nearest: impl Fn() -> usize) -> Option<&Vec<Data>> {
        if self.wildcards.is_empty() || self.existing.contains(name) {
            return None;
        }
        // The closest ancestor that exists decides (RFC 4592 section 3.3.1).
        let closest = suffixes(name).skip(1).find(|above| self.existing.contains(*above))?;
        let reaches = self.wildcards.contains(closest) && suffixes(closest).count() > nearest();
        reaches.then(|| self.by_name.get(&*[WILDCARD, closest].concat()))?
    }
}

fn table<'r>(records: impl IntoIterator<Item = &'r config::RecordConfig>) -> OriginRecords {
    let mut by_name: HashMap<Box<[u8]>, Vec<Data>> = HashMap::default();
    for record in records {
        let data = Data { rtype: record.rtype, ttl: record.ttl, rdata: record.rdata.as_slice().into() };
        by_name.entry(record.name.as_wire().into()).or_default().push(data);
    }
    // Most names have one record: spare capacity would be half of the table.
    by_name.values_mut().for_each(Vec::shrink_to_fit);
    let wildcards: HashSet<Box<[u8]>> =
        by_name.keys().filter_map(|name| name.strip_prefix(WILDCARD)).map(Box::from).collect();
    let existing = match wildcards.is_empty() {
        true => HashSet::default(),
        false => by_name.keys().flat_map(|name| suffixes(name)).map(Box::from).collect(),
    };
    OriginRecords { by_name, wildcards, existing, rewrites: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect(text)
    }

    /// One route for all names, and longer zones of other routes; names that a view denies.
    struct Zones(&'static [&'static str], &'static [&'static str]);

    impl RecordContext for Zones {
        fn denies(&self, asked: &[u8]) -> bool {
            self.1.iter().any(|denied| name(denied).as_wire() == asked)
        }

        fn depth(&self, asked: &[u8]) -> usize {
            let zones = self.0.iter().map(|zone| name(zone));
            let above = zones.filter(|zone| suffixes(asked).any(|suffix| suffix == zone.as_wire()));
            above.map(|zone| zone.label_count()).max().unwrap_or(0)
        }
    }

    const SHOWN: &Zones = &Zones(&[], &[]);

    /// Returns records by owner: an address, or the target of an alias.
    fn records(list: &[(&str, &str)]) -> Records {
        let record = |(owner, value): &(&str, &str)| {
            let (rtype, rdata) = match value.parse::<std::net::Ipv4Addr>() {
                Ok(address) => (rtype::A, address.octets().to_vec()),
                Err(_) => (rtype::CNAME, name(value).as_wire().to_vec()),
            };
            config::RecordConfig { name: name(owner), rtype, ttl: 60, rdata }
        };
        Records::new(&list.iter().map(record).collect::<Vec<_>>(), &[])
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
            let found = records.find(name(asked).as_wire(), qtype, class::IN, SHOWN).expect(asked);
            let (found, target) = match found {
                StaticAnswer::Answer(found) => (found, None),
                StaticAnswer::Alias(found, target) => (found, Some(target)),
            };
            assert_eq!((found.answers, found.authorities), (answers, authorities), "{asked} {qtype}");
            assert_eq!(target, alias.map(name), "{asked} {qtype}");
        }
        assert_eq!(records.find(name("b").as_wire(), rtype::A, class::IN, SHOWN), None);
        assert_eq!(records.find(name("a").as_wire(), rtype::A, class::CH, SHOWN), None);
    }

    #[test]
    fn a_wildcard_stands_in_for_names_that_do_not_exist() {
        let records = records(&[
            ("*.example", "192.0.2.1"),
            ("host.example", "192.0.2.2"),
            ("a.deep.example", "192.0.2.3"),
            ("*.deep.example", "192.0.2.4"),
            ("www.other", "x.example"),
        ]);
        for (asked, address) in [
            ("x.example", Some(1)),
            ("y.x.example", Some(1)),
            ("*.example", Some(1)),
            ("host.example", Some(2)),
            // The closest name that exists is the host, and it has no wildcard.
            ("x.host.example", None),
            ("a.deep.example", Some(3)),
            ("b.deep.example", Some(4)),
            ("c.b.deep.example", Some(4)),
            ("x.a.deep.example", None),
            // A name that only has names below it exists too.
            ("deep.example", None),
            ("example", None),
            ("x.else", None),
        ] {
            let owner = name(asked);
            let found = records.find(owner.as_wire(), rtype::A, class::IN, SHOWN);
            let found = found.map(|found| match found {
                StaticAnswer::Answer(found) => found.wire,
                StaticAnswer::Alias(..) => panic!("{asked}: no alias"),
            });
            let right =
                address.map(|last| [owner.as_wire(), &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, last]].concat());
            assert_eq!(found, right, "{asked}");
        }
        let Some(StaticAnswer::Answer(found)) = records.find(name("www.other").as_wire(), rtype::A, class::IN, SHOWN)
        else {
            panic!("no answer");
        };
        assert_eq!(found.answers, 2, "an alias into the wildcard");
    }

    #[test]
    fn wildcards_end_at_longer_routes_and_rewrites() {
        let owner =
            |text: &str| config::RecordConfig { name: name(text), rtype: rtype::A, ttl: 60, rdata: vec![192, 0, 2, 1] };
        let rewrite = |zone: &str, to: &str| config::Rewrite { zone: name(zone), to: name(to), ttl: 60 };
        let table = [owner("*.apps.example")];
        let records =
            Records::new(&table, &[rewrite("rw.apps.example", "corp.example"), rewrite("old.example", "new.example")]);
        let routed = &Zones(&["zone.apps.example", "sub.old.example", "apps.example"], &[]);
        for (asked, right) in [
            ("x.apps.example", Some("answer")),
            ("x.zone.apps.example", None),
            ("x.rw.apps.example", Some("x.corp.example.")),
            ("x.old.example", Some("x.new.example.")),
            ("x.sub.old.example", None),
        ] {
            let found = records.find(name(asked).as_wire(), rtype::A, class::IN, routed);
            let told = found.map(|found| match found {
                StaticAnswer::Answer(_) => "answer".to_owned(),
                StaticAnswer::Alias(_, target) => target.to_string(),
            });
            assert_eq!(told.as_deref(), right, "{asked}");
        }
    }

    #[test]
    fn aliases_and_rewrites_lead_into_one_another() {
        let alias = |from: &str, to: &str| config::RecordConfig {
            name: name(from),
            rtype: rtype::CNAME,
            ttl: 60,
            rdata: name(to).as_wire().to_vec(),
        };
        let rewrite = config::Rewrite { zone: name("old.example"), to: name("corp.example"), ttl: 60 };
        let table = [alias("c1.corp.example", "git.other"), alias("back", "web.old.example")];
        let records = Records::new(&table, &[rewrite]);
        for (asked, links, end) in [("c1.old.example", 2, "git.other."), ("back", 2, "web.corp.example.")] {
            let Some(StaticAnswer::Alias(found, target)) =
                records.find(name(asked).as_wire(), rtype::A, class::IN, SHOWN)
            else {
                panic!("{asked}: no alias");
            };
            assert_eq!((found.answers, target.to_string().as_str()), (links, end), "{asked}");
        }
    }

    #[test]
    fn long_chains_end() {
        let owners: Vec<String> = (0..40).map(|n| format!("n{n}")).collect();
        let links: Vec<(&str, &str)> = owners.windows(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        let Some(StaticAnswer::Answer(found)) = records(&links).find(name("n0").as_wire(), rtype::A, class::IN, SHOWN)
        else {
            panic!("no answer");
        };
        assert_eq!(usize::from(found.answers), LONGEST_CHAIN + 1);
    }

    #[test]
    fn view_records_and_denials_hide_global_ones() {
        let common = records(&[("a", "192.0.2.1"), ("b", "192.0.2.2"), ("www", "b"), ("hidden", "192.0.2.3")]);
        let own = config::RecordConfig { name: name("a"), rtype: rtype::AAAA, ttl: 60, rdata: vec![0; 16] };
        let view = common.with([&own]);
        let hidden = &Zones(&[], &["hidden", "b"]);
        let answers = |asked: &str, qtype| match view.find(name(asked).as_wire(), qtype, class::IN, hidden) {
            Some(StaticAnswer::Answer(found)) => (found.answers, None),
            Some(StaticAnswer::Alias(found, target)) => (found.answers, Some(target)),
            None => (0, None),
        };
        assert_eq!((answers("a", rtype::A).0, answers("a", rtype::AAAA).0), (0, 1));
        assert_eq!(answers("www", rtype::A), (1, Some(name("b"))), "what it leads to is asked for, and denied there");
        assert!(!view.has(name("hidden").as_wire(), hidden) && view.has(name("hidden").as_wire(), SHOWN));
        assert!(view.shares_with(&common));
    }
}

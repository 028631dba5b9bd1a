//! Existing names, indexed by the prefix before their zone. A client that asked for `git` or `git.corp.example` can be
//! pointed to `git.eu.corp.example`, at a cost that does not depend on the number of zones.
//!
//! The names are those of static records, and those that upstreams answered recently. The reader has to check whether a
//! client may see such a name, and whether the answer has records.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;

use foldhash::fast::RandomState;
use lru::LruCache;

use super::prefix::{Prefix, Prefixes};
use crate::effective_view::EffectiveViewId;
use crate::snapshot::Snapshot;
use crate::wire::name::suffixes;

/// Fewest labels of a zone that counts as a suffix: `.` and `com` would match anything.
const LEAST_LABELS: usize = 2;
/// Most prefixes whose answered names are kept; the least recently answered one is evicted.
const MOST_FRONTS: usize = 1_024;
/// Most answered names kept of one prefix: the latest.
const MOST_ANSWERED: usize = 4;
/// Most names with static records kept of one prefix: the shortest.
const MOST_RECORDS: usize = 8;
/// Most prefixes that are looked up for one name, including the whole name: the longest.
const MOST_LOOKED_UP: usize = 4;
/// Most similar names returned for one name: the shortest.
pub(crate) const MOST_LIKE: usize = 12;

#[derive(Debug)]
pub(crate) struct Existing {
    zones: KnownZones,
    answered: LruCache<u64, Vec<Box<[u8]>>>,
}

/// Zones and static records of a configuration, of all views.
#[derive(Debug, Default)]
pub(crate) struct KnownZones {
    generation: Option<u32>,
    zones: HashSet<Box<[u8]>, RandomState>,
    records: HashMap<u64, Vec<Box<[u8]>>, RandomState>,
}

impl KnownZones {
    /// Collects the zones and static records of a configuration.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        // Shared zones and records are those of the first view, so they are read only there.
        let all = snapshot.effective_view(EffectiveViewId::COMMON);
        let views = || snapshot.effective_views().skip(1).map(|id| snapshot.effective_view(id));
        let zones = all.router.ways().chain(views().flat_map(|view| view.router.own_ways())).map(|(zone, _)| zone);
        let names = all.record_names().chain(views().flat_map(|view| view.own_record_names()));
        Self { generation: Some(snapshot.generation), ..Self::new(zones, names) }
    }

    /// Creates an instance from zones and from names with static records.
    pub(crate) fn new<'n>(zones: impl Iterator<Item = &'n [u8]>, names: impl Iterator<Item = &'n [u8]>) -> Self {
        let zones = zones.filter(|zone| is_suffix(zone)).map(Into::into).collect();
        let mut all = Self { zones, ..Self::default() };
        for name in names {
            let prefixes = Prefixes::of(name);
            for front in all.fronts(&prefixes).map(|front| front.hash).collect::<Vec<_>>() {
                let known = all.records.entry(front).or_default();
                if let Err(at) = known.binary_search_by(|known| order(known).cmp(&order(name))) {
                    known.insert(at, name.into());
                    known.truncate(MOST_RECORDS);
                }
            }
        }
        all
    }

    /// Returns the prefix before each zone that the name lies in, shortest first.
    fn fronts<'n>(&self, name: &'n Prefixes<'n>) -> impl DoubleEndedIterator<Item = Prefix> {
        name.each().filter(|front| self.zones.contains(name.behind(*front)))
    }
}

impl Existing {
    /// Creates an empty instance.
    pub(crate) fn new() -> Self {
        let most = NonZeroUsize::new(MOST_FRONTS).unwrap_or(NonZeroUsize::MIN);
        Self { zones: KnownZones::default(), answered: LruCache::new(most) }
    }

    /// Returns whether the zones are those of this configuration.
    pub(crate) fn is_of(&self, snapshot: &Snapshot) -> bool {
        self.zones.generation == Some(snapshot.generation)
    }

    pub(crate) fn follow(&mut self, zones: KnownZones) {
        self.zones = zones;
    }

    /// Records that an upstream answered this name, which is in lower-case wire form. Returns the number of items
    /// visited.
    pub(crate) fn answered(&mut self, name: &[u8]) -> u64 {
        let prefixes = Prefixes::of(name);
        let mut steps = prefixes.each().count() as u64;
        for front in self.zones.fronts(&prefixes) {
            let known = self.answered.get_or_insert_mut(front.hash, Vec::new);
            steps += known.len() as u64;
            match known.iter().position(|known| **known == *name) {
                Some(at) => known[..=at].rotate_right(1),
                None => {
                    known.truncate(MOST_ANSWERED - 1);
                    known.insert(0, name.into());
                }
            }
        }
        steps
    }

    /// Returns the existing names that result from appending another suffix to this name, or from replacing its own
    /// suffix: shortest first, then in byte order.
    pub(crate) fn like(&self, name: &[u8]) -> Vec<Box<[u8]>> {
        let prefixes = Prefixes::of(name);
        let fronts = self.zones.fronts(&prefixes).rev().map(|front| front.hash);
        let fronts = std::iter::once(prefixes.whole()).chain(fronts).take(MOST_LOOKED_UP);
        let known = fronts.flat_map(|front| {
            let (records, answered) = (self.zones.records.get(&front), self.answered.peek(&front));
            records.into_iter().chain(answered).flatten()
        });
        let mut like: Vec<&Box<[u8]>> = known.filter(|known| ***known != *name).collect();
        like.sort_by_key(|known| order(known));
        like.dedup();
        like.into_iter().take(MOST_LIKE).cloned().collect()
    }
}

impl Default for Existing {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns whether a zone counts as a suffix.
pub(crate) fn is_suffix(zone: &[u8]) -> bool {
    suffixes(zone).count() > LEAST_LABELS && !zone.ends_with(b"\x04arpa\x00")
}

fn order(name: &[u8]) -> (usize, &[u8]) {
    (name.len(), name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::{DisplayNoDot, Name};

    fn wire(name: &str) -> Vec<u8> {
        name.parse::<Name>().expect(name).as_wire().to_vec()
    }

    fn existing(zones: &[&str], records: &[&str]) -> Existing {
        let (zones, records): (Vec<_>, Vec<_>) =
            (zones.iter().map(|zone| wire(zone)).collect(), records.iter().map(|name| wire(name)).collect());
        let mut existing = Existing::new();
        existing.follow(KnownZones::new(zones.iter().map(Vec::as_slice), records.iter().map(Vec::as_slice)));
        existing
    }

    fn like(existing: &Existing, name: &str) -> Vec<String> {
        existing.like(&wire(name)).iter().map(|name| DisplayNoDot(name).to_string()).collect()
    }

    #[test]
    fn other_suffixes() {
        let zones = [".", "com", "corp.example", "eu.corp.example", "10.in-addr.arpa"];
        let mut existing = existing(&zones, &["git.eu.corp.example", "db.corp.example", "git.com"]);
        for name in ["git.corp.example", "git.corp.example.corp.example", "1.0.0.10.in-addr.arpa", "www.com", "."] {
            existing.answered(&wire(name));
        }
        for (name, expected) in [
            ("git", &["git.corp.example", "git.eu.corp.example"][..]),
            ("git.corp.example", &["git.eu.corp.example", "git.corp.example.corp.example"]),
            // The client may have meant git or git.eu.
            ("git.eu.corp.example", &["git.corp.example"]),
            ("db.eu.corp.example", &["db.corp.example"]),
            ("db.example", &[]),
            ("www", &[]),
            ("1.0.0", &[]),
            (".", &[]),
        ] {
            assert_eq!(like(&existing, name), expected, "{name}");
        }
    }

    #[test]
    fn the_cost_is_bounded_whatever_the_number_of_zones() {
        let zones: Vec<String> = (0..5_000).map(|n| format!("z{n}.corp.example")).collect();
        let names: Vec<String> = zones.iter().map(|zone| format!("www.{zone}")).collect();
        let refs = |texts: &[String]| texts.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let (zones, names) = (refs(&zones), refs(&names));
        let mut existing = existing(&zones.split(' ').collect::<Vec<_>>(), &names.split(' ').collect::<Vec<_>>());
        assert_eq!(like(&existing, "www").len(), MOST_RECORDS);
        assert_eq!(like(&existing, "www")[0], "www.z0.corp.example");
        for n in 0..5_000 {
            let steps = existing.answered(&wire(&format!("api.z{n}.corp.example")));
            assert!(steps <= (super::super::prefix::MOST_SUFFIX_LABELS + MOST_ANSWERED) as u64);
        }
        assert_eq!(like(&existing, "api").len(), MOST_ANSWERED);
        for n in 0..5_000 {
            existing.answered(&wire(&format!("n{n}.z1.corp.example")));
        }
        assert_eq!(existing.answered.len(), MOST_FRONTS);
    }
}

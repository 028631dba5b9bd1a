//! The prefixes of a name: what stands before each of its last labels, with a hash of each, in one walk over the name.
//!
//! With a search list a resolver puts suffixes behind a name. Which of a name's prefixes was meant is looked up by hash
//! instead of by comparing it with each name that is known, and only so many labels are taken for a suffix: so a name
//! costs the same whatever its number of labels is.

use std::sync::LazyLock;

use crate::wire::name::suffixes;

/// The most labels that are taken for a suffix of a search list: `namespace.svc.` and a domain of ten labels.
pub const MOST_SUFFIX_LABELS: usize = 12;

/// Random, so that no client can choose names that collide: where the hash begins, and an odd factor.
static SEED: LazyLock<(u64, u64)> = LazyLock::new(|| (rand::random(), rand::random::<u64>() | 1));

/// A name's prefixes.
#[derive(Clone, Debug)]
pub struct Prefixes<'n> {
    name: &'n [u8],
    whole: u64,
    /// The last boundaries between two labels; of `count`, [`MOST_SUFFIX_LABELS`] are kept in a ring.
    ring: [Prefix; MOST_SUFFIX_LABELS],
    count: usize,
}

/// One prefix of a name, which ends between two labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// Its length in bytes, without a root label.
    pub length: usize,
    /// Number of its labels.
    pub labels: usize,
    /// Its hash: the same as [`Prefixes::whole`] of a name of these labels.
    pub hash: u64,
}

impl<'n> Prefixes<'n> {
    /// The prefixes of `name` in lower-case wire form.
    pub fn of(name: &'n [u8]) -> Self {
        let mut prefixes = Self { name, whole: SEED.0, ring: [Prefix::default(); MOST_SUFFIX_LABELS], count: 0 };
        for (labels, suffix) in suffixes(name).enumerate() {
            let length = name.len() - suffix.len();
            let label = suffix.get(..=usize::from(suffix[0])).unwrap_or(suffix);
            if label == [0] {
                break;
            }
            if labels > 0 {
                prefixes.ring[prefixes.count % MOST_SUFFIX_LABELS] = Prefix { length, labels, hash: prefixes.whole };
                prefixes.count += 1;
            }
            prefixes.whole = add(prefixes.whole, label);
        }
        prefixes
    }

    /// The name.
    pub fn name(&self) -> &'n [u8] {
        self.name
    }

    /// The hash of the whole name.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// The prefixes that have a suffix of up to [`MOST_SUFFIX_LABELS`] labels behind them, the shortest first.
    pub fn each(&self) -> impl DoubleEndedIterator<Item = Prefix> + Clone {
        let kept = self.count.min(MOST_SUFFIX_LABELS);
        (self.count - kept..self.count).map(|at| self.ring[at % MOST_SUFFIX_LABELS])
    }

    /// What stands behind a prefix.
    pub fn behind(&self, prefix: Prefix) -> &'n [u8] {
        self.name.get(prefix.length..).unwrap_or_default()
    }

    /// A prefix as a name of its own.
    pub fn front(&self, prefix: Prefix) -> Box<[u8]> {
        [self.name.get(..prefix.length).unwrap_or_default(), &[0]].concat().into()
    }
}

/// The hash of labels with one more behind, its length byte included: so no two rows of labels are the same bytes.
fn add(hash: u64, label: &[u8]) -> u64 {
    label.chunks(8).fold(hash, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let product = u128::from(hash ^ u64::from_le_bytes(word)) * u128::from(SEED.1);
        // Never zero but by chance: a factor of zero would forget all before it.
        (product as u64 ^ (product >> 64) as u64).wrapping_add(SEED.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::{Bare, Name};

    fn wire(name: &str) -> Box<[u8]> {
        name.parse::<Name>().expect(name).as_wire().into()
    }

    #[test]
    fn each_prefix_has_the_hash_of_the_name_that_it_is() {
        let name = wire("a.long-label-of-more-than-sixteen.b.c");
        let prefixes = Prefixes::of(&name);
        let mut found = Vec::new();
        for prefix in prefixes.each() {
            let front = prefixes.front(prefix);
            assert_eq!((Prefixes::of(&front).whole(), suffixes(&front).count() - 1), (prefix.hash, prefix.labels));
            found.push(format!("{} {}", Bare(&front), Bare(prefixes.behind(prefix))));
        }
        let expected = [
            "a long-label-of-more-than-sixteen.b.c",
            "a.long-label-of-more-than-sixteen b.c",
            "a.long-label-of-more-than-sixteen.b c",
        ];
        assert_eq!(found, expected);
        assert!(Prefixes::of(&wire(".")).each().next().is_none() && Prefixes::of(&wire("a")).each().next().is_none());
    }

    #[test]
    fn of_a_long_name_only_the_last_labels_are_suffixes() {
        let name = wire(&vec!["a"; 119].join("."));
        let labels: Vec<usize> = Prefixes::of(&name).each().map(|prefix| prefix.labels).collect();
        assert_eq!(labels, (119 - MOST_SUFFIX_LABELS..119).collect::<Vec<_>>());
    }

    #[test]
    fn names_of_other_labels_have_other_hashes() {
        let names: Vec<_> = ["a.b", "ab", "a\\.b", "b.a", "a.b.a", "a", "aaaaaaa.b", "aaaaaaab"].map(wire).into();
        for (at, one) in names.iter().enumerate() {
            for other in &names[at + 1..] {
                assert_ne!(Prefixes::of(one).whole(), Prefixes::of(other).whole());
            }
        }
    }
}

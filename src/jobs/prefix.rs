//! The prefixes of a name, each ending before one of the last labels, with a hash of each, computed in one pass.
//!
//! With a search list, a stub resolver appends suffixes to a name. The prefix that the application asked for is looked
//! up by hash instead of by comparison with each known name, and a suffix has a bounded number of labels. The cost of a
//! name therefore does not depend on its number of labels.

use std::sync::LazyLock;

use crate::wire::name::suffixes;

/// Most labels of a search-list suffix: `namespace.svc.` and a domain of ten labels.
pub(crate) const MOST_SUFFIX_LABELS: usize = 12;

/// Initial value of the hash, and an odd factor. Both are random: this prevents clients from choosing names that
/// collide.
static SEED: LazyLock<(u64, u64)> = LazyLock::new(|| (rand::random(), rand::random::<u64>() | 1));

/// Prefixes of a name.
#[derive(Clone, Debug)]
pub(crate) struct Prefixes<'n> {
    name: &'n [u8],
    whole: u64,
    /// Ring of the last [`MOST_SUFFIX_LABELS`] of the `count` boundaries between two labels.
    ring: [Prefix; MOST_SUFFIX_LABELS],
    count: usize,
}

/// One prefix of a name; it ends between two labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// Length in bytes, without a root label.
    pub length: usize,
    pub labels: usize,
    /// Hash; equal to [`Prefixes::whole`] of a name that consists of these labels.
    pub hash: u64,
}

impl<'n> Prefixes<'n> {
    /// Returns the prefixes of `name`, which is in lower-case wire form.
    pub(crate) fn of(name: &'n [u8]) -> Self {
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

    pub(crate) fn name(&self) -> &'n [u8] {
        self.name
    }

    /// Returns the hash of the whole name.
    pub(crate) fn whole(&self) -> u64 {
        self.whole
    }

    /// Returns the prefixes that are followed by a suffix of up to [`MOST_SUFFIX_LABELS`] labels, shortest first.
    pub(crate) fn each(&self) -> impl DoubleEndedIterator<Item = Prefix> + Clone {
        let kept = self.count.min(MOST_SUFFIX_LABELS);
        (self.count - kept..self.count).map(|at| self.ring[at % MOST_SUFFIX_LABELS])
    }

    /// Returns the suffix that follows a prefix.
    pub(crate) fn behind(&self, prefix: Prefix) -> &'n [u8] {
        self.name.get(prefix.length..).unwrap_or_default()
    }

    /// Returns a prefix as a complete name.
    pub(crate) fn front(&self, prefix: Prefix) -> Box<[u8]> {
        [self.name.get(..prefix.length).unwrap_or_default(), &[0]].concat().into()
    }
}

/// Extends a hash by one label. The length byte is part of the input: different sequences of labels are different
/// bytes.
fn add(hash: u64, label: &[u8]) -> u64 {
    label.chunks(8).fold(hash, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let product = u128::from(hash ^ u64::from_le_bytes(word)) * u128::from(SEED.1);
        // The sum is zero only by chance: a factor of zero would discard the labels before.
        (product as u64 ^ (product >> 64) as u64).wrapping_add(SEED.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::{DisplayNoDot, Name};

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
            found.push(format!("{} {}", DisplayNoDot(&front), DisplayNoDot(prefixes.behind(prefix))));
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

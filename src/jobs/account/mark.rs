//! What a failure is found by.

use super::super::prefix::{MOST_SUFFIX_LABELS, Prefixes};
use super::super::search_list;
use crate::wire::{Rcode, RrType, rcode, rtype};

/// What a failure is found by.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// The hash of the question and the response code.
    pub(super) key: u64,
    /// The hash of its name.
    pub(super) whole: u64,
    /// The hash of what stands before the client's own namespace, which is where a search list begins.
    pub(super) begins: Option<u64>,
    /// Parts of the hashes of its prefixes.
    pub(super) prefixes: [u32; MOST_SUFFIX_LABELS],
}

impl Mark {
    /// That of a failure of this name and type with this response code, of a client in this namespace.
    pub(super) fn of(name: &Prefixes<'_>, qtype: RrType, rcode: Rcode, namespace: Option<&str>) -> Self {
        // A name that does not exist has no type.
        let qtype = if rcode == rcode::NXDOMAIN { rtype::RESERVED } else { qtype };
        let begins = namespace.filter(|_| rcode != rcode::NOERROR);
        let mut prefixes = [0; MOST_SUFFIX_LABELS];
        prefixes.iter_mut().zip(name.each()).for_each(|(part, prefix)| *part = prefix.hash as u32);
        Self {
            key: name.whole() ^ (u64::from(u16::from(qtype)) << 16 | u64::from(u16::from(rcode))),
            whole: name.whole(),
            begins: begins.and_then(|space| search_list::before_namespace(name, space)).map(|prefix| prefix.hash),
            prefixes,
        }
    }
}

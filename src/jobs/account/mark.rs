//! Lookup keys of failures.

use super::super::prefix::{MOST_SUFFIX_LABELS, Prefixes};
use super::super::search_list;
use crate::wire::{Rcode, RrType, rcode, rtype};

/// Lookup keys of one failure.
#[derive(Clone, Debug)]
pub(super) struct FailureKeys {
    /// Hash of the question and the response code.
    pub(super) key: u64,
    /// Hash of the name.
    pub(super) whole: u64,
    /// Hash of the prefix before the client's own namespace, with which a search list begins.
    pub(super) begins: Option<u64>,
    /// Lower halves of the hashes of the prefixes.
    pub(super) prefixes: [u32; MOST_SUFFIX_LABELS],
}

impl FailureKeys {
    /// Returns the keys of a failure of this name, type and response code, for a client in this namespace.
    pub(super) fn of(name: &Prefixes<'_>, qtype: RrType, rcode: Rcode, namespace: Option<&str>) -> Self {
        // NXDOMAIN applies to all types.
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

//! What is noted of answers that are given at once, beside their counts: those that are none, those of which a part was
//! cut off, and those that are logged.

use std::net::IpAddr;

use super::{Resolver, Turn};
use crate::cache::Entry;
use crate::jobs::ledger::Failed;
use crate::metrics::Source;
use crate::query_log::sampler::{Name, Record};
use crate::wire::query::Key;
use crate::wire::{make, rcode};

/// An answer that was given at once, and to whom.
pub(super) struct Answered<'a> {
    pub(super) client: IpAddr,
    pub(super) name: &'a [u8],
    pub(super) qtype: u16,
    pub(super) rcode: u16,
    pub(super) source: Source,
    pub(super) route: u16,
    pub(super) over_tcp: bool,
}

impl Turn<'_> {
    /// Has an answer logged if it is drawn for that.
    pub(super) fn log(&mut self, answered: &Answered<'_>, errors: &[u8]) {
        if self.ledger.log.draws(answered.rcode) {
            self.copy(answered, Some(errors).filter(|errors| !errors.is_empty()).map(Into::into));
        }
    }

    /// Has an answer logged that was drawn.
    #[cold]
    pub(super) fn copy(&mut self, answered: &Answered<'_>, errors: Option<Box<[u8]>>) {
        let Answered { client, name, qtype, rcode, source, route, over_tcp } = *answered;
        let (asked, took, by) = (self.now, self.at.elapsed(), None);
        self.ledger.log.take(self.now, || {
            let name = Name::new(name);
            Record { client, asked, took, over_tcp, name, qtype, rcode, source, route, by, errors }
        });
    }
}

impl Resolver {
    /// Notes an answer from here that is none. Names that do not exist are asked for in masses: for these it allocates
    /// nothing.
    #[inline(never)]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn note(
        &self,
        turn: &mut Turn<'_>,
        client: IpAddr,
        key: &Key,
        hash: u64,
        route: u16,
        rcode: u16,
        source: Source,
        error: Option<(u16, &str)>,
    ) {
        let failed = Failed { name: key.name(), hash, qtype: key.qtype(), route, rcode, source };
        turn.ledger.fail(client, failed, turn.now, || match error {
            Some((code, text)) => Some(make::extended_error(code, text).into()),
            None => self.remembered(key, hash, rcode, source),
        });
    }

    /// The extended errors of a remembered failure: nothing else in the cache has any to say.
    pub(super) fn remembered(&self, key: &Key, hash: u64, rcode: u16, source: Source) -> Option<Box<[u8]>> {
        let remembered = source == Source::Hit && rcode == rcode::SERVFAIL;
        let said = |entry: &mut Entry| Box::<[u8]>::from(entry.kept().extended_errors);
        if remembered { self.cache.with(hash, key, said).filter(|said| !said.is_empty()) } else { None }
    }

    /// Notes an answer of which only a part went to the client, who takes `size` bytes.
    #[cold]
    pub(super) fn cut_off(&self, turn: &Turn<'_>, client: IpAddr, key: &Key, route: u16, size: usize) {
        let route = turn.ledger.route(route).cloned();
        self.jobs.truncated.cut(client, key.name(), key.qtype(), route, size, turn.now);
    }
}

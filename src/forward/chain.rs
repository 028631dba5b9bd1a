//! Chains of CNAMEs that lead out of a route: where they are split, and how the parts are joined.

use super::fallthrough;
use crate::config::{Route, RouteId};
use crate::effective_view::EffectiveView;
use crate::route::Destination;
use crate::snapshot::Snapshot;
use crate::wire::compose::{Composer, TooLong};
use crate::wire::name::{MAX_NAME, expand};
use crate::wire::response::{AnswerKind, Record, ResponseMessage, Section};
use crate::wire::{HEADER, flag, rcode};

/// Point where a response's chain of CNAMEs leaves the route.
pub(super) struct CnameSplit {
    pub(super) links: Vec<Record>,
    pub(super) target: Vec<u8>,
}

/// Splits a chain of CNAMEs where another group or nodens itself answers for the target. In an answer of a fallthrough group
/// (`has_fallen`) a target in the route itself counts too: the route's own group is queried for it first.
pub(super) fn fork(
    snapshot: &Snapshot,
    effective_view: &EffectiveView,
    response: &ResponseMessage<'_>,
    (settings, route): (&Route, RouteId),
    has_fallen: bool,
) -> Option<CnameSplit> {
    if !response.may_lead_on() {
        return None;
    }
    let (links, end) = response.chain();
    for (at, link) in links.iter().enumerate() {
        let mut buffer = [0; MAX_NAME];
        let len = expand(response.message, link.rdata_at(), &mut buffer)?;
        let target = buffer[..len].to_ascii_lowercase();
        let found = effective_view.router.find(&target);
        let special = snapshot.special.find(&target, response.qtype(), found.map_or(0, |(_, depth)| depth)).is_some();
        let is_anothers = found.is_none_or(|(other, _)| has_fallen || other != Destination::Route(route));
        if special || effective_view.has_records(&target) || is_anothers {
            return Some(CnameSplit { links: links[..=at].to_vec(), target });
        }
    }
    // The upstream stopped at an alias: neither an answer nor a denial follows.
    let ends_open = response.rcode == rcode::NOERROR
        && response.soa().is_none()
        && !response
            .section(Section::Answer)
            .any(|record| record.rtype == response.qtype() && response.owner_is(record, &end));
    let continues = ends_open && response.kind() != AnswerKind::NxDomain
        || !has_fallen && fallthrough::is_denied_at_its_end(settings, response);
    (!links.is_empty() && continues).then_some(CnameSplit { links, target: end })
}

/// Joins `links` of `front`, with the DNAMEs that they derive from and their signatures, and all of `back` to one answer.
pub(super) fn join(
    front: &ResponseMessage<'_>,
    links: &[Record],
    back: &[u8],
    authentic: bool,
) -> Result<Vec<u8>, TooLong> {
    let question = front.message.get(HEADER..front.question_end).unwrap_or_default();
    let Ok(back) = ResponseMessage::read(back) else {
        // nodens rendered `back` itself, so it can always be parsed.
        return Composer::new(flag::QR | flag::RA | rcode::SERVFAIL.header_bits(), question).finish();
    };
    let mut flags = flag::QR | flag::RA | back.rcode.header_bits();
    if authentic && back.flags & flag::AD != 0 {
        flags |= flag::AD;
    }
    let mut composer = Composer::new(flags, question);
    let mut dnames: Vec<&Record> = Vec::new();
    for link in links {
        let mut owner = [0; MAX_NAME];
        let owner = expand(front.message, link.start, &mut owner).map_or(&[][..], |len| &owner[..len]);
        if let Some(dname) = front.dname_above(owner).filter(|dname| !dnames.contains(dname)) {
            composer.copy_signed(front, dname, Section::Answer);
            dnames.push(dname);
        }
        composer.copy_signed(front, link, Section::Answer);
    }
    for section in [Section::Answer, Section::Authority, Section::Additional] {
        for record in back.section(section) {
            composer.copy(back.message, record, section);
        }
    }
    composer.finish()
}

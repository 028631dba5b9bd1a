//! A cached response adapted to one query: id, flags, letter case, aged TTLs, OPT, size.

use super::query::Query;
use super::record::{Record, Section};
use super::write::{self, MessageWriter, OPT_SIZE};
use super::{HEADER, Rcode, RrType, flag, rcode, rtype, spelling, u16_at};

/// A response in the form that the cache keeps.
#[derive(Clone, Copy, Debug)]
pub struct CachedMessage<'a> {
    /// The message without OPT, with the question in lower case.
    pub wire: &'a [u8],
    /// Offsets of the TTLs in `wire`, as big-endian pairs of bytes.
    pub ttls: &'a [u8],
    /// Extended errors of the response, as whole options.
    pub extended_errors: &'a [u8],
    /// Response code, with the upper bits that OPT carries (RFC 6891).
    pub rcode: Rcode,
    /// True if a trusted upstream set AD.
    pub authentic: bool,
    /// Number of addresses at the end of the answers that rotate between responses; zero or less if none do.
    pub rotation: i8,
    /// True if an uncompressed name ends in labels of the question.
    pub spells: bool,
}

/// Age of a cached response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Age in seconds, subtracted from each TTL.
    Seconds(u32),
    /// Expired; each TTL becomes this number of seconds (RFC 8767 section 4).
    Stale(u32),
}

/// Writes `cached_message` as the response to `query` into `out`, whose length is the maximum size that the client accepts.
///
/// `options` follow the response's own extended errors in OPT. If the response is too long, parts are left out in this
/// order: all options (RFC 8914 section 3), the additional section, the authority section, and last the answers at the
/// end. TC is set if answers, a negative answer or the proof of a wildcard are missing. Space for OPT is always
/// reserved. Returns the length; zero if the question does not fit.
#[inline]
pub fn fit(cached_message: CachedMessage<'_>, query: &Query<'_>, age: Age, options: &[u8], out: &mut [u8]) -> usize {
    let question = query.question();
    let opt_size = query.edns.map_or(0, |_| OPT_SIZE);
    let options_size = query.edns.map_or(0, |_| cached_message.extended_errors.len() + options.len());
    if cached_message.wire.len() < query.question_end || query.question_end + opt_size > out.len() {
        return 0;
    }
    let with_options = cached_message.wire.len() + opt_size + options_size <= out.len();
    let cut = if with_options || cached_message.wire.len() + opt_size <= out.len() {
        FittedPart { len: cached_message.wire.len(), counts: None, truncated: false }
    } else {
        shorten(cached_message.wire, query.question_end, out.len() - opt_size)
    };
    out[..cut.len].copy_from_slice(&cached_message.wire[..cut.len]);

    // Without OPT the upper bits of a code cannot be sent, and the lower bits alone mean something else.
    let rcode = if cached_message.rcode.opt_bits() != 0 && query.edns.is_none() {
        rcode::SERVFAIL
    } else {
        cached_message.rcode
    };
    let stored_flags = u16_at(cached_message.wire, 2).unwrap_or_default();
    // The reserved bit must be zero (RFC 1035 section 4.1.1), whatever the server sent.
    let mut flags = write::reply_flags(query.flags, rcode) | (stored_flags & flag::TC);
    if cached_message.authentic && query.wants_ad() {
        flags |= flag::AD;
    }
    if cut.truncated {
        flags |= flag::TC;
    }
    out[..2].copy_from_slice(&query.id.to_be_bytes());
    out[2..4].copy_from_slice(&flags.to_be_bytes());
    if let Some(counts) = cut.counts {
        out[6..HEADER].copy_from_slice(&counts);
    }
    out[HEADER..query.question_end].copy_from_slice(question);
    for pair in cached_message.ttls.chunks_exact(2) {
        let at = usize::from(u16::from_be_bytes([pair[0], pair[1]]));
        let Some(ttl) = out.get_mut(at..at + 4).filter(|_| at + 4 <= cut.len) else { break };
        let aged = match age {
            Age::Seconds(age) => u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]).saturating_sub(age),
            Age::Stale(ttl) => ttl,
        };
        ttl.copy_from_slice(&aged.to_be_bytes());
    }
    if cached_message.rotation > 0 {
        let by = query.id % u16::from(cached_message.rotation.unsigned_abs());
        if by > 0 {
            rotate(cached_message, query.qtype, usize::from(by), &mut out[..cut.len]);
        }
    }
    if cached_message.spells {
        spelling::follow(question, &mut out[..cut.len]);
    }
    let Some(edns) = query.edns else { return cut.len };
    let additional = u16_at(out, 10).unwrap_or_default().saturating_add(1);
    out[10..HEADER].copy_from_slice(&additional.to_be_bytes());
    let mut writer = MessageWriter::new(&mut out[cut.len..]);
    let (first, second) = if with_options { (cached_message.extended_errors, options) } else { (&[][..], &[][..]) };
    write::opt_of_two(&mut writer, rcode, edns.dnssec_ok, first, second);
    writer.finish().map_or(0, |written| cut.len + written)
}

/// Rotates the addresses at the end of the answers. The query's id, which clients choose at random, determines the
/// offset, so clients of one cached response spread over the addresses. Only the addresses move: the records are
/// otherwise identical and have equal distances.
#[inline(never)]
fn rotate(cached_message: CachedMessage<'_>, qtype: RrType, by: usize, out: &mut [u8]) {
    let count = usize::from(cached_message.rotation.unsigned_abs());
    let answers = usize::from(u16_at(cached_message.wire, 6).unwrap_or_default());
    let first = 2 * answers.saturating_sub(count);
    let Some(&[high, low, next_high, next_low]) = cached_message.ttls.get(first..).and_then(|ttls| ttls.first_chunk())
    else {
        return;
    };
    let ttl = usize::from(u16::from_be_bytes([high, low]));
    let stride = usize::from(u16::from_be_bytes([next_high, next_low])).saturating_sub(ttl);
    // RDATA follows the TTL and RDLENGTH.
    let (start, end) = (ttl + 6, ttl + 6 + count * stride);
    let source = start + by * stride;
    if qtype == rtype::A {
        turn_around::<4>(cached_message.wire, (start, end, stride), source, out);
    } else {
        turn_around::<16>(cached_message.wire, (start, end, stride), source, out);
    }
}

/// Copies the pieces of `SIZE` bytes at intervals of `stride`, from `source` to `end` and then from `start`.
#[inline]
fn turn_around<const SIZE: usize>(
    wire: &[u8],
    (start, end, stride): (usize, usize, usize),
    mut source: usize,
    out: &mut [u8],
) {
    let mut at = start;
    while at < end {
        let piece = wire.get(source..).and_then(|rest| rest.first_chunk::<SIZE>());
        let place = out.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<SIZE>());
        let (Some(piece), Some(place)) = (piece, place) else { return };
        *place = *piece;
        at += stride;
        source += stride;
        if source >= end {
            source = start;
        }
    }
}

/// The part of a message that fits.
struct FittedPart {
    len: usize,
    /// Record counts of the three sections, if they differ from the stored ones.
    counts: Option<[u8; 6]>,
    /// True if data is missing that requires a retry over TCP.
    truncated: bool,
}

/// Shortens a response to at most `room` bytes: answers one by one, the other sections as a whole.
#[cold]
fn shorten(wire: &[u8], question_end: usize, room: usize) -> FittedPart {
    let [answers, authorities, additionals] = [6, 8, 10].map(|at| u16_at(wire, at).unwrap_or_default());
    let mut len = question_end;
    let mut counts = [0u16; 3];
    while counts[0] < answers {
        let Some(record) = Record::read(wire, len, Section::Answer).filter(|record| record.end <= room) else { break };
        len = record.end;
        counts[0] += 1;
    }
    let mut truncated = counts[0] < answers;
    if !truncated {
        for (section, count) in [(1, authorities), (2, additionals)] {
            let mut end = Some(len);
            let mut proves = false;
            for _ in 0..count {
                let record = end.and_then(|at| Record::read(wire, at, Section::Authority));
                proves |= record.is_some_and(|found| matches!(found.rtype, rtype::SOA | rtype::NSEC | rtype::NSEC3));
                end = record.map(|record| record.end);
            }
            let Some(end) = end.filter(|end| *end <= room) else {
                // The authority section holds a negative answer, and the proof of a wildcard (RFC 4035 section 3.1.3).
                truncated = section == 1 && (answers == 0 || proves);
                break;
            };
            len = end;
            counts[section] = count;
        }
    }
    let [answers, authorities, additionals] = counts.map(u16::to_be_bytes);
    let counts = [answers[0], answers[1], authorities[0], authorities[1], additionals[0], additionals[1]];
    FittedPart { len, counts: Some(counts), truncated }
}

#[cfg(test)]
mod tests {
    use super::super::response::ResponseMessage;
    use super::super::store::store;
    use super::*;

    const NO_OPTIONS: &[u8] = &[];

    /// Returns a query for `A. A`, with EDNS (and DO) or without.
    fn query(edns: bool) -> Vec<u8> {
        let mut bytes = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x01A\x00\0\x01\0\x01".to_vec();
        if edns {
            bytes[11] = 1;
            bytes.extend(b"\x00\0\x29\x04\xd0\0\0\x80\0\0\0");
        }
        bytes
    }

    fn cached_message<'a>(wire: &'a [u8], ttls: &'a [u8]) -> CachedMessage<'a> {
        CachedMessage {
            wire,
            ttls,
            extended_errors: &[],
            rcode: rcode::NOERROR,
            authentic: false,
            rotation: 0,
            spells: false,
        }
    }

    /// Returns a record of the question's name with 100 bytes of RDATA.
    fn big(rtype: RrType) -> Vec<u8> {
        let mut bytes = [&[0xc0, 12][..], &rtype.to_be_bytes(), &[0, 1, 0, 0, 0, 100, 0, 100]].concat();
        bytes.extend([0; 100]);
        bytes
    }

    /// Returns a response whose sections hold such records of these types.
    fn message(sections: [&[RrType]; 3]) -> Vec<u8> {
        let words = [0, 0x8180, 1].into_iter().chain(sections.map(|section| section.len() as u16));
        let mut bytes: Vec<u8> = words.flat_map(u16::to_be_bytes).collect();
        bytes.extend(b"\x01a\x00\0\x01\0\x01");
        bytes.extend(sections.concat().into_iter().flat_map(big));
        bytes
    }

    /// Stores `message` and fits it to a query in `size` bytes. Returns the counts of its sections, whether TC is set,
    /// and the size of its extended errors.
    fn fitted(message: &[u8], edns: bool, errors: &[u8], size: usize) -> Option<([usize; 3], bool, usize)> {
        let stored = store(&ResponseMessage::read(message).expect("a reply"), 1000);
        let ttls: Vec<u8> = stored.ttls.iter().flat_map(|at| at.to_be_bytes()).collect();
        let cached_message = CachedMessage { extended_errors: errors, ..cached_message(&stored.wire, &ttls) };
        let mut out = vec![0xff; size];
        let query = query(edns);
        let query = Query::read(&query).expect("a query");
        let len = fit(cached_message, &query, Age::Seconds(1), NO_OPTIONS, &mut out);
        let response = ResponseMessage::read(&out[..len]).ok()?;
        assert_eq!(response.opt.is_some(), edns);
        assert!(response.records.iter().all(|record| record.ttl(&out) == 99));
        let counts = [Section::Answer, Section::Authority, Section::Additional].map(|s| response.section(s).count());
        Some((counts, response.flags & flag::TC != 0, response.extended_errors.len()))
    }

    #[test]
    fn what_does_not_fit_goes_by_worth() {
        const ERROR: &[u8] = b"\0\x0f\0\x04\0\x16no";
        let [a, ns, soa] = [rtype::A, rtype::NS, rtype::SOA];
        for (sections, edns, room, expected) in [
            ([&[a][..], &[ns], &[a]], true, 3 * 112 + 11 + 8, ([1, 1, 1], false, 8)),
            ([&[a], &[ns], &[a]], true, 3 * 112 + 11, ([1, 1, 1], false, 0)),
            ([&[a], &[ns], &[a]], true, 3 * 112 + 10, ([1, 1, 0], false, 0)),
            ([&[a], &[ns], &[a]], false, 3 * 112, ([1, 1, 1], false, 0)),
            ([&[a], &[ns], &[a]], false, 2 * 112 - 1, ([1, 0, 0], false, 0)),
            ([&[a, a], &[ns], &[a]], false, 2 * 112 - 1, ([1, 0, 0], true, 0)),
            ([&[a], &[ns], &[a]], true, 11, ([0, 0, 0], true, 0)),
            ([&[], &[soa], &[]], true, 112, ([0, 0, 0], true, 0)),
            ([&[rtype::CNAME], &[soa], &[]], false, 112, ([1, 0, 0], true, 0)),
            ([&[a], &[rtype::RRSIG, rtype::NSEC], &[]], false, 3 * 112 - 1, ([1, 0, 0], true, 0)),
        ] {
            let message = message(sections);
            assert_eq!(fitted(&message, edns, ERROR, 19 + room), Some(expected), "{sections:?} in {room}");
        }
        assert_eq!(fitted(&message([&[a], &[], &[]]), true, ERROR, 19 + 10), None);
    }

    /// Fits a response with an alias of `count` addresses to queries with these ids. Returns the last byte of each
    /// address.
    fn rotated(count: u8, ids: std::ops::Range<u16>, size: usize) -> Vec<Vec<u8>> {
        let mut message = b"\0\0\x81\x80\0\x01\0\0\0\x01\0\0\x01a\0\0\x01\0\x01".to_vec();
        message[7] = count + 1;
        message.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x09\0\x02\x01b\0");
        message[30] = 3;
        for address in 0..count {
            message.extend(b"\x01b\0\0\x01\0\x01\0\0\0\x09\0\x04\xc0\0\x02");
            message.push(address);
        }
        message.extend(b"\0\0\x02\0\x01\0\0\0\x09\0\x03\x01b\0");
        let stored = store(&ResponseMessage::read(&message).expect("a reply"), 1_000);
        assert_eq!(stored.rotation, if count > 1 { count as i8 } else { 0 });
        let ttls: Vec<u8> = stored.ttls.iter().flat_map(|at| at.to_be_bytes()).collect();
        ids.map(|id| {
            let mut query = query(false);
            query[..2].copy_from_slice(&id.to_be_bytes());
            let query = Query::read(&query).expect("a query");
            let mut out = vec![0; size];
            let cached_message = CachedMessage { rotation: stored.rotation, ..cached_message(&stored.wire, &ttls) };
            let len = fit(cached_message, &query, Age::Seconds(0), NO_OPTIONS, &mut out);
            let response = ResponseMessage::read(&out[..len]).expect("a reply");
            let addresses = response.records.iter().filter(|record| record.rtype == rtype::A);
            addresses.map(|record| record.rdata(&out)[3]).collect()
        })
        .collect()
    }

    #[test]
    fn addresses_rotate_with_the_id() {
        assert_eq!(rotated(1, 0..2, 512), [[0], [0]]);
        assert_eq!(rotated(3, 0..4, 512), [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        // In a truncated response every address appears in turn.
        assert_eq!(rotated(3, 0..3, 19 + 15 + 17), [[0], [1], [2]]);
    }

    #[test]
    fn codes_and_flags() {
        let wire = [&b"\0\0\x86\x60\0\x01\0\0\0\0\0\0"[..], b"\x01a\x00\0\x01\0\x01"].concat();
        for (rcode, edns, authentic, expected) in [
            (rcode::NXDOMAIN, false, true, (rcode::NXDOMAIN, flag::AD)),
            (rcode::BADVERS, true, false, (rcode::BADVERS, 0)),
            (rcode::BADVERS, false, false, (rcode::SERVFAIL, 0)),
        ] {
            let cached_message = CachedMessage { rcode, authentic, ..cached_message(&wire, &[]) };
            let mut out = [0; 64];
            let query = query(edns);
            let len = fit(cached_message, &Query::read(&query).expect("a query"), Age::Stale(30), NO_OPTIONS, &mut out);
            let response = ResponseMessage::read(&out[..len]).expect("a reply");
            // RD as in the query, RA always, AA and the reserved bit never, TC as stored.
            let flags = flag::QR | flag::RD | flag::RA | flag::TC;
            assert_eq!((response.rcode, response.flags & !flag::RCODE), (expected.0, flags | expected.1));
            assert_eq!(&out[..2], b"\x12\x34");
            assert_eq!(&out[12..15], b"\x01A\x00");
        }
    }

    #[test]
    fn a_stored_reply_that_is_no_reply_is_no_trap() {
        let query = query(true);
        let query = Query::read(&query).expect("a query");
        let mut out = [0; 600];
        for len in 0..40 {
            let cached_message =
                CachedMessage { rotation: 2, spells: true, ..cached_message(&[0xff; 40][..len], &[0xff; 4]) };
            for size in [0, 11, 12, 19, 30, 35, 600] {
                assert!(fit(cached_message, &query, Age::Seconds(1), &[0; 700], &mut out[..size]) <= size);
            }
        }
    }
}

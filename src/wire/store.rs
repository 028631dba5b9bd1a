//! Conversion of a server's response to the form that the cache keeps: without OPT, without random letter case, with
//! one TTL per RRset.

use super::name::expanded;
use super::response::{Record, ResponseMessage, Section};
use super::{HEADER, RrType, rtype, spelling, u16_at};

/// Number of records above which all TTLs become the minimum of the message instead of that of their RRset, to bound
/// the work.
const MANY_RECORDS: usize = 128;

/// A message in cacheable form, and the offsets of its TTLs.
#[derive(Debug)]
pub struct CacheableMessage {
    /// The message without OPT, with id zero.
    pub wire: Vec<u8>,
    /// Offsets of the TTLs in `wire`.
    pub ttls: Vec<u16>,
    /// Minimum TTL of the answer and authority sections, after capping; `None` if both are empty. The additional
    /// section is optional, and does not cause a refresh of the rest.
    pub least_ttl: Option<u32>,
    /// Number of addresses of one name at the end of the answers, whose order has no meaning (RFC 1034 section 3.6);
    /// zero if fewer than two.
    pub rotation: i8,
    /// True if an uncompressed name ends in labels of the question.
    pub spells: bool,
}

/// Converts `response` to cacheable form; TTLs are capped at `cap` seconds.
pub fn store(response: &ResponseMessage<'_>, cap: u32) -> CacheableMessage {
    let WithoutOpt { mut wire, gap, records } = without_opt(response);

    if let Some(id) = wire.get_mut(..2) {
        id.fill(0);
    }
    let qname_end = response.question_end - 4;
    wire[HEADER..qname_end].make_ascii_lowercase();
    lowercase_invented(response, records, &mut wire, gap);
    let mut spells = false;
    for at in records.iter().flat_map(|record| record.names(response.message)) {
        let Some((range, _)) = spelling::shared(&wire, gap.moved(at), response.qname()) else { continue };
        wire[range].make_ascii_lowercase();
        spells = true;
    }

    let mut ttls = Vec::with_capacity(records.len());
    let mut least = None;
    for (record, (at, ttl)) in records.iter().zip(rrset_ttls(response.message, records)) {
        let ttl = ttl.min(cap);
        if record.section != Section::Additional {
            least = Some(least.map_or(ttl, |least: u32| least.min(ttl)));
        }
        let at = gap.moved(at);
        if let (Some(place), Ok(offset)) = (wire.get_mut(at..at + 4), u16::try_from(at)) {
            place.copy_from_slice(&ttl.to_be_bytes());
            ttls.push(offset);
        }
    }
    CacheableMessage { wire, ttls, least_ttl: least, rotation: rotation(response, records), spells }
}

/// Returns the number of addresses at the end of the answers, if there are 2 to 127 of them, with identically encoded
/// owners, and no other addresses in the answers; zero otherwise.
fn rotation(response: &ResponseMessage<'_>, records: &[Record]) -> i8 {
    let size = match response.qtype() {
        rtype::A => 4,
        rtype::AAAA => 16,
        _ => return 0,
    };
    let answers = records.iter().take_while(|record| record.section == Section::Answer).count();
    let Some((last, before)) = records.get(..answers).and_then(<[Record]>::split_last) else { return 0 };
    let is_address = |record: &&Record| record.rtype == response.qtype();
    let owner = |record: &Record| response.message.get(record.start..record.fixed);
    let is_like_the_last = |record: &&Record| {
        is_address(record) && record.rdata(response.message).len() == size && owner(record) == owner(last)
    };
    let count = before.iter().rev().take_while(is_like_the_last).count();
    let first = before.len() - count;
    let are_all = count > 0 && is_like_the_last(&last) && !before[..first].iter().any(|record| is_address(&record));
    if are_all { i8::try_from(count + 1).unwrap_or(0) } else { 0 }
}

/// A message without its OPT record.
struct WithoutOpt<'r> {
    wire: Vec<u8>,
    /// Position of the OPT record.
    gap: OptGap,
    /// The remaining records, at their original offsets.
    records: &'r [Record],
}

/// Position of the OPT record; empty if there was none.
#[derive(Clone, Copy)]
struct OptGap {
    start: usize,
    end: usize,
}

impl OptGap {
    /// Converts an offset in the response to the offset without OPT.
    fn moved(self, at: usize) -> usize {
        if at >= self.end { at - (self.end - self.start) } else { at }
    }
}

/// Removes the OPT record.
///
/// OPT is rarely, but sometimes, followed by other records. These move up, and all pointers to them are corrected. A
/// pointer may be in RDATA that nodens does not parse, or may target OPT itself. So the names are read again at their
/// new offsets, and if one differs, the records behind OPT are dropped too. They are additional, and a correct server
/// never sends such a message.
fn without_opt<'r>(response: &'r ResponseMessage<'_>) -> WithoutOpt<'r> {
    let records = &response.records[..];
    // Bytes after the last record are dropped.
    let end = records.last().map_or(response.question_end, |record| record.end);
    // Capacity for the data that a cache entry keeps after the message, too.
    let mut wire = Vec::with_capacity(end + 2 * records.len() + response.extended_errors.len());
    let Some((start, stop)) = response.opt else {
        wire.extend_from_slice(&response.message[..end]);
        return WithoutOpt { wire, gap: OptGap { start: end, end }, records };
    };
    let gap = OptGap { start, end: stop };
    let before = records.partition_point(|record| record.start < start);
    let behind = &records[before..];
    wire.extend_from_slice(&response.message[..start]);
    wire.extend_from_slice(response.message.get(stop..end).unwrap_or_default());
    for record in behind {
        for at in record.names(response.message) {
            pull_pointer(&mut wire, gap.moved(at), gap);
        }
    }
    let mut cached_message = records;
    let same = |at| expanded(response.message, at) == expanded(&wire, gap.moved(at));
    if !behind.iter().flat_map(|record| record.names(response.message)).all(same) {
        wire.truncate(start);
        cached_message = &records[..before];
    }
    let additional = cached_message.iter().filter(|record| record.section == Section::Additional).count();
    wire[10..HEADER].copy_from_slice(&(additional as u16).to_be_bytes());
    WithoutOpt { wire, gap, records: cached_message }
}

/// Corrects the pointer that ends the name at `at`, if its target is behind the gap.
fn pull_pointer(wire: &mut [u8], mut at: usize, gap: OptGap) {
    while let Some(&length) = wire.get(at) {
        match length {
            1..=63 => at += 1 + usize::from(length),
            0xc0.. => {
                let target = usize::from(u16_at(wire, at).unwrap_or(0) & 0x3fff);
                let pointer = 0xc000 | gap.moved(target) as u16;
                if let Some(place) = wire.get_mut(at..at + 2) {
                    place.copy_from_slice(&pointer.to_be_bytes());
                }
                return;
            }
            _ => return,
        }
    }
}

/// Undoes the random letter case of the question in names that a server built from its labels: owners, targets of
/// CNAMEs that a DNAME produced, targets of SRV records. A label with exactly the spelling of a label in the question
/// counts as such.
fn lowercase_invented(response: &ResponseMessage<'_>, records: &[Record], wire: &mut [u8], gap: OptGap) {
    let qname = response.message.get(HEADER..response.question_end - 4).unwrap_or_default();
    if !qname.iter().any(u8::is_ascii_uppercase) {
        return;
    }
    for at in records.iter().flat_map(|record| record.names(response.message)) {
        let mut at = gap.moved(at);
        while let Some(length @ 1..=63) = wire.get(at).copied() {
            let end = at + 1 + usize::from(length);
            let Some(label) = wire.get_mut(at..end) else { return };
            if labels(qname).any(|asked| asked == label) {
                label[1..].make_ascii_lowercase();
            }
            at = end;
        }
    }
}

/// Returns the labels of an uncompressed name, each with its length byte.
fn labels(mut name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(*name.first().filter(|length| **length > 0)?);
        let (label, rest) = name.split_at_checked(1 + length)?;
        name = rest;
        Some(label)
    })
}

/// Returns the offset of each TTL, with the minimum TTL of its RRset (RFC 2181 section 5.2).
fn rrset_ttls(message: &[u8], records: &[Record]) -> Vec<(usize, u32)> {
    let mut ttls: Vec<(usize, u32)> = records.iter().map(|record| (record.ttl_at(), record.ttl(message))).collect();
    if records.len() <= 1 {
        return ttls;
    }
    if records.len() > MANY_RECORDS {
        let least = ttls.iter().map(|(_, ttl)| *ttl).min().unwrap_or(0);
        ttls.iter_mut().for_each(|(_, ttl)| *ttl = least);
        return ttls;
    }
    let rrsets: Vec<_> = records
        .iter()
        .map(|record| (record.section, covered_type(message, record), record.class(message), owner(message, record)))
        .collect();
    for (i, rrset) in rrsets.iter().enumerate() {
        let least = records.iter().zip(&rrsets).filter(|(_, other)| *other == rrset).map(|(r, _)| r.ttl(message)).min();
        ttls[i].1 = least.unwrap_or(ttls[i].1);
    }
    ttls
}

/// Returns the type whose TTL a record shares: an RRSIG record has the TTL of the records that it covers, and the RRSIG
/// records of one name are not an RRset (RFC 4034 section 3).
fn covered_type(message: &[u8], record: &Record) -> RrType {
    match record.rtype {
        rtype::RRSIG => u16_at(record.rdata(message), 0).map_or(rtype::RRSIG, RrType::from),
        other => other,
    }
}

fn owner(message: &[u8], record: &Record) -> Vec<u8> {
    expanded(message, record.start).unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPT: &[u8] = b"\x00\0\x29\x04\xd0\0\0\0\0\0\0";

    /// Returns a response to `A.b. A` whose additional section holds `records`.
    fn response(records: &[&[u8]]) -> Vec<u8> {
        let mut message = b"\x12\x34\x80\0\0\x01\0\0\0\0\0\0\x01A\x01b\x00\0\x01\0\x01".to_vec();
        message[11] = records.len() as u8;
        message.extend(records.concat());
        message
    }

    fn stored(message: &[u8], cap: u32) -> (CacheableMessage, Vec<u32>) {
        let stored = store(&ResponseMessage::read(message).expect("a reply"), cap);
        let ttl = |at: &u16| crate::wire::u32_at(&stored.wire, usize::from(*at)).expect("a TTL");
        let ttls = stored.ttls.iter().map(ttl).collect();
        (stored, ttls)
    }

    #[test]
    fn opt_between_records() {
        let mx = b"\xc0\x0e\0\x0f\0\x01\0\0\0\x09\0\x06\0\x05\x01m\xc0\x0e"; // 21..39
        // From 50: an uncompressed owner, an owner that points to it, and RDATA that points to it.
        let clear = b"\x02cc\xc0\x0c\0\x10\0\x01\0\0\0\x09\0\x00";
        let pointing = b"\xc0\x32\0\x0f\0\x01\0\0\0\x09\0\x04\0\x05\xc0\x32";
        let message = response(&[mx, OPT, clear, pointing]);
        let before = ResponseMessage::read(&message).expect("a reply");
        let (cached_message, ttls) = stored(&message, 100);
        let after = ResponseMessage::read(&cached_message.wire).expect("still a reply");
        assert_eq!((after.records.len(), after.opt, ttls), (3, None, vec![9; 3]));
        assert_eq!(cached_message.wire.len(), message.len() - OPT.len());
        for (old, new) in before.records.iter().zip(&after.records) {
            let names_of = |message: &[u8], record: &Record| -> Vec<_> {
                record.names(message).map(|at| expanded(message, at).expect("a name").to_ascii_lowercase()).collect()
            };
            assert_eq!(names_of(&message, old), names_of(&cached_message.wire, new));
        }
    }

    #[test]
    fn a_pointer_into_opt_drops_the_records_behind_it() {
        let a = b"\xc0\x0c\0\x01\0\x01\0\0\0\x09\0\x04\x01\x02\x03\x04"; // 21..37
        let into_opt = b"\xc0\x25\0\x10\0\x01\0\0\0\x01\0\x00";
        let (cached_message, ttls) = stored(&response(&[a, OPT, into_opt]), 100);
        assert_eq!(ResponseMessage::read(&cached_message.wire).map(|response| response.records.len()), Ok(1));
        assert_eq!((ttls, cached_message.least_ttl, cached_message.wire.len()), (vec![9], None, 37));
    }

    #[test]
    fn id_and_random_letter_case_are_undone() {
        let clear = b"\x01A\x01b\x00\0\x01\0\x01\0\0\0\x09\0\x04\x01\x02\x03\x04";
        // Labels that are not in the question keep their case; labels spelled as in the question do not.
        let other = b"\x01C\x01A\x00\0\x01\0\x01\0\0\0\x09\0\x04\x01\x02\x03\x04";
        let service = b"\xc0\x0c\0\x21\0\x01\0\0\0\x09\0\x0d\0\0\0\0\0\x35\x01A\x01D\x01b\x00";
        let (cached_message, _) = stored(&response(&[clear, other, service]), 100);
        assert_eq!(&cached_message.wire[..2], [0, 0]);
        assert_eq!(&cached_message.wire[12..17], b"\x01a\x01b\x00");
        assert_eq!(&cached_message.wire[21..26], b"\x01a\x01b\x00");
        assert_eq!(&cached_message.wire[40..45], b"\x01C\x01a\x00");
        assert_eq!(&cached_message.wire[cached_message.wire.len() - 7..], b"\x01a\x01D\x01b\x00");
    }

    #[test]
    fn one_ttl_per_rrset_and_none_above_the_cap() {
        let a = |ttl| [b"\xc0\x0c\0\x01\0\x01\0\0\0", &[ttl][..], b"\0\x04\x01\x02\x03\x04"].concat();
        let signature = |covered, ttl| [b"\xc0\x0c\0\x2e\0\x01\0\0\0", &[ttl][..], b"\0\x02\0", &[covered]].concat();
        let endless = b"\xc0\x0c\0\x10\0\x01\xff\xff\xff\xff\0\x00".to_vec();
        let records = [a(9), a(5), signature(1, 7), signature(28, 3), a(80), endless];
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let (cached_message, ttls) = stored(&response(&records), 60);
        assert_eq!((ttls, cached_message.least_ttl), (vec![5, 5, 5, 3, 5, 60], None));

        let many: Vec<&[u8]> = std::iter::repeat_n(records[0], MANY_RECORDS).chain([records[1]]).collect();
        assert_eq!(stored(&response(&many), 60).1, vec![5; MANY_RECORDS + 1]);
        assert_eq!(stored(&response(&[OPT]), 60).0.least_ttl, None);
    }
}

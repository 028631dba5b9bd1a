//! Messages and options that nodens writes itself.

use super::query::{Edns, Query, RequestBits};
use super::{ADVERTISED_SIZE, HEADER, Rcode, RrType, class, flag, option, rcode, rtype};

/// Writer into a fixed buffer. It leaves out data that does not fit and records the overflow.
pub struct MessageWriter<'a> {
    out: &'a mut [u8],
    len: usize,
    overflow: bool,
}

impl<'a> MessageWriter<'a> {
    /// Creates a writer at the start of `out`.
    #[inline]
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0, overflow: false }
    }

    /// Appends bytes, if they fit.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.len..self.len + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    /// Appends a big-endian number.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// Returns the length written, or `None` after an overflow.
    #[inline]
    pub fn finish(self) -> Option<usize> {
        (!self.overflow).then_some(self.len)
    }
}

/// Returns the flags of a response to a query with `flags`: the opcode, RD and CD as in the query, RA always set.
#[inline]
pub fn reply_flags(flags: u16, rcode: Rcode) -> u16 {
    flag::QR | flag::RA | (flags & (flag::OPCODE | flag::RD | flag::CD)) | rcode.header_bits()
}

/// Writes a response without records to a message that [`Query::read`] rejected. Returns its length; zero if it does
/// not fit, and then nothing is sent.
pub fn rejection(packet: &[u8], rcode: Rcode, question_end: usize, edns: bool, out: &mut [u8]) -> usize {
    let (Some(id), Some(flags)) = (packet.get(..2), super::u16_at(packet, 2)) else { return 0 };
    let question = packet.get(HEADER..question_end).unwrap_or_default();
    let mut writer = MessageWriter::new(out);
    writer.bytes(id);
    writer.u16(reply_flags(flags, rcode));
    writer.u16(u16::from(!question.is_empty()));
    writer.bytes(&[0; 5]);
    writer.bytes(&[u8::from(edns)]);
    writer.bytes(question);
    if edns {
        opt(&mut writer, rcode, false, &[]);
    }
    writer.finish().unwrap_or(0)
}

/// Writes a response with the prepared `records` and, for a client with EDNS, `options`.
///
/// Returns its length; zero if the question does not fit. Sets TC and leaves out all records if they do not fit.
pub fn local(
    query: &Query<'_>,
    rcode: Rcode,
    aa: bool,
    records: &LocalRecords,
    options: &[u8],
    out: &mut [u8],
) -> usize {
    let room = out.len();
    let opt_size = query.edns.map_or(0, |_| OPT_SIZE + options.len());
    let fits = HEADER + query.question().len() + records.wire.len() + opt_size <= room;
    let mut flags = reply_flags(query.flags, rcode);
    flags |= if aa { flag::AA } else { 0 };
    flags |= if fits { 0 } else { flag::TC };
    let (answers, authorities, wire) = match fits {
        true => (records.answers, records.authorities, records.wire.as_slice()),
        false => (0, 0, &[][..]),
    };
    let mut writer = MessageWriter::new(out);
    writer.u16(query.id);
    writer.u16(flags);
    for count in [1, answers, authorities, u16::from(query.edns.is_some())] {
        writer.u16(count);
    }
    writer.bytes(query.question());
    writer.bytes(wire);
    if let Some(edns) = query.edns {
        opt(&mut writer, rcode, edns.dnssec_ok, options);
    }
    writer.finish().unwrap_or(0)
}

/// Writes an NXDOMAIN response for a name whose last `zone` bytes are those of its zone: with the zone's SOA record for
/// `ttl` seconds and, for a client with EDNS, the options `error` and `options`. If the options do not fit, `error` is
/// left out first, then `options`. Returns the length; zero if the rest does not fit.
pub fn denial(query: &Query<'_>, zone: usize, ttl: u32, error: &[u8], options: &[u8], out: &mut [u8]) -> usize {
    let room = out.len();
    let mut writer = MessageWriter::new(out);
    writer.u16(query.id);
    writer.u16(reply_flags(query.flags, rcode::NXDOMAIN));
    for count in [1, 0, 1, u16::from(query.edns.is_some())] {
        writer.u16(count);
    }
    writer.bytes(query.question());
    // A name is at most 255 bytes long, so a pointer reaches every offset in it.
    writer.u16(0xc000 | (HEADER + query.name().len().saturating_sub(zone)) as u16);
    writer.u16(rtype::SOA.into());
    writer.u16(class::IN);
    writer.bytes(&ttl.to_be_bytes());
    writer.u16(SOA_SIZE);
    write_soa(ttl, |part| writer.bytes(part));
    if let Some(edns) = query.edns {
        let left = room.saturating_sub(writer.len + OPT_SIZE);
        let (error, options) = match left {
            _ if error.len() + options.len() <= left => (error, options),
            _ if options.len() <= left => (&[][..], options),
            _ => (&[][..], &[][..]),
        };
        opt_of_two(&mut writer, rcode::NXDOMAIN, edns.dnssec_ok, error, options);
    }
    writer.finish().unwrap_or(0)
}

/// Records in wire form, with owners that are pointers to the question or uncompressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalRecords {
    pub(crate) answers: u16,
    /// Number of authority records, which follow the answers.
    pub authorities: u16,
    /// Records in wire form, without compression.
    pub wire: Vec<u8>,
}

impl LocalRecords {
    /// Adds an answer owned by the question's name.
    pub fn answer(&mut self, rtype: RrType, ttl: u32, rdata: &[u8]) {
        self.answers += 1;
        self.record(&[0xc0, HEADER as u8], rtype, ttl, rdata);
    }

    /// Adds an answer with the uncompressed owner `owner`.
    pub fn answer_of(&mut self, owner: &[u8], rtype: RrType, ttl: u32, rdata: &[u8]) {
        self.answers += 1;
        self.record(owner, rtype, ttl, rdata);
    }

    /// Adds the SOA record of `zone`, which allows caching a negative answer (RFC 2308) for `ttl` seconds.
    pub fn soa(&mut self, zone: &[u8], ttl: u32) {
        self.authorities += 1;
        self.record(zone, rtype::SOA, ttl, &soa_rdata(ttl));
    }

    /// Appends the records of `more`; owners there that point at the question become `owner` (wire form).
    pub fn followed_by(mut self, more: &Self, owner: &[u8]) -> Self {
        let pointer = [0xc0, HEADER as u8];
        let mut rest = more.wire.as_slice();
        for _ in 0..more.answers + more.authorities {
            let Some(fixed) = super::name::skip(rest, 0).or(rest.starts_with(&pointer).then_some(2)) else { break };
            let length = super::u16_at(rest, fixed + 8).map_or(0, usize::from);
            let Some(record) = rest.get(fixed..fixed + 10 + length) else { break };
            self.wire.extend_from_slice(if rest.starts_with(&pointer) { owner } else { &rest[..fixed] });
            self.wire.extend_from_slice(record);
            rest = &rest[fixed + 10 + length..];
        }
        self.answers += more.answers;
        self.authorities += more.authorities;
        self
    }

    /// Sets the class of the first record, whose owner must be a pointer to the question.
    pub fn set_class(&mut self, class: u16) {
        if let Some(place) = self.wire.get_mut(4..6) {
            place.copy_from_slice(&class.to_be_bytes());
        }
    }

    fn record(&mut self, owner: &[u8], rtype: RrType, ttl: u32, rdata: &[u8]) {
        self.wire.extend_from_slice(owner);
        self.wire.extend_from_slice(&rtype.to_be_bytes());
        self.wire.extend_from_slice(&class::IN.to_be_bytes());
        self.wire.extend_from_slice(&ttl.to_be_bytes());
        self.wire.extend_from_slice(&u16::try_from(rdata.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.wire.extend_from_slice(rdata);
    }
}

/// Server name in the SOA and NS records of the zones that nodens answers itself. The name does not exist, so it is
/// never queried (RFC 6761 section 6.4).
pub const LOCAL_SERVER: &[u8] = b"\x06nodens\x07invalid\x00";

/// Returns the RDATA of the SOA record of a local zone. All fields but MINIMUM follow RFC 6303 section 3.
pub fn soa_rdata(minimum: u32) -> Vec<u8> {
    let mut rdata = Vec::with_capacity(64);
    write_soa(minimum, |part| rdata.extend_from_slice(part));
    rdata
}

/// Size in bytes of the RDATA of such an SOA record.
const SOA_SIZE: u16 = 2 * LOCAL_SERVER.len() as u16 + 20;

fn write_soa(minimum: u32, mut write: impl FnMut(&[u8])) {
    write(LOCAL_SERVER);
    write(b"\x06nobody\x07invalid\x00");
    for number in [1, 3600, 1200, 604_800, minimum] {
        write(&number.to_be_bytes());
    }
}

/// Size in bytes of an OPT record without options.
pub const OPT_SIZE: usize = 11;

/// Appends an OPT record: the advertised size, the upper bits of `rcode`, DO as in the query, `options`.
#[inline]
pub fn opt(writer: &mut MessageWriter<'_>, rcode: Rcode, dnssec_ok: bool, options: &[u8]) {
    opt_of_two(writer, rcode, dnssec_ok, options, &[]);
}

/// Appends an OPT record with options from two slices, without allocating to join them.
#[inline]
pub(super) fn opt_of_two(writer: &mut MessageWriter<'_>, rcode: Rcode, dnssec_ok: bool, first: &[u8], second: &[u8]) {
    let [size_high, size_low] = ADVERTISED_SIZE.to_be_bytes();
    let [length_high, length_low] = ((first.len() + second.len()) as u16).to_be_bytes();
    let [_, kind] = rtype::OPT.to_be_bytes();
    writer.bytes(&[
        0,
        0,
        kind,
        size_high,
        size_low,
        rcode.opt_bits(),
        0,
        if dnssec_ok { 0x80 } else { 0 },
        0,
        length_high,
        length_low,
    ]);
    writer.bytes(first);
    writer.bytes(second);
}

/// Returns an Extended DNS Error as a whole option (RFC 8914). The text is limited to 200 bytes, which fit in a
/// response without EDNS. A longer text ends with a whole word, so that no part of an address is left.
pub fn extended_error(code: u16, text: &str) -> Vec<u8> {
    const LONGEST_TEXT: usize = 200;
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end < text.len() && !text[end..].starts_with(' ') {
        end = text[..end].rfind(' ').unwrap_or(end);
    }
    let text = &text.as_bytes()[..end];
    let mut bytes = Vec::with_capacity(6 + text.len());
    bytes.extend_from_slice(&option::EDE.to_be_bytes());
    bytes.extend_from_slice(&(text.len() as u16 + 2).to_be_bytes());
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(text);
    bytes
}

/// Returns the joined texts of extended errors (whole options), at most `most` bytes. Stops at a malformed option.
pub fn extended_error_text(mut options: &[u8], most: usize) -> String {
    let mut text = String::new();
    while let Some(length) = super::u16_at(options, 2) {
        let end = 4 + usize::from(length);
        let Some(words) = options.get(6..end) else { break };
        if !text.is_empty() && !words.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&String::from_utf8_lossy(words.get(..most).unwrap_or(words)));
        options = options.get(end..).unwrap_or_default();
    }
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Returns the edns-tcp-keepalive option of a response (RFC 7828) if the client asked for it; `tenths` of a second.
pub fn keepalive(edns: Option<Edns>, tenths: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    if edns.is_some_and(|edns| edns.asks.has(RequestBits::KEEPALIVE)) {
        for word in [option::KEEPALIVE, 2, tenths] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
    }
    bytes
}

/// Returns the NSID option of a response (RFC 5001), with the name of this server.
pub fn nsid(identity: &str) -> Vec<u8> {
    // At most 255 bytes.
    let length = identity.len() as u16;
    [&option::NSID.to_be_bytes(), &length.to_be_bytes(), identity.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::rcode;
    use super::super::response::ResponseMessage;
    use super::*;

    const WITH_OPT: &[u8] = b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\x01\x01A\x00\0\x01\0\x01\
        \x00\0\x29\x02\0\0\0\x80\0\0\0";

    fn query() -> Query<'static> {
        Query::read(WITH_OPT).expect("a query")
    }

    #[test]
    fn a_rejection_echoes_what_it_can() {
        let mut out = [0; 64];
        let len = rejection(WITH_OPT, rcode::BADVERS, 19, true, &mut out);
        let response = ResponseMessage::read(&out[..len]).expect("a reply");
        assert_eq!((response.rcode, response.flags), (rcode::BADVERS, flag::QR | flag::RD | flag::RA | flag::CD));
        assert_eq!(&out[12..19], &WITH_OPT[12..19]);
        assert_eq!(rejection(WITH_OPT, rcode::FORMERR, HEADER, false, &mut out), HEADER);
        assert_eq!(out[..HEADER], *b"\x12\x34\x81\x91\0\0\0\0\0\0\0\0");
        assert_eq!(rejection(WITH_OPT, rcode::FORMERR, 19, false, &mut out[..18]), 0);
        assert_eq!(rejection(&[0; 3], rcode::FORMERR, HEADER, false, &mut out), 0);
    }

    #[test]
    fn local_records_all_or_none() {
        let mut records = LocalRecords::default();
        records.answer(rtype::A, 60, &[127, 0, 0, 1]);
        records.soa(b"\x01a\x00", 60);
        let mut out = [0; 512];
        let options = extended_error(17, "no");
        let len = local(&query(), rcode::NOERROR, true, &records, &options, &mut out);
        let response = ResponseMessage::read(&out[..len]).expect("a reply");
        assert_eq!((response.records.len(), response.flags & (flag::AA | flag::TC)), (2, flag::AA));
        assert_eq!(response.extended_errors, options);
        let len = local(&query(), rcode::NOERROR, true, &records, &options, &mut out[..len - 1]);
        let response = ResponseMessage::read(&out[..len]).expect("a reply");
        assert_eq!((response.records.len(), response.flags & flag::TC), (0, flag::TC));
        assert_eq!(local(&query(), rcode::NOERROR, true, &records, &options, &mut out[..20]), 0);
    }

    #[test]
    fn many_extended_errors_are_read_broken_ones_skipped() {
        let options = [extended_error(22, "one"), extended_error(0, ""), extended_error(0, "two")].concat();
        assert_eq!(extended_error_text(&options, 100), "one; two");
        assert_eq!(extended_error_text(&options, 6), "one; t");
        assert_eq!(extended_error_text(&options[..options.len() - 1], 100), "one");
        assert_eq!(extended_error_text(&[0, 15, 0, 0, 0, 1], 100), "");
        assert_eq!(extended_error_text(&extended_error(0, "\u{fc}\u{fc}"), 3), "\u{fc}");
    }

    #[test]
    fn extended_errors_are_cut_between_characters() {
        let long = "\u{fc}".repeat(150);
        let option = extended_error(22, &long);
        assert_eq!(option[..6], [0, 15, 0, 202, 0, 22]);
        assert_eq!(std::str::from_utf8(&option[6..]), Ok(&long[..200]));
        let odd = format!("x{long}");
        assert_eq!(extended_error(22, &odd).len(), 6 + 199);
        let (words, last) = (format!("{} 10.0.0.12:53", "x".repeat(190)), |text: &str| extended_error(22, text).pop());
        assert_eq!((extended_error(22, &words).len(), last(&words)), (6 + 190, Some(b'x')), "no part of an address");
        assert_eq!(extended_error(22, &format!("{} no", "x".repeat(200))).len(), 6 + 200);
    }
}

//! Messages that nodens writes itself.

use super::query::{Asks, Edns, Query};
use super::{ADVERTISED_SIZE, HEADER, Rcode, RrType, class, flag, option, rcode, rtype};

/// Writes messages into a fixed buffer; what does not fit is left out and remembered.
pub struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
    overflow: bool,
}

impl<'a> Writer<'a> {
    /// A writer at the start of `out`.
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

    /// The length so far; none if something did not fit.
    #[inline]
    pub fn finish(self) -> Option<usize> {
        (!self.overflow).then_some(self.len)
    }
}

/// The flags of a reply to a query with `flags`: the opcode, RD and CD as asked, RA always.
#[inline]
pub fn reply_flags(flags: u16, rcode: Rcode) -> u16 {
    flag::QR | flag::RA | (flags & (flag::OPCODE | flag::RD | flag::CD)) | rcode.header_bits()
}

/// A reply without records to a packet that [`Query::read`] rejected; zero if it does not fit, which is silence.
pub fn rejection(packet: &[u8], rcode: Rcode, question_end: usize, edns: bool, out: &mut [u8]) -> usize {
    let (Some(id), Some(flags)) = (packet.get(..2), super::u16_at(packet, 2)) else { return 0 };
    let question = packet.get(HEADER..question_end).unwrap_or_default();
    let mut writer = Writer::new(out);
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

/// A reply with ready-made records (`answers`, `authorities` and their counts) and, to a client with EDNS, `options`.
///
/// Zero if even the bare question does not fit. Records that do not fit are left out whole, with TC set.
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
    let mut writer = Writer::new(out);
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

/// NXDOMAIN to a query for a name whose last `zone` bytes are those of a zone above it: with an SOA record of that zone for
/// `ttl` seconds and, to a client with EDNS, the options `error` and `options`. What does not fit of these is left out.
pub fn denial(query: &Query<'_>, zone: usize, ttl: u32, error: &[u8], options: &[u8], out: &mut [u8]) -> usize {
    let room = out.len();
    let mut writer = Writer::new(out);
    writer.u16(query.id);
    writer.u16(reply_flags(query.flags, rcode::NXDOMAIN));
    for count in [1, 0, 1, u16::from(query.edns.is_some())] {
        writer.u16(count);
    }
    writer.bytes(query.question());
    // A name is no longer than 255 bytes, so every place in it can be pointed at.
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

/// Records in wire form, owners pointing at the question or written out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalRecords {
    /// How many of them answer.
    pub answers: u16,
    /// How many are in the authority section, after the answers.
    pub authorities: u16,
    /// The records.
    pub wire: Vec<u8>,
}

impl LocalRecords {
    /// Adds an answer owned by the question's name.
    pub fn answer(&mut self, rtype: RrType, ttl: u32, rdata: &[u8]) {
        self.answers += 1;
        self.record(&[0xc0, HEADER as u8], rtype, ttl, rdata);
    }

    /// Adds an answer with its own owner in wire form.
    pub fn answer_of(&mut self, owner: &[u8], rtype: RrType, ttl: u32, rdata: &[u8]) {
        self.answers += 1;
        self.record(owner, rtype, ttl, rdata);
    }

    /// Adds the SOA record that lets a negative answer be cached (RFC 2308), owned by `zone`, for `ttl` seconds.
    pub fn soa(&mut self, zone: &[u8], ttl: u32) {
        self.authorities += 1;
        self.record(zone, rtype::SOA, ttl, &soa_rdata(ttl));
    }

    /// These records and then those of `more`, whose owners that point at the question become `owner` (wire form).
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

    /// Gives the only record, owned by the question's name, another class than IN.
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

/// The server's name in the SOA and NS records of the zones that nodens answers itself. It does not exist, so nobody asks
/// there (RFC 6761 section 6.4).
pub const LOCAL_SERVER: &[u8] = b"\x06nodens\x07invalid\x00";

/// The RDATA of such a zone's SOA record, its names and numbers but the last as RFC 6303 section 3 has them.
pub fn soa_rdata(minimum: u32) -> Vec<u8> {
    let mut rdata = Vec::with_capacity(64);
    write_soa(minimum, |part| rdata.extend_from_slice(part));
    rdata
}

/// Bytes of that.
const SOA_SIZE: u16 = 2 * LOCAL_SERVER.len() as u16 + 20;

fn write_soa(minimum: u32, mut write: impl FnMut(&[u8])) {
    write(LOCAL_SERVER);
    write(b"\x06nobody\x07invalid\x00");
    for number in [1, 3600, 1200, 604_800, minimum] {
        write(&number.to_be_bytes());
    }
}

/// Bytes of an OPT record without options.
pub const OPT_SIZE: usize = 11;

/// Appends nodens's own OPT record: its size, the upper bits of `rcode`, DO as asked, `options`.
#[inline]
pub fn opt(writer: &mut Writer<'_>, rcode: Rcode, dnssec_ok: bool, options: &[u8]) {
    opt_of_two(writer, rcode, dnssec_ok, options, &[]);
}

/// The same with options from two places, so that nothing need be allocated to join them.
#[inline]
pub(super) fn opt_of_two(writer: &mut Writer<'_>, rcode: Rcode, dnssec_ok: bool, first: &[u8], second: &[u8]) {
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

/// An extended error as a whole option (RFC 8914). The text is cut at a limit that leaves room in a plain reply.
pub fn extended_error(code: u16, text: &str) -> Vec<u8> {
    const LONGEST_TEXT: usize = 200;
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text.as_bytes()[..end];
    let mut bytes = Vec::with_capacity(6 + text.len());
    bytes.extend_from_slice(&option::EDE.to_be_bytes());
    bytes.extend_from_slice(&(text.len() as u16 + 2).to_be_bytes());
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(text);
    bytes
}

/// What extended errors (whole options) say, the texts of all of them, up to `most` bytes; broken ones end it.
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

/// The edns-tcp-keepalive option of a reply (RFC 7828), for a client that asked for it: `tenths` of a second.
pub fn keepalive(edns: Option<Edns>, tenths: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    if edns.is_some_and(|edns| edns.asks.has(Asks::KEEPALIVE)) {
        for word in [option::KEEPALIVE, 2, tenths] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
    }
    bytes
}

/// Returns the NSID option of a response (RFC 5001), for a client that asked for it: the name of this server.
pub fn nsid(identity: &str) -> Vec<u8> {
    // No longer than 255 bytes.
    let length = identity.len() as u16;
    [&option::NSID.to_be_bytes(), &length.to_be_bytes(), identity.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::rcode;
    use super::super::reply::Reply;
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
        let reply = Reply::read(&out[..len]).expect("a reply");
        assert_eq!((reply.rcode, reply.flags), (rcode::BADVERS, flag::QR | flag::RD | flag::RA | flag::CD));
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
        let reply = Reply::read(&out[..len]).expect("a reply");
        assert_eq!((reply.records.len(), reply.flags & (flag::AA | flag::TC)), (2, flag::AA));
        assert_eq!(reply.extended_errors, options);
        let len = local(&query(), rcode::NOERROR, true, &records, &options, &mut out[..len - 1]);
        let reply = Reply::read(&out[..len]).expect("a reply");
        assert_eq!((reply.records.len(), reply.flags & flag::TC), (0, flag::TC));
        assert_eq!(local(&query(), rcode::NOERROR, true, &records, &options, &mut out[..20]), 0);
    }

    #[test]
    fn several_extended_errors_are_read_and_broken_ones_do_no_harm() {
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
    }
}

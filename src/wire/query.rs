//! Queries of clients, parsed in place, and the reasons to reject a query.

use super::name;
use super::{HEADER, PLAIN_SIZE, Rcode, RrType, class, flag, option, rcode, rtype, u16_at};

/// Size in bytes of an OPT record without options.
const OPT_SIZE: usize = 11;
/// Size in bytes of an option without data.
const OPTION_SIZE: usize = 4;

/// A query that can be answered: one question, opcode QUERY, EDNS version 0 or no EDNS.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The whole message, as the client sent it.
    pub message: &'a [u8],
    /// Id of the message, which the response repeats.
    pub id: u16,
    /// Bytes 2 and 3 of the header.
    pub flags: u16,
    /// Offset of the end of the question, which begins at byte 12; its name has the client's letter case.
    pub question_end: usize,
    /// Type in the question.
    pub qtype: RrType,
    /// Class in the question.
    pub qclass: u16,
    /// Content of the client's OPT record, if any.
    pub edns: Option<Edns>,
}

/// A client's OPT record (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// UDP payload size that the client accepts, at least 512 bytes.
    pub size: u16,
    /// True if the client wants DNSSEC records (DO).
    pub dnssec_ok: bool,
    /// Options that the client requests in the response.
    pub asks: RequestBits,
}

/// Options that a client requests by sending them. One byte, because queries are copied on every path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestBits(u8);

impl RequestBits {
    pub(crate) const KEEPALIVE: Self = Self(1);
    pub(crate) const NSID: Self = Self(2);

    /// Reports whether the set contains an option of `one`.
    #[inline]
    pub const fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }

    /// Returns the option with this code; empty for other options.
    fn of_code(code: u16) -> Self {
        match code {
            option::KEEPALIVE => Self::KEEPALIVE,
            option::NSID => Self::NSID,
            _ => Self::default(),
        }
    }
}

/// Reason to reject a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// No response: the message is shorter than a header or is itself a response. A response to it could be used for
    /// reflection.
    Silence(Dropped),
    /// A response with this code; `question_end` as in [`Query`], or 12 if the question is not echoed.
    Code {
        /// Response code of the rejection.
        rcode: Rcode,
        /// End of the part to echo.
        question_end: usize,
        /// True if the response has an OPT record.
        edns: bool,
    },
}

/// Reason to drop a message without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Shorter than a header.
    Short,
    /// A response (QR is set), not a query.
    Response,
}

impl Dropped {
    /// Returns the value of the label `reason` in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Response => "response",
        }
    }
}

impl<'a> Query<'a> {
    /// Parses a message. The order of the checks determines the response code of a message with several errors.
    ///
    /// # Errors
    /// [`Reject`]: no response, or the response code.
    ///
    /// ```
    /// use nodens::wire::query::{Dropped, Query, Reject};
    /// use nodens::wire::rtype;
    ///
    /// let message = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
    /// let query = Query::read(message).expect("a query");
    /// assert_eq!((query.id, query.qtype), (0x1234, rtype::A));
    /// assert_eq!(Query::read(&message[..11]).err(), Some(Reject::Silence(Dropped::Short)));
    /// ```
    #[inline]
    pub fn read(message: &'a [u8]) -> Result<Self, Reject> {
        let Some(header) = message.first_chunk::<HEADER>() else {
            return Err(Reject::Silence(Dropped::Short));
        };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let flags = word(2);
        if flags & flag::QR != 0 {
            return Err(Reject::Silence(Dropped::Response));
        }
        let bare = |rcode| Reject::Code { rcode, question_end: HEADER, edns: false };
        if flags & flag::OPCODE != 0 {
            return Err(bare(rcode::NOTIMP));
        }
        // RFC 9619: a QUERY has exactly one question.
        if word(4) != 1 {
            return Err(bare(rcode::FORMERR));
        }
        let rest = message.get(HEADER..).unwrap_or_default();
        let name_end = HEADER + name::plain_len(rest).ok_or(bare(rcode::FORMERR))?;
        let qtype = RrType::from(u16_at(message, name_end).ok_or(bare(rcode::FORMERR))?);
        let qclass = u16_at(message, name_end + 2).ok_or(bare(rcode::FORMERR))?;
        let question_end = name_end + 4;

        let before = usize::from(word(6)) + usize::from(word(8));
        let edns = match (before, usize::from(word(10))) {
            (0, 0) => None,
            (before, additional) => read_edns(message, question_end, before, additional)
                .map_err(|rcode| Reject::Code { rcode, question_end, edns: rcode == rcode::BADVERS })?,
        };
        // RFC 6891 section 7: a query with OPT gets a response with OPT.
        let reject = |rcode| Reject::Code { rcode, question_end, edns: edns.is_some() };
        match (qtype, qclass) {
            (rtype::OPT, _) => return Err(reject(rcode::FORMERR)),
            (rtype::AXFR | rtype::IXFR, _) => return Err(reject(rcode::REFUSED)),
            (rtype::TKEY | rtype::TSIG | rtype::MAILA | rtype::MAILB, _) => return Err(reject(rcode::NOTIMP)),
            (_, class::ANY | class::NONE) => return Err(reject(rcode::NOTIMP)),
            _ => {}
        }
        Ok(Self { message, id: word(0), flags, question_end, qtype, qclass, edns })
    }

    /// Returns a minimal query that gets the same response: header, question and, if the client sent OPT, an OPT record
    /// with only the options that request one in the response: edns-tcp-keepalive and NSID.
    pub fn retained(&self) -> Box<[u8]> {
        // Exact capacity avoids a reallocation at the end.
        let asks = self.edns.map(|edns| edns.asks).unwrap_or_default();
        let options =
            [option::KEEPALIVE, option::NSID].into_iter().filter(|code| asks.has(RequestBits::of_code(*code)));
        let options_size = OPTION_SIZE * options.clone().count();
        let opt = self.edns.map_or(0, |_| OPT_SIZE + options_size);
        let mut bytes = Vec::with_capacity(self.question_end + opt);
        bytes.extend_from_slice(&self.id.to_be_bytes());
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        bytes.extend_from_slice(self.question());
        if let Some(edns) = self.edns {
            bytes.push(0);
            bytes.extend_from_slice(&rtype::OPT.to_be_bytes());
            bytes.extend_from_slice(&edns.size.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, u8::from(edns.dnssec_ok) << 7, 0]);
            bytes.extend_from_slice(&(options_size as u16).to_be_bytes());
            for code in options {
                bytes.extend_from_slice(&code.to_be_bytes());
                bytes.extend_from_slice(&[0, 0]);
            }
        }
        bytes.into()
    }

    /// Returns the name in the question in wire form, in the client's letter case.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.message.get(HEADER..self.question_end - 4).unwrap_or_default()
    }

    /// Returns the whole question in the client's letter case.
    #[inline]
    pub fn question(&self) -> &'a [u8] {
        self.message.get(HEADER..self.question_end).unwrap_or_default()
    }

    /// Reports whether the client wants DNSSEC records.
    #[inline]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Returns the maximum size of a UDP response that the client accepts.
    #[inline]
    pub fn udp_size(&self) -> u16 {
        self.edns.map_or(PLAIN_SIZE, |edns| edns.size)
    }

    /// Reports whether the client understands the AD flag (RFC 6840 section 5.7).
    #[inline]
    pub fn wants_ad(&self) -> bool {
        self.flags & flag::AD != 0 || self.dnssec_ok()
    }
}

/// Finds the OPT record among the `before + additional` records after the question; it may only be one of the
/// `additional`. The error is a response code.
fn read_edns(message: &[u8], mut at: usize, before: usize, additional: usize) -> Result<Option<Edns>, Rcode> {
    let mut found = None;
    // A record takes at least 11 bytes, so the message's length bounds the loop whatever counts the header has.
    for index in 0..before + additional {
        let fixed = name::skip(message, at).ok_or(rcode::FORMERR)?;
        let kind = u16_at(message, fixed).ok_or(rcode::FORMERR)?;
        let length = usize::from(u16_at(message, fixed + 8).ok_or(rcode::FORMERR)?);
        let end = fixed + 10 + length;
        if end > message.len() {
            return Err(rcode::FORMERR);
        }
        if rtype::OPT == kind.into() {
            // RFC 6891 section 6.1.1: one OPT at most, owned by the root, in the additional section.
            if found.is_some() || fixed != at + 1 || index < before {
                return Err(rcode::FORMERR);
            }
            found = Some((fixed, end));
        }
        at = end;
    }
    let Some((fixed, end)) = found else { return Ok(None) };
    let opt = message.get(fixed..end).ok_or(rcode::FORMERR)?;
    if opt.get(5) != Some(&0) {
        return Err(rcode::BADVERS);
    }
    let mut asks = RequestBits::default();
    let mut options = opt.get(10..).unwrap_or_default();
    while !options.is_empty() {
        let code = u16_at(options, 0).ok_or(rcode::FORMERR)?;
        let length = usize::from(u16_at(options, 2).ok_or(rcode::FORMERR)?);
        asks.0 |= RequestBits::of_code(code).0;
        options = options.get(4 + length..).ok_or(rcode::FORMERR)?;
    }
    let size = u16_at(opt, 2).unwrap_or_default().max(PLAIN_SIZE);
    Ok(Some(Edns { size, dnssec_ok: opt.get(6).is_some_and(|byte| byte & 0x80 != 0), asks }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    /// Returns a query for `a.` with these flags, counts, type and class; `tail` follows the question.
    fn packet(flags: u16, counts: [u16; 4], qtype: RrType, qclass: u16, tail: &[u8]) -> Vec<u8> {
        let words = [0x1234, flags].into_iter().chain(counts);
        let mut packet: Vec<u8> = words.flat_map(u16::to_be_bytes).collect();
        packet.extend(b"\x01A\x00");
        packet.extend([qtype.into(), qclass].into_iter().flat_map(u16::to_be_bytes));
        packet.extend(tail);
        packet
    }

    fn opt_with(at: usize, byte: u8) -> Vec<u8> {
        let mut opt = OPT.to_vec();
        opt[at] = byte;
        opt
    }

    #[test]
    fn plain_and_with_edns() {
        let bytes = packet(flag::RD, [1, 0, 0, 0], rtype::A, class::IN, &[]);
        let query = Query::read(&bytes).expect("plain");
        assert_eq!((query.id, query.qtype, query.qclass, query.edns), (0x1234, rtype::A, class::IN, None));
        assert_eq!((query.name(), query.udp_size(), query.wants_ad()), (&b"\x01A\x00"[..], 512, false));

        let bytes = packet(flag::RD, [1, 0, 0, 1], rtype::A, class::IN, OPT);
        let query = Query::read(&bytes).expect("with EDNS");
        assert_eq!(query.edns, Some(Edns { size: 1232, dnssec_ok: true, asks: RequestBits::default() }));
        assert!(query.wants_ad());

        let keepalive = [&opt_with(10, 4)[..], b"\x00\x0b\x00\x00"].concat();
        let bytes = packet(0, [1, 0, 0, 1], rtype::A, class::IN, &keepalive);
        assert!(
            Query::read(&bytes).is_ok_and(|query| query.edns.is_some_and(|edns| edns.asks.has(RequestBits::KEEPALIVE)))
        );

        let bytes = packet(0, [1, 0, 0, 1], rtype::A, class::IN, &opt_with(3, 0));
        assert_eq!(Query::read(&bytes).map(|query| query.udp_size()).ok(), Some(512));
    }

    #[test]
    fn what_is_rejected() {
        let code = |rcode, echo, edns| Reject::Code { rcode, question_end: if echo { 19 } else { 12 }, edns };
        let two_opts = [OPT, OPT].concat();
        let (a, one, with_opt) = (rtype::A, [1, 0, 0, 0], [1, 0, 0, 1]);
        for (bytes, expected) in [
            (packet(flag::QR, one, a, 1, &[]), Reject::Silence(Dropped::Response)),
            (packet(0x2000, one, a, 1, &[]), code(rcode::NOTIMP, false, false)),
            (packet(0, [0; 4], a, 1, &[]), code(rcode::FORMERR, false, false)),
            (packet(0, [2, 0, 0, 0], a, 1, &[]), code(rcode::FORMERR, false, false)),
            (packet(0, one, a, 1, &[])[..18].to_vec(), code(rcode::FORMERR, false, false)),
            (packet(0, [1, 0, 0, 2], a, 1, &two_opts), code(rcode::FORMERR, true, false)),
            (packet(0, [1, 0, 0, 65535], a, 1, OPT), code(rcode::FORMERR, true, false)),
            (packet(0, [1, 0, 0, 1], a, 1, b"\0\0\x01\0\x01\0\0\0\0\0\x04\x01"), code(rcode::FORMERR, true, false)),
            (packet(0, [1, 1, 0, 0], a, 1, OPT), code(rcode::FORMERR, true, false)),
            (packet(0, with_opt, a, 1, &OPT[..10]), code(rcode::FORMERR, true, false)),
            (
                packet(0, with_opt, a, 1, &[&opt_with(10, 3)[..], &[0, 1, 0]].concat()),
                code(rcode::FORMERR, true, false),
            ),
            (packet(0, with_opt, a, 1, &opt_with(6, 1)), code(rcode::BADVERS, true, true)),
            (packet(0, one, rtype::AXFR, 1, &[]), code(rcode::REFUSED, true, false)),
            (packet(0, with_opt, rtype::AXFR, 1, OPT), code(rcode::REFUSED, true, true)),
            (packet(0, one, rtype::OPT, 1, &[]), code(rcode::FORMERR, true, false)),
            (packet(0, with_opt, rtype::TSIG, 1, OPT), code(rcode::NOTIMP, true, true)),
            (packet(0, one, a, class::ANY, &[]), code(rcode::NOTIMP, true, false)),
        ] {
            assert_eq!(Query::read(&bytes).map(|_| ()), Err(expected), "{bytes:02x?}");
        }
        assert_eq!(Query::read(&[0; 11]).map(|_| ()), Err(Reject::Silence(Dropped::Short)));
    }

    #[test]
    fn what_is_retained_gets_the_same_response() {
        let padding = [&[0, 12, 0, 200][..], &[0; 200]].concat();
        let keepalive = [0, 11, 0, 0];
        for options in [&[][..], &keepalive, &padding, &[&padding[..], &keepalive].concat()] {
            let mut opt = vec![0, 0, 41, 0x10, 0, 0, 0, 0x80, 0];
            opt.extend_from_slice(&(options.len() as u16).to_be_bytes());
            opt.extend_from_slice(options);
            let long = packet(flag::RD | flag::CD, [1, 0, 0, 1], rtype::A, 1, &opt);
            let query = Query::read(&long).expect("a query");
            let short = query.retained();
            assert_eq!(
                short.len(),
                query.question_end
                    + if query.edns.is_some_and(|edns| edns.asks.has(RequestBits::KEEPALIVE)) { 15 } else { 11 }
            );
            let again = Query::read(&short).expect("a query");
            assert_eq!((again.id, again.flags, again.edns), (query.id, query.flags, query.edns));
            assert_eq!(again.question(), query.question());
        }
        let plain = packet(flag::RD, [1, 0, 0, 0], rtype::A, 1, &[]);
        assert_eq!(*Query::read(&plain).expect("a query").retained(), plain[..]);
    }
}

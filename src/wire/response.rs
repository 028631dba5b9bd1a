//! Responses of servers, parsed in place: completeness, meaning, offsets of TTLs.

pub use super::record::{Record, Section};

use super::name::{self, MAX_NAME};
use super::{HEADER, LONGEST_MESSAGE, Rcode, RrType, option, rtype, u16_at, u32_at};

/// Maximum size in bytes of the extended errors kept of a response: a few codes with a sentence each, so that they
/// cannot displace the answer.
const MOST_EXTENDED_ERRORS: usize = 256;

/// A compressed name that is only a pointer to the question's name.
const TO_QUESTION: u16 = 0xc000 | HEADER as u16;

/// Maximum number of CNAMEs followed in one response; real chains have a few, those of content networks up to 18.
pub const LONGEST_CHAIN: usize = 24;

/// A complete, well-formed response.
#[derive(Debug)]
pub struct ResponseMessage<'a> {
    /// The whole message, as the server sent it.
    pub message: &'a [u8],
    /// Bytes 2 and 3 of the header.
    pub flags: u16,
    /// Response code, with the upper bits from OPT.
    pub rcode: Rcode,
    /// Offset of the end of the question.
    pub question_end: usize,
    /// All records but OPT, in order.
    pub records: Vec<Record>,
    /// Range of the OPT record, owner included.
    pub opt: Option<(usize, usize)>,
    /// Extended errors from OPT, as whole options (RFC 8914).
    pub extended_errors: Vec<u8>,
}

/// Error: the response is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response is malformed")]
pub struct MalformedResponse;

/// Kind of an answer, as in RFC 2308.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// Records that answer the question, possibly at the end of a chain of CNAMEs.
    Positive,
    /// The name, or the end of its chain of CNAMEs, has no records of the type. An SOA record confirms this. Without
    /// one the response may be a referral or incomplete, and must not be cached (RFC 2308 section 5).
    NoData,
    /// The name does not exist.
    NxDomain,
}

impl<'a> ResponseMessage<'a> {
    /// Parses a response completely.
    ///
    /// # Errors
    /// [`MalformedResponse`] if the message is too long, the question or a record extends past the end, the number of
    /// questions is not one, a name is malformed, there are two OPT records, or OPT is misplaced.
    pub fn read(message: &'a [u8]) -> Result<Self, MalformedResponse> {
        let word = |at| u16_at(message, at).ok_or(MalformedResponse);
        let flags = word(2)?;
        if message.len() > LONGEST_MESSAGE || word(4)? != 1 {
            return Err(MalformedResponse);
        }
        let question_end =
            HEADER + name::plain_len(message.get(HEADER..).ok_or(MalformedResponse)?).ok_or(MalformedResponse)? + 4;
        if question_end > message.len() {
            return Err(MalformedResponse);
        }
        let counts = [word(6)?, word(8)?, word(10)?];
        let mut response = Self {
            message,
            flags,
            rcode: Rcode::of_flags(flags),
            question_end,
            records: Vec::with_capacity(counts.iter().map(|c| usize::from(*c)).sum::<usize>().min(message.len() / 11)),
            opt: None,
            extended_errors: Vec::new(),
        };
        let mut at = question_end;
        for (section, count) in [Section::Answer, Section::Authority, Section::Additional].into_iter().zip(counts) {
            for _ in 0..count {
                let record = Record::read(message, at, section).ok_or(MalformedResponse)?;
                match record.rtype {
                    rtype::OPT => response.read_opt(record)?,
                    _ => response.records.push(record),
                }
                at = record.end;
            }
        }
        Ok(response)
    }

    fn read_opt(&mut self, record: Record) -> Result<(), MalformedResponse> {
        if self.opt.is_some() || record.section != Section::Additional || record.fixed != record.start + 1 {
            return Err(MalformedResponse);
        }
        self.opt = Some((record.start, record.end));
        self.rcode = self.rcode.with_opt_bits(self.message.get(record.ttl_at()).copied().unwrap_or(0));
        let mut options = record.rdata(self.message);
        while let (Some(code), Some(length)) = (u16_at(options, 0), u16_at(options, 2)) {
            let end = 4 + usize::from(length);
            let Some(whole) = options.get(..end) else { break };
            if code == option::EDE && length >= 2 && self.extended_errors.len() + end <= MOST_EXTENDED_ERRORS {
                self.extended_errors.extend_from_slice(whole);
            }
            options = &options[end..];
        }
        Ok(())
    }

    /// Returns the type in the question.
    pub fn qtype(&self) -> RrType {
        u16_at(self.message, self.question_end - 4).map_or(rtype::RESERVED, RrType::from)
    }

    /// Returns the class in the question.
    pub fn qclass(&self) -> u16 {
        u16_at(self.message, self.question_end - 2).unwrap_or_default()
    }

    /// Reports whether the RDATA of all records is valid for their type, as far as a forwarder supports it: addresses
    /// have their length, and names are complete and fill their RDATA.
    pub fn is_sound(&self) -> bool {
        self.records.iter().all(|record| record.is_sound(self.message))
    }

    /// Reports whether the answers belong to another question: none has the question's name, or none has its class and
    /// its type or is an alias. Also true for NXDOMAIN with data of the question's name and type.
    pub fn answers_something_else(&self) -> bool {
        let (qname, qtype) = (self.qname(), self.qtype());
        let answers = || self.section(Section::Answer);
        if answers().next().is_none() {
            return false;
        }
        let is_of_the_name = answers().any(|record| self.owner_is(record, qname));
        if !is_of_the_name && self.dname_above(&qname.to_ascii_lowercase()).is_none() {
            return true;
        }
        let is_alias = |record: &Record| matches!(record.rtype, rtype::CNAME | rtype::DNAME);
        let answers_type = |record: &Record| record.rtype == qtype || qtype == rtype::ANY || is_alias(record);
        let is_contrary = |record: &Record| {
            self.rcode == super::rcode::NXDOMAIN && record.rtype == qtype && self.owner_is(record, qname)
        };
        !answers().any(|record| self.is_asked_class(record) && answers_type(record))
            || !matches!(qtype, rtype::CNAME | rtype::DNAME) && answers().any(is_contrary)
    }

    /// Reports whether the response is a referral: no answers, no SOA record, NS records in the authority section.
    pub fn is_referral(&self) -> bool {
        let is_ns = |record: &Record| record.section == Section::Authority && record.rtype == rtype::NS;
        self.rcode == super::rcode::NOERROR
            && u16_at(self.message, 6) == Some(0)
            && self.soa().is_none()
            && self.records.iter().any(is_ns)
    }

    /// Returns the records of one section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.section == section)
    }

    /// Returns the CNAME record of `name`.
    pub fn alias_of(&self, name: &[u8]) -> Option<&Record> {
        self.section(Section::Answer)
            .find(|record| record.rtype == rtype::CNAME && self.is_asked_class(record) && self.owner_is(record, name))
    }

    /// Returns the DNAME record of a name above `name` (RFC 6672).
    pub fn dname_above(&self, name: &[u8]) -> Option<&Record> {
        self.section(Section::Answer).find(|record| {
            record.rtype == rtype::DNAME
                && self.is_asked_class(record)
                && name::suffixes(name).skip(1).any(|above| self.owner_is(record, above))
        })
    }

    /// Returns the RRSIG records in the answer section for this owner and type.
    pub fn signatures(&self, owner: &[u8], covered: RrType) -> impl Iterator<Item = &Record> {
        self.section(Section::Answer).filter(move |record| {
            record.rtype == rtype::RRSIG
                && u16_at(record.rdata(self.message), 0).map(RrType::from) == Some(covered)
                && self.owner_is(record, owner)
        })
    }

    /// Returns the name in the question, in the letter case of the response.
    pub fn qname(&self) -> &'a [u8] {
        self.message.get(HEADER..self.question_end - 4).unwrap_or_default()
    }

    /// Reports whether the answers may hold a chain of CNAMEs from the question's name; false for most responses.
    pub fn may_lead_on(&self) -> bool {
        !matches!(self.qtype(), rtype::CNAME | rtype::ANY)
            && self.section(Section::Answer).any(|record| record.rtype == rtype::CNAME)
    }

    /// Returns the kind of the answer.
    pub fn kind(&self) -> AnswerKind {
        // In a response with CNAMEs, NXDOMAIN applies to the end of the chain (RFC 6604).
        if self.rcode == super::rcode::NXDOMAIN {
            return AnswerKind::NxDomain;
        }
        match self.may_lead_on() {
            true => self.kind_at(&self.chain().1),
            false => self.kind_at(self.qname()),
        }
    }

    /// Returns the kind for the name `end`, the end of the chain of CNAMEs: positive or no data.
    fn kind_at(&self, end: &[u8]) -> AnswerKind {
        let qtype = self.qtype();
        let answers = |record: &Record| {
            (qtype == rtype::ANY || record.rtype == qtype) && self.is_asked_class(record) && self.owner_is(record, end)
        };
        if self.section(Section::Answer).any(answers) { AnswerKind::Positive } else { AnswerKind::NoData }
    }

    /// Returns the SOA record of a negative answer (RFC 2308).
    pub fn soa(&self) -> Option<&Record> {
        self.section(Section::Authority).find(|record| record.rtype == rtype::SOA && self.is_asked_class(record))
    }

    /// Returns the TTL of a negative answer: the lower of the SOA record's TTL and its MINIMUM field.
    pub fn negative_ttl(&self) -> Option<u32> {
        // At least two names of one byte and five 32-bit numbers.
        let soa = self.soa().filter(|soa| soa.rdata(self.message).len() >= 22)?;
        let minimum = u32_at(self.message, soa.end - 4)?;
        Some(soa.ttl(self.message).min(minimum))
    }

    /// Follows the CNAMEs from the question's name. Returns the records in order, and the name at the end in lower
    /// case.
    ///
    /// Each record is followed once, and at most `LONGEST_CHAIN` are, so loops and long chains are harmless.
    pub fn chain(&self) -> (Vec<Record>, Vec<u8>) {
        let mut buffer = [0; MAX_NAME];
        let mut here = self.qname().to_ascii_lowercase();
        let mut links: Vec<Record> = Vec::new();
        if !self.may_lead_on() {
            return (links, here);
        }
        while links.len() < LONGEST_CHAIN {
            let leads_on = |record: &&Record| {
                record.rtype == rtype::CNAME
                    && self.is_asked_class(record)
                    && !links.contains(record)
                    && self.owner_is(record, &here)
            };
            let Some(link) = self.section(Section::Answer).find(leads_on) else { break };
            // Readers disagree about a name that does not fill its RDATA exactly.
            let whole = name::skip(self.message, link.rdata_at()) == Some(link.end);
            let Some(len) = name::expand(self.message, link.rdata_at(), &mut buffer).filter(|_| whole) else { break };
            links.push(*link);
            here = buffer[..len].to_ascii_lowercase();
        }
        (links, here)
    }

    /// Reports whether the owner of `record` is `name` (lower-case wire form).
    pub fn owner_is(&self, record: &Record, name: &[u8]) -> bool {
        // Most owners are a pointer to the question.
        if u16_at(self.message, record.start) == Some(TO_QUESTION) {
            return self.qname().eq_ignore_ascii_case(name);
        }
        let mut buffer = [0; MAX_NAME];
        name::expand(self.message, record.start, &mut buffer)
            .is_some_and(|len| buffer[..len].eq_ignore_ascii_case(name))
    }

    /// Reports whether the class of `record` is that of the question; a record of another class answers nothing.
    fn is_asked_class(&self, record: &Record) -> bool {
        record.class(self.message) == self.qclass()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{class, flag, rcode};

    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x01\x00\x00\x00\x00\x00";
    const SOA_RDATA: &[u8] = b"\x00\x00\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x3c";

    /// Returns a record with an owner in wire form.
    fn record(owner: &[u8], rtype: RrType, class: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
        let mut bytes = owner.to_vec();
        bytes.extend([rtype.into(), class].into_iter().flat_map(u16::to_be_bytes));
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((rdata.len() as u16).to_be_bytes());
        bytes.extend(rdata);
        bytes
    }

    /// Returns a response to `a. A` with the records of its sections.
    fn response(rcode: Rcode, sections: [&[Vec<u8>]; 3]) -> Vec<u8> {
        let counts = sections.map(|section| section.len() as u16);
        let words = [0, flag::QR | rcode.header_bits(), 1].into_iter().chain(counts);
        let mut bytes: Vec<u8> = words.flat_map(u16::to_be_bytes).collect();
        bytes.extend(b"\x01a\x00\x00\x01\x00\x01");
        bytes.extend(sections.concat().concat());
        bytes
    }

    #[test]
    fn a_question_cut_short_is_mangled() {
        let whole = response(rcode::NOERROR, [&[], &[], &[]]);
        assert!(ResponseMessage::read(&whole).is_ok());
        for len in 0..whole.len() {
            assert_eq!(ResponseMessage::read(&whole[..len]).map(|_| ()), Err(MalformedResponse), "{len} bytes");
        }
    }

    #[test]
    fn kinds() {
        let a = record(b"\x01A\x00", rtype::A, class::IN, 9, &[1, 2, 3, 4]);
        let of_b = record(b"\x01b\x00", rtype::A, class::IN, 9, &[1, 2, 3, 4]);
        let chaos = record(b"\x01a\x00", rtype::A, class::CH, 9, &[1, 2, 3, 4]);
        let to_b = record(b"\xc0\x0c", rtype::CNAME, class::IN, 9, b"\x01B\x00");
        let overlong = record(b"\xc0\x0c", rtype::CNAME, class::IN, 9, b"\x01b\x00\x00");
        let soa = record(b"\x00", rtype::SOA, class::IN, 300, SOA_RDATA);
        let stub_soa = record(b"\x00", rtype::SOA, class::IN, 300, &SOA_RDATA[..21]);
        let ns = record(b"\x00", rtype::NS, class::IN, 300, b"\x01b\x00");
        for (what, rcode, answers, authorities, kind, negative_ttl) in [
            ("an answer", 0, vec![&a], vec![], AnswerKind::Positive, None),
            ("an answer with the zone's servers", 0, vec![&a], vec![&ns], AnswerKind::Positive, None),
            ("an alias and its answer", 0, vec![&to_b, &of_b], vec![], AnswerKind::Positive, None),
            ("the other way round", 0, vec![&of_b, &to_b], vec![], AnswerKind::Positive, None),
            ("no data", 0, vec![], vec![&soa], AnswerKind::NoData, Some(60)),
            ("no data behind an alias", 0, vec![&to_b], vec![&soa], AnswerKind::NoData, Some(60)),
            ("no such name", 3, vec![], vec![&soa], AnswerKind::NxDomain, Some(60)),
            ("no such name behind an alias", 3, vec![&to_b], vec![&soa], AnswerKind::NxDomain, Some(60)),
            ("a referral", 0, vec![], vec![&ns], AnswerKind::NoData, None),
            ("an alias alone", 0, vec![&to_b], vec![], AnswerKind::NoData, None),
            ("nothing", 0, vec![], vec![], AnswerKind::NoData, None),
            ("somebody else's address", 0, vec![&of_b], vec![], AnswerKind::NoData, None),
            ("another class", 0, vec![&chaos], vec![], AnswerKind::NoData, None),
            ("an alias whose length is wrong", 0, vec![&overlong, &of_b], vec![], AnswerKind::NoData, None),
            ("a SOA that is too short", 3, vec![], vec![&stub_soa], AnswerKind::NxDomain, None),
        ] {
            let [answers, authorities] = [answers, authorities].map(|r| r.into_iter().cloned().collect::<Vec<_>>());
            let bytes = response(Rcode::from(rcode), [&answers, &authorities, &[]]);
            let response = ResponseMessage::read(&bytes).expect(what);
            assert_eq!((response.kind(), response.negative_ttl()), (kind, negative_ttl), "{what}");
        }
    }

    #[test]
    fn chains_are_bounded() {
        let to_itself = record(b"\xc0\x0c", rtype::CNAME, class::IN, 9, b"\xc0\x0c");
        let bytes = response(rcode::NOERROR, [&vec![to_itself; 4000], &[], &[]]);
        assert_eq!(ResponseMessage::read(&bytes).expect("a loop").chain().0.len(), LONGEST_CHAIN);

        let names: Vec<[u8; 3]> = (b'a'..=b'z').map(|letter| [1, letter, 0]).collect();
        let links: Vec<Vec<u8>> =
            names.windows(2).map(|pair| record(&pair[0], rtype::CNAME, class::IN, 9, &pair[1])).collect();
        for (links, followed) in [(&links[..3], 3), (&links, LONGEST_CHAIN)] {
            let bytes = response(rcode::NOERROR, [links, &[], &[]]);
            let (found, end) = ResponseMessage::read(&bytes).expect("a chain").chain();
            assert_eq!((found.len(), &end[..]), (followed, &names[followed][..]));
        }
    }

    #[test]
    fn the_response_code_has_twelve_bits() {
        let bytes = response(rcode::NOERROR, [&[], &[], &[OPT.to_vec()]]);
        assert_eq!(ResponseMessage::read(&bytes).map(|response| response.rcode), Ok(rcode::BADVERS));
        for twice in [[&[][..], &[], &[OPT.to_vec(), OPT.to_vec()]], [&[OPT.to_vec()], &[], &[]]] {
            assert_eq!(ResponseMessage::read(&response(rcode::NOERROR, twice)).map(|_| ()), Err(MalformedResponse));
        }
    }

    #[test]
    fn extended_errors_are_kept_up_to_a_limit() {
        let option =
            |text: usize| [&b"\x00\x0f"[..], &(text as u16 + 2).to_be_bytes(), &[0, 22], &vec![b'x'; text]].concat();
        let opt = |options: &[u8]| record(b"\x00", rtype::OPT, 1232, 0, options);
        for (options, cached_message) in [
            (option(10), 16),
            ([option(0), option(100)].concat(), 112),
            ([option(400), option(5)].concat(), 11),
            (b"\x00\x0f\x00\x01\x00\x00\x0a\x00\x02\x00\x00".to_vec(), 0), // without a code; a cookie
            (b"\x00\x0f\x00\x09\x00".to_vec(), 0),
        ] {
            let bytes = response(rcode::NOERROR, [&[], &[], &[opt(&options)]]);
            assert_eq!(
                ResponseMessage::read(&bytes).map(|response| response.extended_errors.len()),
                Ok(cached_message),
                "{options:02x?}"
            );
        }
    }
}

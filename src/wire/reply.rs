//! What an upstream answered, read where it lies: is it whole, what does it say, where do its TTLs lie.

use super::name::{self, MAX_NAME};
use super::{HEADER, flag, option, rtype, u16_at, u32_at};

/// A whole, readable reply.
#[derive(Debug)]
pub struct Reply<'a> {
    /// The message.
    pub message: &'a [u8],
    /// Bytes 2 and 3 of the header.
    pub flags: u16,
    /// The response code, with the OPT record's upper bits.
    pub rcode: u16,
    /// Where the question ends.
    pub question_end: usize,
    /// Every record but OPT, in order.
    pub records: Vec<Record>,
    /// Where the OPT record lies, from its owner to its end.
    pub opt: Option<(usize, usize)>,
    /// The extended errors that OPT carried, as whole options ready to be sent again (RFC 8914).
    pub extended_errors: Vec<u8>,
}

/// Where one record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which section it is in.
    pub section: Section,
    /// Its first byte: the owner.
    pub start: usize,
    /// Its type's first byte; class, TTL and RDLENGTH follow.
    pub fixed: usize,
    /// Its end.
    pub end: usize,
    /// Its type.
    pub rtype: u16,
}

/// A section of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

/// The reply's bytes do not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reply is mangled")]
pub struct Mangled;

impl Record {
    /// The offset of the TTL's four bytes.
    pub fn ttl_at(&self) -> usize {
        self.fixed + 4
    }

    /// The TTL in seconds; one with the top bit set counts as zero (RFC 2181 section 8).
    pub fn ttl(&self, message: &[u8]) -> u32 {
        u32_at(message, self.ttl_at()).filter(|ttl| *ttl <= i32::MAX as u32).unwrap_or(0)
    }

    /// The class.
    pub fn class(&self, message: &[u8]) -> u16 {
        u16_at(message, self.fixed + 2).unwrap_or_default()
    }

    /// The RDATA.
    pub fn rdata<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.rdata_at()..self.end).unwrap_or_default()
    }

    /// Where the RDATA begins.
    pub fn rdata_at(&self) -> usize {
        self.fixed + 10
    }
}

/// What an answer says, as RFC 2308 tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Records that answer the question, or a referral that nobody asked for.
    Positive,
    /// The name exists, but has no such record.
    NoData,
    /// The name does not exist.
    NxDomain,
}

impl<'a> Reply<'a> {
    /// Reads a reply to its last byte.
    ///
    /// # Errors
    /// [`Mangled`] if a record reaches past the end, a name is malformed, or there are two OPT records.
    pub fn read(message: &'a [u8]) -> Result<Self, Mangled> {
        let word = |at| u16_at(message, at).ok_or(Mangled);
        let flags = word(2)?;
        if message.len() < HEADER || word(4)? != 1 {
            return Err(Mangled);
        }
        let question_end = HEADER + name::plain_len(message.get(HEADER..).ok_or(Mangled)?).ok_or(Mangled)? + 4;
        let counts = [word(6)?, word(8)?, word(10)?];
        let mut reply = Self {
            message,
            flags,
            rcode: flags & flag::RCODE,
            question_end,
            records: Vec::with_capacity(counts.iter().map(|c| usize::from(*c)).sum::<usize>().min(message.len() / 11)),
            opt: None,
            extended_errors: Vec::new(),
        };
        let mut at = question_end;
        for (section, count) in [Section::Answer, Section::Authority, Section::Additional].into_iter().zip(counts) {
            for _ in 0..count {
                let fixed = name::skip(message, at).ok_or(Mangled)?;
                let rtype = word(fixed)?;
                let end = fixed + 10 + usize::from(word(fixed + 8)?);
                if end > message.len() {
                    return Err(Mangled);
                }
                let record = Record { section, start: at, fixed, end, rtype };
                match rtype {
                    rtype::OPT => reply.read_opt(record)?,
                    _ => reply.records.push(record),
                }
                at = end;
            }
        }
        Ok(reply)
    }

    fn read_opt(&mut self, record: Record) -> Result<(), Mangled> {
        if self.opt.is_some() || record.section != Section::Additional || record.fixed != record.start + 1 {
            return Err(Mangled);
        }
        self.opt = Some((record.start, record.end));
        self.rcode |= u16::from(self.message.get(record.ttl_at()).copied().unwrap_or(0)) << 4;
        let mut options = record.rdata(self.message);
        while let (Some(code), Some(length)) = (u16_at(options, 0), u16_at(options, 2)) {
            let end = 4 + usize::from(length);
            let Some(whole) = options.get(..end) else { break };
            if code == option::EDE && length >= 2 {
                self.extended_errors.extend_from_slice(whole);
            }
            options = &options[end..];
        }
        Ok(())
    }

    /// The type asked for.
    pub fn qtype(&self) -> u16 {
        u16_at(self.message, self.question_end - 4).unwrap_or_default()
    }

    /// Records of one section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.section == section)
    }

    /// Positive, no data or no such name.
    pub fn kind(&self) -> Kind {
        let chain_end = self.chain().1;
        let qtype = self.qtype();
        let has = |wanted: u16| {
            self.section(Section::Answer)
                .any(|record| (wanted == rtype::ANY || record.rtype == wanted) && self.owner_is(record, &chain_end))
        };
        if self.rcode == super::rcode::NXDOMAIN {
            Kind::NxDomain
        } else if has(qtype) || (self.soa().is_none() && self.records.iter().any(|r| r.section != Section::Additional))
        {
            Kind::Positive
        } else {
            Kind::NoData
        }
    }

    /// The SOA record of a negative answer (RFC 2308).
    pub fn soa(&self) -> Option<&Record> {
        self.section(Section::Authority).find(|record| record.rtype == rtype::SOA)
    }

    /// The time to live that a negative answer has by its SOA: the lesser of its TTL and its MINIMUM field.
    pub fn negative_ttl(&self) -> Option<u32> {
        let soa = self.soa()?;
        let minimum = u32_at(self.message, soa.end.checked_sub(4)?)?;
        Some(soa.ttl(self.message).min(minimum))
    }

    /// Follows the CNAMEs from the question's name: the records in order, and the lower-case name that they end at.
    ///
    /// The chain ends at a name seen before, so a loop is no trap.
    pub fn chain(&self) -> (Vec<Record>, Vec<u8>) {
        let mut buffer = [0; MAX_NAME];
        let mut here = self.message.get(HEADER..self.question_end - 4).unwrap_or_default().to_ascii_lowercase();
        let mut links: Vec<Record> = Vec::new();
        if self.qtype() == rtype::CNAME || self.qtype() == rtype::ANY {
            return (links, here);
        }
        while let Some(link) = self
            .section(Section::Answer)
            .find(|record| record.rtype == rtype::CNAME && !links.contains(record) && self.owner_is(record, &here))
        {
            let Some(len) = name::expand(self.message, link.rdata_at(), &mut buffer) else { break };
            here = buffer[..len].to_ascii_lowercase();
            links.push(*link);
        }
        (links, here)
    }

    /// Whether a record's owner is `name` (lower-case wire form).
    pub fn owner_is(&self, record: &Record, name: &[u8]) -> bool {
        let mut buffer = [0; MAX_NAME];
        name::expand(self.message, record.start, &mut buffer)
            .is_some_and(|len| buffer[..len].eq_ignore_ascii_case(name))
    }
}

/// Offsets, within RDATA, of the names that may be compressed there (RFC 3597 section 4), for the types that have them.
///
/// Given as the number of bytes before the first name and how many names follow one another.
pub fn rdata_names(rtype: u16) -> Option<(usize, usize)> {
    match rtype {
        // NS MD MF CNAME MB MG MR PTR and DNAME (not to be compressed, but seen so)
        2 | 3 | 4 | 5 | 7 | 8 | 9 | 12 | 39 => Some((0, 1)),
        // SOA MINFO RP
        6 | 14 | 17 => Some((0, 2)),
        // MX AFSDB RT KX
        15 | 18 | 21 | 36 => Some((2, 1)),
        // PX
        26 => Some((2, 2)),
        // SRV
        33 => Some((6, 1)),
        _ => None,
    }
}

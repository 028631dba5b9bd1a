//! Offsets of one record in a message, and properties that do not depend on its type.

use super::name::{self, MAX_NAME};
use super::{RrType, class, rtype, u16_at, u32_at};

/// Offsets of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Section of the record.
    pub section: Section,
    /// Offset of the owner, the first byte of the record.
    pub start: usize,
    /// Offset of the type; class, TTL and RDLENGTH follow.
    pub fixed: usize,
    /// Offset of the end.
    pub end: usize,
    /// Type of the record.
    pub rtype: RrType,
}

/// A section of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

impl Record {
    /// Reads the record whose owner begins at `at`; `None` if it is malformed or extends past the end of `message`.
    #[inline]
    pub fn read(message: &[u8], at: usize, section: Section) -> Option<Self> {
        let fixed = name::skip(message, at)?;
        let rtype = RrType::from(u16_at(message, fixed)?);
        let end = fixed + 10 + usize::from(u16_at(message, fixed + 8)?);
        (end <= message.len()).then_some(Self { section, start: at, fixed, end, rtype })
    }

    /// Returns the offset of the four bytes of the TTL.
    pub fn ttl_at(&self) -> usize {
        self.fixed + 4
    }

    /// Returns the TTL in seconds. A TTL with the top bit set is a very large value (RFC 8767 section 4, which replaces
    /// RFC 2181 section 8 here); the cache caps it.
    pub fn ttl(&self, message: &[u8]) -> u32 {
        u32_at(message, self.ttl_at()).unwrap_or(0)
    }

    /// Returns the class.
    pub fn class(&self, message: &[u8]) -> u16 {
        u16_at(message, self.fixed + 2).unwrap_or_default()
    }

    /// Returns the RDATA.
    pub fn rdata<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.rdata_at()..self.end).unwrap_or_default()
    }

    /// Returns the offset of the RDATA.
    pub fn rdata_at(&self) -> usize {
        self.fixed + 10
    }

    /// Reports whether the RDATA is valid for its type, as far as the type is supported: addresses have their length,
    /// names are complete, strings fill the RDATA, and no bytes follow the last field.
    pub fn is_sound(&self, message: &[u8]) -> bool {
        let length = self.end - self.rdata_at();
        match self.rtype {
            rtype::A => return self.class(message) != class::IN || length == 4,
            rtype::AAAA => return length == 16,
            rtype::TXT => return is_strings(self.rdata(message)),
            _ => {}
        }
        let (before, names, after) = match u16::from(self.rtype) {
            // NS CNAME PTR DNAME
            2 | 5 | 12 | 39 => (0, 1, 0),
            // SOA
            6 => (0, 2, 20),
            // MX AFSDB KX
            15 | 18 | 36 => (2, 1, 0),
            // RP
            17 => (0, 2, 0),
            // SRV
            33 => (6, 1, 0),
            _ => return true,
        };
        let mut at = self.rdata_at() + before;
        for _ in 0..names {
            let mut buffer = [0; MAX_NAME];
            let next = name::skip(message, at).filter(|_| name::expand(message, at, &mut buffer).is_some());
            let Some(next) = next else { return false };
            at = next;
        }
        at + after == self.end
    }

    /// Returns the offset in `message` of the first RDATA name that may be compressed, and the number of consecutive
    /// names there (RFC 3597 section 4). `None` for types without such names, or if the RDATA is too short for its
    /// type.
    pub fn rdata_names(&self, message: &[u8]) -> Option<(usize, usize)> {
        let (before, names) = match u16::from(self.rtype) {
            // NS MD MF CNAME MB MG MR PTR, and NXT and DNAME (must not be compressed, but occur compressed)
            2 | 3 | 4 | 5 | 7 | 8 | 9 | 12 | 30 | 39 => (0, 1),
            // SOA MINFO RP
            6 | 14 | 17 => (0, 2),
            // MX AFSDB RT KX
            15 | 18 | 21 | 36 => (2, 1),
            // SIG
            24 => (18, 1),
            // PX
            26 => (2, 2),
            // SRV
            33 => (6, 1),
            // NAPTR: two numbers and three strings before the name
            35 => {
                let mut at = 4;
                for _ in 0..3 {
                    at += 1 + usize::from(*self.rdata(message).get(at)?);
                }
                (at, 1)
            }
            _ => return None,
        };
        Some((self.rdata_at() + before, names)).filter(|(at, _)| *at < self.end)
    }

    /// Returns the offsets of the record's names: the owner, and the names of [`Record::rdata_names`].
    pub fn names(&self, message: &[u8]) -> impl Iterator<Item = usize> {
        let (first, count) = self.rdata_names(message).unwrap_or((self.end, 0));
        let mut at = Some(first);
        let inside = (0..count).map_while(move |_| {
            let here = at?;
            at = name::skip(message, here).filter(|next| *next <= self.end);
            at.map(|_| here)
        });
        std::iter::once(self.start).chain(inside)
    }
}

/// Reports whether the RDATA is a sequence of one or more length-prefixed strings.
fn is_strings(mut rdata: &[u8]) -> bool {
    if rdata.is_empty() {
        return false;
    }
    while let Some((length, rest)) = rdata.split_first() {
        let Some(rest) = rest.get(usize::from(*length)..) else { return false };
        rdata = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_rdata() {
        let soa = [&b"\x00\x00"[..], &[0; 20]].concat();
        for (rtype, rdata, expected) in [
            (rtype::MX, &b"\x00\x0a\x01m\x00"[..], Some((2, 1))),
            (rtype::SOA, &soa, Some((0, 2))),
            (RrType::from(35), b"\x00\x01\x00\x02\x01u\x00\x02xy\x01r\x00", Some((10, 1))),
            (RrType::from(35), b"\x00\x01\x00\x02\x09u", None),
            (rtype::SRV, b"\x00\x01", None),
            (rtype::TXT, b"\x01x", None),
        ] {
            // The owner is the root; type, class, TTL and length follow.
            let message = [&[0; 11][..], rdata].concat();
            let record = Record { section: Section::Answer, start: 0, fixed: 1, end: message.len(), rtype };
            let found = record.rdata_names(&message).map(|(at, names)| (at - record.rdata_at(), names));
            assert_eq!(found, expected, "type {rtype}");
        }
    }

    #[test]
    fn rdata_that_its_type_does_not_allow() {
        let soa = [&b"\x00\x00"[..], &[0; 20]].concat();
        for (rtype, rdata, sound) in [
            (rtype::A, &[192, 0, 2, 1][..], true),
            (rtype::A, &[192, 0, 2], false),
            (rtype::A, &[], false),
            (rtype::AAAA, &[0; 16], true),
            (rtype::AAAA, &[0; 4], false),
            (rtype::CNAME, b"\x01a\x00", true),
            (rtype::CNAME, b"\x01a\x00\x00", false),
            (rtype::CNAME, b"\x02a", false),
            (rtype::MX, b"\x00\x0a\x01m\x00", true),
            (rtype::MX, b"\x00", false),
            (rtype::SRV, b"\0\0\0\0\0\x35\x01s\x00", true),
            (rtype::SRV, b"\0\0\0\0\0\x35", false),
            (rtype::SOA, &soa, true),
            (rtype::SOA, &soa[1..], false),
            (rtype::TXT, b"\x01a\x00", true),
            (rtype::TXT, b"\x05a", false),
            (rtype::TXT, b"", false),
            (RrType::from(65_280), b"", true),
        ] {
            let mut message = [&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], rdata].concat();
            message[1..3].copy_from_slice(&rtype.to_be_bytes());
            let record = Record { section: Section::Answer, start: 0, fixed: 1, end: message.len(), rtype };
            assert_eq!(record.is_sound(&message), sound, "{rtype} {rdata:?}");
        }
    }
}

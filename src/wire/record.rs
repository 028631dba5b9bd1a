//! Where one record of a message lies, and what can be said of it without knowing its type.

use super::{RrType, u16_at, u32_at};

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
    /// The offset of the TTL's four bytes.
    pub fn ttl_at(&self) -> usize {
        self.fixed + 4
    }

    /// The TTL in seconds. One with the top bit set is a very long one (RFC 8767 section 4, which replaces RFC 2181
    /// section 8 here), for whoever keeps it to cap.
    pub fn ttl(&self, message: &[u8]) -> u32 {
        u32_at(message, self.ttl_at()).unwrap_or(0)
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

    /// Where in `message` the names begin that RDATA may hold in compressed form, and how many follow one another there
    /// (RFC 3597 section 4); none for types without such names, or if the RDATA is too short for its type.
    pub fn rdata_names(&self, message: &[u8]) -> Option<(usize, usize)> {
        let (before, names) = match u16::from(self.rtype) {
            // NS MD MF CNAME MB MG MR PTR, and NXT and DNAME (not to be compressed, but seen so)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtype;

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
}
